package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stele-wal/stele/fuzz/rot"
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
	for _, want := range []string{"| good | 1,234,567 states | 0 | 0 | 0 | 0 |\n", "| good | 1,000 | 7 | 0 | 0 |\n", "| good | 2 of 2 |\n", "good, caught: a; b\n", "power: SKIPPED, nothing was tested: not root\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if !strings.HasSuffix(out.String(), "not root\n") {
		t.Errorf("what was skipped is not the last line:\n%s", out.String())
	}
	for _, bad := range []row{{lost: 1}, {refused: 1}, {silent: 1}, {missed: []string{"x"}}, {weak: []string{"z"}}, {broken: "y"}} {
		tab := table{rows: []row{{stage: "good"}, bad, {stage: "good"}}}
		if tab.code() != exitBroken {
			t.Errorf("%+v passes", bad)
		}
	}
}

func TestWhatPowercutPrintsBecomesRows(t *testing.T) {
	rows := powerRows(strings.NewReader(`{"stage":"power ext4","states":934,"seconds":30.5,"lost":1,"refused":2,"silent":3,"note":"one excuse"}
{"stage":"power xfs","skipped":"no mkfs.xfs"}
`))
	var out bytes.Buffer
	(&table{rows: rows}).print(&out)
	if !strings.Contains(out.String(), "\npower ext4: one excuse\n") {
		t.Errorf("the table lacks the note:\n%s", &out)
	}
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

func TestToDoLessThanWasAskedIsAFailure(t *testing.T) {
	asked := map[string]int{"power": 9, "fsync": 2, "kill": 4}
	rows := func() []row {
		return []row{{stage: "power ext4", states: 5}, {stage: "power xfs", states: 4}, {stage: "fsync ext4", states: 12}, {stage: "fsync xfs", states: 12}, {stage: "kill", states: 4}}
	}
	bad := func(rows []row) bool { return (&table{rows: fewer(rows, asked)}).code() == exitBroken }
	if all := rows(); bad(all) {
		t.Errorf("all was done, and yet %+v", all)
	}
	for i := range rows() {
		less := rows()
		less[i].states--
		if !bad(less) {
			t.Errorf("%s did less, and that passes", less[i].stage)
		}
		skipped := rows()
		skipped[i].states, skipped[i].skipped = 0, "not root"
		if bad(skipped) {
			t.Errorf("%s was skipped, and fails", skipped[i].stage)
		}
	}
	if !bad(rows()[:4]) {
		t.Error("nothing was killed, and that passes")
	}
	line := row{lost: 1}
	if line.atLeast("states", 1, 2); line.weak != nil {
		t.Error("a stage that failed is said to have done too little: it ends at a failure")
	}
}

// What only breaks a stage, or makes it too small, does not show that the stage would notice.
func TestASaboteurIsCaughtByWhatIsFoundAlone(t *testing.T) {
	for _, r := range []row{{lost: 1}, {refused: 1}, {silent: 1}} {
		if !r.failed() {
			t.Errorf("%+v is not caught", r)
		}
	}
	for _, r := range []row{{broken: "x"}, {weak: []string{"x"}}, {missed: []string{"x"}}} {
		if r.failed() {
			t.Errorf("%+v is caught", r)
		}
	}
}

func TestWhatIsExcusedInALogIsSaidAndWhatMayNotBeFails(t *testing.T) {
	r := rot.Result{Counts: rot.Counts{Excused: map[rot.Excuse]int{rot.EndGone: 2}}, Logs: map[string]rot.Counts{}}
	if line := rotted("rot", r, nil); line.bad() || len(line.notes) != 1 || !strings.HasPrefix(line.notes[0], "2 not to be detected") {
		t.Errorf("%+v", line)
	}
	r.Logs["closed"] = r.Counts
	if line := rotted("rot", r, nil); !line.bad() || line.failed() {
		t.Errorf("the end of a log with a mark may be gone: %+v", line)
	}
}

func TestAStageThatHangsIsBrokenAndSaysWhere(t *testing.T) {
	told := make(chan struct{})
	hanging := stage{"hanging", func(ctx context.Context, _ *settings, _ *progress) []row {
		<-ctx.Done()
		close(told)
		return []row{{stage: "half"}}
	}}
	var out, errs bytes.Buffer
	rows, ended := watchFor(t.Context(), hanging, &settings{}, &progress{w: &out}, &errs, 0, time.Hour)
	<-told
	if ended || len(rows) != 2 || rows[0].stage != "half" || !rows[1].bad() || !strings.Contains(errs.String(), "TestAStageThatHangs") {
		t.Errorf("ended %v, %+v\n%s", ended, rows, &errs)
	}
	deaf := stage{"deaf", func(context.Context, *settings, *progress) []row {
		<-t.Context().Done() // which ends after the test
		return nil
	}}
	if rows, ended := watchFor(t.Context(), deaf, &settings{}, &progress{w: &out}, &errs, 0, 0); ended || len(rows) != 1 || !rows[0].bad() {
		t.Errorf("ended %v, %+v", ended, rows)
	}
	if short, long := (&settings{scale: 0.1}).limit(), (&settings{scale: 10}).limit(); short != stageLimit || long != 10*stageLimit {
		t.Errorf("%v and %v", short, long)
	}
}

func TestABadStageSaysHowToMeetItAgain(t *testing.T) {
	rows := []row{{stage: "a", lost: 1}, {stage: "b"}, {stage: "c", lost: 1, details: []string{"lost: x"}}}
	rows[2].replay(0, "go test -seed %d", 7)
	again(rows, "model", &settings{seed: 3, scale: 0.5, workers: 2})
	if d := rows[0].details; len(d) != 1 || !strings.Contains(d[0], "-stages model -seed 3 -scale 0.5 -workers 2") {
		t.Errorf("%q", d)
	}
	if rows[1].details != nil || rows[2].details[0] != "lost: x\n\tagain: go test -seed 7" {
		t.Errorf("%+v", rows[1:])
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
