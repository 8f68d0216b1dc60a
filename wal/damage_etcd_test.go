package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A defect is one of the damaged logs in testdata: what we make of it, and what etcd 3.7.3 does.
type defect struct {
	name string
	at   walpb.Snapshot // the snapshot it is opened at

	verdict wal.Verdict // by Check
	segment string      // where it stops being good; the last one if it does not
	offset  int64
	kind    wal.Kind
	resumes int64 // where good records begin again

	entries string // by Replay
	state   walpb.HardState
	replay  error // by Replay, of the undamaged ones

	torn int64 // how many bytes Open drops

	etcd    string // the entries that etcd reads
	etcdDid string // what else etcd does
}

const (
	second61 = "0000000000000001-0000000000000005.wal"
	third01  = "0000000000000002-0000000000000009.wal"
)

var defects = []defect{
	{
		name: "00-good-small", verdict: wal.Clean, segment: segment0,
		entries: "1/1 1/2 1/3 1/4 1/5 1/6", state: state(1, 5),
		etcd: "1/1 1/2 1/3 1/4 1/5 1/6", etcdDid: "reads it",
	}, {
		name: "01-good-multiseg", verdict: wal.Clean, segment: third01,
		entries: "1/1 1/2 1/3 1/4 1/5 1/6 1/7 1/8 1/9", state: state(1, 8),
		etcd: "1/1 1/2 1/3 1/4 1/5 1/6 1/7 1/8 1/9", etcdDid: "reads it",
	}, {
		// D1: entry 1/5 was voided by 2/3, which the snapshot covers.
		name: "10-resurrect-local-snapshot-22442", at: walpb.Snapshot{Index: 4, Term: 2}, verdict: wal.Clean, segment: segment0,
		entries: "", state: walpb.HardState{Term: 2, Vote: 2, Commit: 4},
		etcd: "1/5", etcdDid: "brings a dead entry back",
	}, {
		// D3
		name: "12-snapshot-never-recorded", at: walpb.Snapshot{Index: 3, Term: 1}, verdict: wal.Clean, segment: segment0,
		replay: wal.ErrSnapshotNotFound,
		etcd:   "1/4 1/5", etcdDid: "says snapshot not found when reading, and nothing when opening to append",
	}, {
		// D4
		name: "20-zero-length-word-midlog", verdict: wal.Corrupt, segment: segment0, offset: 1376, kind: wal.ZeroLength, resumes: 2032,
		entries: "1/1 1/2", state: state(1, 1),
		etcd: "1/1 1/2", etcdDid: "calls it the end, and zeroes the entries after it when it opens to append",
	}, {
		name: "23-payload-bitflip-midlog", verdict: wal.Corrupt, segment: segment0, offset: 1376, kind: wal.BadChecksum, resumes: 2008,
		entries: "1/1 1/2", state: state(1, 1),
		etcd: "", etcdDid: "reports the mismatch, and gives none of the entries before it",
	}, {
		// D2
		name: "25-zeroed-sector-midlog", verdict: wal.Corrupt, segment: segment0, offset: 3120, kind: wal.BadChecksum, resumes: 6152,
		entries: "1/1", state: state(1, 0),
		etcd: "1/1", etcdDid: "calls it torn: its repair cuts off synced entries",
	}, {
		// D6
		name: "30-type-entry-to-state", verdict: wal.Corrupt, segment: segment0, offset: 224, kind: wal.Contradiction, resumes: 256,
		entries: "5/1 5/2 5/3", state: walpb.HardState{Term: 5, Vote: 2, Commit: 3},
		etcd: "5/1 5/2 5/3", etcdDid: "verifies it, and reads a commit of 4 without entry 4",
	}, {
		name: "34-type-entry-to-7", verdict: wal.Corrupt, segment: segment0, offset: 224, kind: wal.Contradiction,
		entries: "5/1 5/2 5/3", state: walpb.HardState{Term: 5, Vote: 2, Commit: 3},
		etcd: "", etcdDid: "refuses it, naming a pointer for the type",
	}, {
		name: "50-torn-tail-short-file", verdict: wal.TornUnproven, segment: segment0, offset: 232, kind: wal.BadLength,
		entries: "1/1 1/2 1/3", state: state(1, 1), torn: 9,
		etcd: "1/1 1/2 1/3", etcdDid: "refuses to open it until it is repaired, then reads it",
	}, {
		name: "51-torn-tail-zero-sector", verdict: wal.TornUnproven, segment: segment0, offset: 9232, kind: wal.BadChecksum,
		entries: "1/1 1/2 1/3", state: state(1, 2), torn: 3056,
		etcd: "1/1 1/2 1/3", etcdDid: "refuses to open it until it is repaired, then reads it",
	}, {
		// D9, the first crash: the log itself is whole, and the spares are not to be trusted.
		name: "60-stale-tmp-first-crash", verdict: wal.Clean, segment: segment0,
		entries: "1/1 1/2 1/3", state: state(1, 2),
		etcd: "1/1 1/2 1/3", etcdDid: "takes 0.tmp, which holds records, for its next segment",
	}, {
		// D9, the second: the record at 40 is of the head of that stale spare.
		name: "61-stale-tmp-second-crash", verdict: wal.TornUnproven, segment: second61, offset: 40, kind: wal.BadChecksum,
		entries: "1/1 1/2 1/3 1/4", state: state(1, 2), torn: 24,
		etcd: "", etcdDid: "can neither read nor repair what it wrote itself",
	},
}

