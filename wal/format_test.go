package wal

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"iter"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/walpb"
)

func formatFile(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// hexLines decodes a block of hex, in which each line begins with its offset, and returns offset
// and comment of each too.
func hexLines(t *testing.T, block string) (data []byte, lines []string) {
	t.Helper()
	for line := range strings.Lines(block) {
		line, comment, _ := strings.Cut(strings.TrimSpace(line), "#")
		fields := strings.Fields(line)
		if offset, err := strconv.Atoi(fields[0]); err != nil || offset != len(data) {
			t.Errorf("the line of offset %s is at %d", fields[0], len(data))
		}
		lines = append(lines, fmt.Sprintf("%d %s", len(data), strings.TrimSpace(comment)))
		b, err := hex.DecodeString(strings.Join(fields[1:], ""))
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, b...)
	}
	return data, lines
}

// formatMark returns the mark in FORMAT.md.
func formatMark(t *testing.T) []byte {
	t.Helper()
	block := regexp.MustCompile("(?s)```hex mark\n(.*?)```").FindStringSubmatch(formatFile(t))
	if block == nil {
		t.Fatal("FORMAT.md has no mark")
	}
	data, _ := hexLines(t, block[1])
	return data
}

// TestFormat decodes every block of hex in FORMAT.md: the mark is tested where it is written; each
// other is a segment, a line a frame, with its offset before it and its type and checksum after
// it.
func TestFormat(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```hex segment ([^\n]*)\n(.*?)```").FindAllStringSubmatch(formatFile(t), -1)
	if all := strings.Count(formatFile(t), "```hex"); len(blocks) < 3 || all != len(blocks)+1 {
		t.Fatalf("found %d whole blocks of %d", len(blocks), all)
	}
	for i, block := range blocks {
		data, want := hexLines(t, block[2])
		fs := crashfs.Load(map[string][]byte{"/log/" + block[1]: append(data, make([]byte, 1000)...)})
		o := &Options{FS: fs}
		var got []string
		for r, err := range Records("/log", 0, o) {
			if err != nil {
				t.Fatalf("block %d: %v", i, err)
			}
			got = append(got, fmt.Sprintf("%d %s %08x", r.Offset, r.Type, r.CRC))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("block %d: got\n%s\nwant\n%s", i, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		log, err := Replay(Records("/log", 0, o), walpb.Snapshot{})
		if err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
		if len(log.Entries) != 1 || string(log.Entries[0].Data) != "x" || string(log.Metadata) != "meta" || log.State != (walpb.HardState{Term: 1, Vote: 1}) {
			t.Errorf("block %d: %+v", i, log)
		}
	}
}

// TestWriterWritesTheBytesOfTheFormat holds the Writer to the first two blocks of FORMAT.md.
func TestWriterWritesTheBytesOfTheFormat(t *testing.T) {
	text := formatFile(t)
	for _, plain := range []bool{false, true} {
		fs := crashfs.New()
		o := &Options{FS: fs, PlainEtcd: plain, SegmentSize: 4096}
		w, err := Create("/log", []byte("meta"), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Save(walpb.HardState{Term: 1, Vote: 1}, []walpb.Entry{{Term: 1, Index: 1, Data: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
		if err := w.SaveSnapshot(walpb.Snapshot{Index: 1, Term: 1, ConfState: []byte{8, 1, 8, 2, 8, 3}}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := fs.ReadFile("/log/" + frame.SegmentName(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != 4096 {
			t.Errorf("the segment has %d bytes", len(b))
		}
		if mark, err := fs.ReadFile("/log/" + markName); err != nil || !plain && !bytes.Equal(mark, formatMark(t)) {
			t.Errorf("the mark is % x, %v", mark, err)
		}
		for r, err := range Records("/log", 0, o) {
			if err != nil {
				t.Fatal(err)
			}
			line := fmt.Sprintf("%4d  % x  # %s %08x\n", r.Offset, b[r.Offset:r.Offset+r.Size], r.Type, r.CRC)
			if !strings.Contains(text, line) {
				t.Errorf("plain %v: FORMAT.md lacks\n%s", plain, line)
			}
		}
	}
}

// combinations yields every combination of evidence.
func combinations() iter.Seq[evidence] {
	return func(yield func(evidence) bool) {
		var e evidence
		var each func(fields ...func() bool) bool
		each = func(fields ...func() bool) bool {
			if len(fields) == 0 {
				return yield(e)
			}
			for fields[0]() {
				if !each(fields[1:]...) {
					return false
				}
			}
			return true
		}
		each(values(&e.stop, contradicts), values(&e.where, inOldGap), values(&e.seed, differs), values(&e.head, yes),
			values(&e.prior, yes), values(&e.rest, yes), values(&e.ours, yes), values(&e.proof, cutOff))
	}
}

// values returns a function that sets a field to its next value, from 1 to last. After the last it
// sets it to 0, and returns false.
func values[T ~uint8](field *T, last T) func() bool {
	return func() bool {
		*field = (*field + 1) % (last + 1)
		return *field != 0
	}
}

func TestEveryCombinationOfEvidenceHasOneVerdict(t *testing.T) {
	used := make([]int, len(verdicts))
	n := 0
	for e := range combinations() {
		n++
		var rows []string
		for i := range verdicts {
			if verdicts[i].matches(e) {
				rows = append(rows, verdicts[i].because)
				used[i]++
			}
		}
		if len(rows) != 1 {
			t.Errorf("%+v: %d rows: %q", e, len(rows), rows)
		}
	}
	if n != 2*4*3*6*16 {
		t.Errorf("%d combinations", n)
	}
	for i := range verdicts {
		if used[i] == 0 {
			t.Errorf("no evidence leads to %q", verdicts[i].because)
		}
	}
}

// What must hold whatever the rows of the table are.
func TestVerdictsKeepThePromises(t *testing.T) {
	for e := range combinations() {
		v, _ := decide(e)
		switch {
		case e.stop == noFrame && e.where == inEarlier && e.rest == yes && v != Corrupt:
			t.Errorf("%+v: %v, but a segment follows something that is not good", e, v)
		case e.stop == noFrame && e.where == inLast && e.proof != noProof && v != Corrupt:
			t.Errorf("%+v: %v in spite of a proof", e, v)
		case e.stop == noFrame && e.where == inLast && e.proof == noProof && (e.head == no || e.prior == yes) && v.bad():
			t.Errorf("%+v: %v, but a crash may leave this", e, v)
		case e.stop != noFrame && !v.bad():
			t.Errorf("%+v: %v", e, v)
		}
	}
}

// TestFormatHasTheTableOfVerdicts demands the table in FORMAT.md row by row.
func TestFormatHasTheTableOfVerdicts(t *testing.T) {
	text := formatFile(t)
	answers := map[answer]string{no: "no", yes: "yes"}
	for _, r := range verdicts {
		cells := []string{
			text1(r.stop, map[stop]string{noFrame: "no good frame", contradicts: "contradiction"}),
			text1(r.where, map[where]string{inLast: "last", inEarlier: "earlier", inGap: "gap", inOldGap: "old gap"}),
			text1(r.seed, map[seed]string{unknown: "not known", fits: "fits", differs: "differs"}),
			text1(r.head, answers), text1(r.prior, answers), text1(r.rest, answers), text1(r.ours, answers),
			text1(r.proof, map[proof]string{noProof: "none", witnessed: "witness", linked: "linked", marked: "mark", whole: "whole", cutOff: "cut off"}),
			"**" + r.verdict.String() + "**: " + r.because,
		}
		if line := "| " + strings.Join(cells, " | ") + " |\n"; !strings.Contains(text, line) {
			t.Errorf("FORMAT.md lacks\n%s", line)
		}
	}
	rows := regexp.MustCompile(`(?m)^\|.*\| \*\*.*\*\*: .*\|$`).FindAllString(text, -1)
	if len(rows) != len(verdicts) {
		t.Errorf("FORMAT.md has %d rows, the table %d", len(rows), len(verdicts))
	}
}

func text1[T ~uint8](value T, words map[T]string) string {
	if value == 0 {
		return "_"
	}
	return words[value]
}

// A value that this package does not return may come from a report that another version wrote.
func TestEveryKindAndVerdictHasWords(t *testing.T) {
	seen := map[string]bool{}
	for i := range 256 {
		for _, s := range []string{Kind(i).String(), Verdict(i).String()} {
			if seen[s] || s == "" && i > 0 {
				t.Errorf("value %d: %q", i, s)
			}
			seen[s] = true
		}
	}
	if Kind(99).String() != "kind(99)" || Verdict(99).String() != "verdict(99)" {
		t.Errorf("%v, %v", Kind(99), Verdict(99))
	}
}
