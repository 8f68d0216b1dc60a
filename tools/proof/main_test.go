package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestTheTableSaysWhatIsBadAndWhatWasSkipped(t *testing.T) {
	var tab table
	tab.add(row{stage: "good", states: 1234567, what: "states", caught: []string{"a", "b"}, etcd: &row{states: 1000, lost: 7}})
	tab.add(row{stage: "power", skipped: "not root"})
	if tab.code() != exitHeld {
		t.Error("a table of good rows and a skipped one fails")
	}
	var out bytes.Buffer
	tab.print(&out)
	for _, want := range []string{"| good | 1,234,567 states | 0 | 0 | 0 | 0 | 1,000 | 7 | 0 | 0 | 2 of 2 |\n", "good, caught: a; b\n", "power: SKIPPED, nothing was tested: not root\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if !strings.HasSuffix(out.String(), "not root\n") {
		t.Errorf("what was skipped is not the last line:\n%s", out.String())
	}
	for _, bad := range []row{{lost: 1}, {refused: 1}, {silent: 1}, {missed: []string{"x"}}, {broken: "y"}} {
		tab := table{rows: []row{{stage: "good"}, bad, {stage: "good"}}}
		if tab.code() != exitBroken {
			t.Errorf("%+v passes", bad)
		}
	}
}

func TestWhatPowercutPrintsBecomesRows(t *testing.T) {
	rows := powerRows(strings.NewReader(`{"stage":"power ext4","states":934,"seconds":30.5,"lost":1,"refused":2,"silent":3}
{"stage":"power xfs","skipped":"no mkfs.xfs"}
`))
	if len(rows) != 2 || rows[0].stage != "power ext4" || rows[0].states != 934 || rows[0].lost != 1 || rows[0].refused != 2 || rows[0].silent != 3 || rows[1].skipped != "no mkfs.xfs" {
		t.Errorf("%+v", rows)
	}
	for _, in := range []string{"", "panic: oh\n", `{"stage":"power ext4","broken":"losetup"}`} {
		rows := powerRows(strings.NewReader(in))
		if len(rows) == 0 || !rows[len(rows)-1].bad() {
			t.Errorf("%q is not bad: %+v", in, rows)
		}
	}
}

func TestMistakesOnTheCommandLineAreUsage(t *testing.T) {
	for _, args := range [][]string{{"-stages", "modle"}, {"-scale", "0"}, {"-workers", "-1"}, {"-nonsense"}} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, &out, &errs); code != exitUsage || errs.Len() == 0 || out.Len() > 0 {
			t.Errorf("%q: code %d, %q, %q", args, code, out.String(), errs.String())
		}
	}
}

// A thousandth of what can be cut short.
func TestTheShortFormOfAStageHolds(t *testing.T) {
	for _, name := range []string{"model", "faults"} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), []string{"-stages", name, "-scale", "0.001"}, &out, &errs); code != exitHeld {
			t.Errorf("%s: code %d:\n%s%s", name, code, out.String(), errs.String())
		}
		if !strings.Contains(out.String(), "| "+name+" | ") {
			t.Errorf("%s: no row:\n%s", name, out.String())
		}
	}
}