func TestDefectsTableIsComplete(t *testing.T) {
	var listed []string
	for _, d := range defects {
		listed = append(listed, d.name)
		// What we say of etcd is what was recorded of it.
		_, section, ok := strings.Cut(testlogs.Behaviour, fmt.Sprintf("## %s (open at snapshot %d/%d)\n", d.name, d.at.Term, d.at.Index))
		if !ok {
			t.Errorf("%s: not opened at %d/%d by etcd", d.name, d.at.Term, d.at.Index)
		}
		if want := "   OpenForRead+ReadAll: ents=[" + d.etcd + "]"; !strings.HasPrefix(section, want) {
			t.Errorf("%s: etcd did not read %q but %.100s", d.name, d.etcd, section)
		}
		if d.etcdDid == "" {
			t.Errorf("%s: nothing said about etcd", d.name)
		}
	}
	if all := slices.Sorted(maps.Keys(testlogs.Defects(t))); !slices.Equal(all, listed) {
		t.Errorf("listed are %v, there are %v", listed, all)
	}
}

// eachDefect calls f with each of the logs, in a directory of its own.
func eachDefect(t *testing.T, f func(t *testing.T, d defect, dir string)) {
	dirs := testlogs.Defects(t)
	for _, d := range defects {
		t.Run(d.name, func(t *testing.T) { f(t, d, dirs[d.name]) })
	}
}

func TestDefectsAreJudgedByTheirEvidence(t *testing.T) {
	eachDefect(t, func(t *testing.T, d defect, dir string) {
		before := tree(t, dir)
		report, err := wal.Check(dir, nil)
		must(t, err)
		if report.Verdict != d.verdict {
			t.Errorf("Check: %v, want %v", report.Verdict, d.verdict)
		}
		switch {
		case d.verdict == wal.Clean && len(report.Findings) > 0:
			t.Errorf("Check found %+v", report.Findings)
		case d.verdict != wal.Clean && len(report.Findings) == 0:
			t.Errorf("Check found nothing")
		case d.verdict != wal.Clean:
			f := report.Findings[0]
			if f.Segment != d.segment || f.Offset != d.offset || f.Kind != d.kind || f.Resumes != d.resumes {
				t.Errorf("Check found %+v, want %v in %s at %d, resuming at %d", f, d.kind, d.segment, d.offset, d.resumes)
			}
			if d.torn > 0 && f.Rest != d.offset+d.torn {
				t.Errorf("Check: the tail ends at %d, want %d", f.Rest, d.offset+d.torn)
			}
		}

		log, err := wal.Replay(wal.Records(dir, d.at.Index, nil), d.at)
		var corrupt *wal.CorruptError
		switch {
		case d.replay != nil:
			if !errors.Is(err, d.replay) || log != nil {
				t.Errorf("Replay: %v, %v; want %v", log, err, d.replay)
			}
		case d.verdict == wal.Corrupt:
			if !errors.As(err, &corrupt) || corrupt.Kind != d.kind || corrupt.Segment != d.segment || corrupt.Offset != d.offset {
				t.Errorf("Replay: %v, want %v at %d", err, d.kind, d.offset)
			}
		case err != nil:
			t.Errorf("Replay: %v", err)
		}
		if log != nil {
			if got := text(log.Entries); got != d.entries || log.State != d.state || string(log.Metadata) != "meta" {
				t.Errorf("Replay: entries %q, state %v, metadata %q; want %q, %v", got, log.State, log.Metadata, d.entries, d.state)
			}
		}
		if !maps.Equal(tree(t, dir), before) {
			t.Error("reading changed the directory")
		}
	})
}

func TestOpenRefusesDamageAndTrimsTornTails(t *testing.T) {
	eachDefect(t, func(t *testing.T, d defect, dir string) {
		before := tree(t, dir)
		original, err := os.ReadFile(filepath.Join(dir, d.segment))
		must(t, err)
		var said bytes.Buffer
		opts := &wal.Options{SegmentSize: 64 << 10, Logger: slog.New(slog.NewTextHandler(&said, nil))}

		w, err := wal.Open(dir, opts)
		if d.verdict >= wal.Corrupt {
			var corrupt *wal.CorruptError
			if !errors.As(err, &corrupt) || corrupt.Kind != d.kind || corrupt.Segment != d.segment || corrupt.Offset != d.offset {
				t.Fatalf("Open: %v, want %v in %s at %d", err, d.kind, d.segment, d.offset)
			}
			if s := err.Error(); !strings.Contains(s, d.segment) || !strings.Contains(s, d.kind.String()) || !strings.Contains(s, fmt.Sprint(d.offset)) {
				t.Errorf("the text does not say where and why: %s", s)
			}
			if !maps.Equal(tree(t, dir), before) {
				t.Error("Open refused the log and yet changed the directory")
			}
			noGoroutines(t)
			return
		}
		must(t, err)
		copyName := filepath.Join(dir, fmt.Sprintf("%s.%d.torn", d.segment, d.offset))
		if d.torn == 0 {
			if said.Len() > 0 {
				t.Errorf("Open of a clean log said %s", &said)
			}
			if copies, _ := filepath.Glob(filepath.Join(dir, "*.torn")); len(copies) > 0 {
				t.Errorf("Open of a clean log made %v", copies)
			}
		} else {
			if n := strings.Count(said.String(), "level=WARN"); n != 1 || !strings.Contains(said.String(), d.segment) {
				t.Errorf("Open gave %d warnings: %s", n, &said)
			}
			kept, err := os.ReadFile(copyName)
			if err != nil || !bytes.Equal(kept, original[d.offset:d.offset+d.torn]) {
				t.Errorf("the copy holds %d bytes, %v; not the %d that were dropped", len(kept), err, d.torn)
			}
			if info, err := os.Stat(copyName); err != nil || info.Mode() != 0o600 {
				t.Errorf("the copy's mode is %v, %v", info.Mode(), err)
			}
			now, err := os.ReadFile(filepath.Join(dir, d.segment))
			must(t, err)
			if !bytes.Equal(now[:d.offset], original[:d.offset]) || len(bytes.Trim(now[d.offset:], "\x00")) > 0 {
				t.Error("what stands before the tail changed, or the tail was not zeroed")
			}
		}
		must(t, w.Close())

		// The second time there is nothing to say, and the log goes on.
		said.Reset()
		w, err = wal.Open(dir, opts)
		must(t, err)
		if said.Len() > 0 {
			t.Errorf("the second Open said %s", &said)
		}
		report, err := wal.Check(dir, nil)
		must(t, err)
		last, term := report.LastIndex, report.State.Term
		if err := w.Save(walpb.HardState{}, entries(term, last+1, last+3, 100)); err != nil {
			t.Errorf("Save after Open: %v", err)
		}
		must(t, w.Close())
		log, err := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{})
		must(t, err)
		want := entries(term, last+1, last+3, 100)
		if n := len(log.Entries); n < 3 || text(log.Entries[n-3:]) != text(want) || !bytes.Equal(log.Entries[n-1].Data, want[2].Data) {
			t.Errorf("after Save the log holds %s", text(log.Entries))
		}
		if d.replay == nil && d.at.Index == 0 {
			if got := text(log.Entries[:len(log.Entries)-3]); got != d.entries {
				t.Errorf("before what was saved the log holds %s, want %s", got, d.entries)
			}
		}
		noGoroutines(t)
	})
}

// D16
func TestRepairRefusesDamageAndPlansBeforeItTrims(t *testing.T) {
	eachDefect(t, func(t *testing.T, d defect, dir string) {
		before := tree(t, dir)
		plan, err := wal.PlanRepair(dir, nil)
		var corrupt *wal.CorruptError
		switch {
		case d.verdict >= wal.Corrupt:
			if !errors.As(err, &corrupt) || corrupt.Offset != d.offset || corrupt.Kind != d.kind {
				t.Errorf("PlanRepair: %v, want %v at %d", err, d.kind, d.offset)
			}
		case err != nil:
			t.Fatal(err)
		case plan.Verdict != d.verdict || plan.Offset != d.offset || plan.Bytes != d.torn:
			t.Errorf("plan %+v, want %v at %d, %d bytes", plan, d.verdict, d.offset, d.torn)
		}
		if !maps.Equal(tree(t, dir), before) {
			t.Error("PlanRepair changed the directory")
		}
		if plan == nil {
			return
		}
		must(t, plan.Apply())
		after := tree(t, dir)
		if d.torn == 0 && !maps.Equal(after, before) {
			t.Error("there was nothing to repair, and yet the directory changed")
		}
		if d.torn > 0 {
			if info, err := os.Stat(filepath.Join(dir, plan.Copy)); err != nil || info.Mode() != 0o600 || info.Size() != d.torn {
				t.Errorf("the copy: %v, %v", info, err)
			}
			if now := tree(t, dir)[filepath.Join(dir, d.segment)]; len(now) == 0 {
				t.Errorf("%s is gone", d.segment)
			}
		}
		report, err := wal.Check(dir, nil)
		if err != nil || report.Verdict != wal.Clean {
			t.Errorf("after Apply: %v, %v", report.Verdict, err)
		}
		if again, err := wal.PlanRepair(dir, nil); err != nil || again.Verdict != wal.Clean {
			t.Errorf("planned again: %+v, %v", again, err)
		}
		if err := plan.Apply(); d.torn > 0 && !errors.Is(err, wal.ErrChanged) {
			t.Errorf("applied twice: %v, want ErrChanged", err)
		}
	})
}
