package wal_test

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// releasable returns a log of at least six segments, of which a snapshot record supersedes all but
// the last two.
func releasable(t *testing.T, change ...func(*wal.Options)) (l *lab, last uint64) {
	l, w := create(t, change...)
	last = l.fill(t, w, 6)
	must(t, w.SaveSnapshot(walpb.Snapshot{Term: 1, Index: last, ConfState: []byte{8, 1}}))
	must(t, w.Close())
	return l, last
}

// A power cut in Release may leave any of the segments that it removed. etcd refuses a log with a
// gap, so Open removes the rest of them.
func TestOpenFinishesARelease(t *testing.T) {
	l, last := releasable(t)
	all := l.segments()
	for _, c := range []struct{ gone, left []int }{
		{[]int{1, 2}, []int{0}},
		{[]int{0, 2}, []int{1}},
		{[]int{1, 3}, []int{0, 2}},
	} {
		f := l.FS.Clone()
		for _, i := range c.gone {
			must(t, f.Remove(path.Join(labDir, all[i])))
		}
		of := path.Join(labDir, all[c.left[0]])
		// A copy goes with its segment. The mark is not needed.
		must(t, f.Rename(path.Join(labDir, "synced"), of+".512.torn"))
		w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
		must(t, err)
		must(t, w.Save(state(1, last), entries(1, last+1, last+1, 10)))
		must(t, w.Close())
		want := all[slices.Max(append(c.gone, c.left...))+1:]
		after := f.Crash(crashfs.DropAll)
		if got := (&lab{FS: after}).segments(); !slices.Equal(got, want) {
			t.Errorf("%v were gone, and after Open there are %v, want %v", c.gone, got, want)
		}
		if slices.Contains(names(after), of+".512.torn") {
			t.Error("a copy has outlived its segment")
		}
		for _, err := range wal.Records(labDir, 0, &wal.Options{FS: after}) {
			must(t, err)
		}
		if _, err := replay(after, walpb.Snapshot{Term: 1, Index: last}); err != nil {
			t.Error(err)
		}
	}
}

// A copy of an old segment under a later number looks as if a Release had removed those between. In
// a log without witnesses nothing covers the number, but the index in the name shows that what
// comes before it was not released.
func TestOpenKeepsWhatStandsBeforeAnOldSegment(t *testing.T) {
	l, _ := releasable(t, plain)
	all := l.segments()
	for i, name := range all[:2] {
		tree := l.Tree()
		old := path.Join(labDir, "00000000000003e8"+name[16:])
		tree[old] = tree[path.Join(labDir, name)]
		delete(tree, path.Join(labDir, "synced"))
		f := crashfs.Load(tree)
		w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10, PlainEtcd: true})
		if err != nil {
			continue // as good
		}
		must(t, w.Close())
		if got := (&lab{FS: f}).segments(); len(got) < len(all) {
			t.Errorf("segment %d is there under a later number as well: Open left only %v of %v", i, got, all)
		}
	}
}

func TestMissingSegmentMattersUnlessASnapshotReplacesIt(t *testing.T) {
	good, segments, last := threeSegments(t)
	without := func(name string) *crashfs.FS {
		files := maps.Clone(good)
		delete(files, "log/"+name)
		return crashfs.Load(files)
	}
	// The newest usable snapshot record is in the third segment: the log goes on without the
	// second, and without the first.
	for _, name := range segments[:2] {
		f := without(name)
		if r := check(t, f); name == segments[1] && r.Verdict != wal.Passed {
			t.Errorf("without %s: Check says %v, want %v", name, r.Verdict, wal.Passed)
		}
		l := newLab(f)
		w, err := wal.Open(labDir, l.options())
		if err != nil {
			t.Errorf("without %s: %v", name, err)
			continue
		}
		must(t, l.settle())
		must(t, w.Save(walpb.HardState{}, entries(1, last+1, last+1, 10)))
		must(t, w.Close())
		snapshots, err := wal.Snapshots(wal.Records(labDir, 0, l.options()))
		if err != nil || len(snapshots) == 0 {
			t.Fatalf("without %s: snapshots %v, %v", name, snapshots, err)
		}
		newest := snapshots[len(snapshots)-1]
		if newest.Index != last-2 {
			t.Errorf("without %s: newest snapshot %d, want %d", name, newest.Index, last-2)
		}
		log, err := replay(f, newest)
		if err != nil || text(log.Entries) != text(entries(1, last-1, last+1, 0)) {
			t.Errorf("without %s: from %d the log holds %v, %v", name, newest.Index, log, err)
		}
		l.nothingLeft(t)
	}

	// Without a snapshot record after the gap what is missing is the log.
	l, w := create(t)
	l.fill(t, w, 3)
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+l.segments()[1])
	f := crashfs.Load(files)
	l2 := newLab(f)
	_, err := wal.Open(labDir, l2.options())
	var corrupt *wal.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment || !strings.Contains(err.Error(), "0000000000000001") {
		t.Errorf("Open: %v, want the missing segment named", err)
	}
	if _, err := replay(f, walpb.Snapshot{}); !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment {
		t.Errorf("Replay: %v", err)
	}
	if r := check(t, f); r.Verdict != wal.Missing {
		t.Errorf("Check: %v", r.Verdict)
	}
	if d := onlyDiffer(files, f.Tree()); len(d) > 0 {
		t.Errorf("changed: %v", d)
	}
	l2.nothingLeft(t)
}

// A snapshot record after a gap says nothing about the entries after that snapshot. If these were
// in the missing segments, as the name of the next one tells, they are lost, and with them what was
// committed.
func TestMissingSegmentMattersIfItHeldEntriesAfterTheSnapshot(t *testing.T) {
	l, w := create(t)
	l.fill(t, w, 3)
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 1, ConfState: []byte{8, 1}}))
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+l.segments()[1])
	f := crashfs.Load(files)
	refused(t, f, l.segments()[2], 0, wal.MissingSegment)
	o := &wal.Options{FS: f}
	var corrupt *wal.CorruptError
	if s, err := wal.Snapshots(wal.Records(labDir, 0, o)); !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment {
		t.Errorf("Snapshots: %v, %v", s, err)
	}
	if log, err := wal.Replay(wal.Records(labDir, 0, o), walpb.Snapshot{Index: 2, Term: 1}); !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment {
		t.Errorf("Replay: %v, %v", log, err)
	}
}

// Where entries were overwritten the indexes in the names of segments do not grow. Release goes by
// all of them, so that a crash in it may leave, after a gap, a segment named beyond the snapshot,
// if a later one is not.
func TestMissingSegmentsDoNotMatterIfALaterNameSaysSo(t *testing.T) {
	l, w := create(t)
	last := uint64(0)
	for len(l.segments()) < 3 {
		last++
		l.save(t, w, state(1, 0), entries(1, last, last, 1000))
	}
	last = 3 // a leader of another term takes it from there
	for len(l.segments()) < 4 {
		last++
		l.save(t, w, state(2, 0), entries(2, last, last, 1000))
	}
	names := l.segments()
	if names[3][17:] >= names[2][17:] {
		t.Fatalf("the names grow: %v", names)
	}
	must(t, w.Save(state(2, last), nil))
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last, Term: 2, ConfState: []byte{8, 1}}))
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+names[1])
	f := crashfs.Load(files)
	if r := check(t, f); r.Verdict != wal.Passed {
		t.Errorf("Check: %v %+v", r.Verdict, r.Findings)
	}
	s, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: f}))
	must(t, err)
	if len(s) != 1 || s[0].Index != last {
		t.Errorf("snapshots %v", s)
	}
	log, err := replay(f, s[0])
	if err != nil || log.State.Commit != last {
		t.Errorf("Replay: %v %v", log, err)
	}
	w, err = wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
	must(t, err)
	must(t, w.Close())
}

// A crash in a Release can bring back any of the segments that it removed.
func TestSeveralGapsMatterNoMoreThanOne(t *testing.T) {
	l, w := create(t)
	last := l.fill(t, w, 6)
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last, Term: 1}))
	must(t, w.Close())
	files := l.Tree()
	for _, i := range []int{1, 3} {
		delete(files, "log/"+l.segments()[i])
	}
	f := crashfs.Load(files)
	if r := check(t, f); r.Verdict != wal.Passed || len(r.Findings) != 2 {
		t.Errorf("Check says %v, want %v: %+v", r.Verdict, wal.Passed, r.Findings)
	}
	if p, err := wal.PlanRepair(labDir, &wal.Options{FS: f}); err != nil || p.Verdict != wal.Clean {
		t.Errorf("PlanRepair: %+v, %v", p, err)
	}
	l2 := newLab(f)
	w, err := wal.Open(labDir, l2.options())
	must(t, err)
	must(t, l2.settle())
	must(t, w.Save(walpb.HardState{}, entries(1, last+1, last+1, 10)))
	must(t, w.Close())
	log, err := replay(f, walpb.Snapshot{Index: last, Term: 1})
	if err != nil || text(log.Entries) != text(entries(1, last+1, last+1, 0)) {
		t.Errorf("the log holds %v, %v", log, err)
	}
	l2.nothingLeft(t)
}

// A snapshot may be recorded twice, and the first record be in a segment that a crash in Release
// left before a gap.
func TestReplayGoesOnAfterAGapFromASnapshotThatIsRecordedTwice(t *testing.T) {
	l, w := create(t)
	snapshot := walpb.Snapshot{Index: 2, Term: 1, ConfState: []byte{8, 1}}
	term := uint64(1)
	must(t, w.Save(state(1, 2), entries(1, 1, 2, 10)))
	must(t, w.SaveSnapshot(snapshot))
	for len(l.segments()) < 3 { // votes fill the segments
		term++
		l.save(t, w, state(term, 2), nil)
	}
	must(t, w.SaveSnapshot(snapshot))
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+l.segments()[1])
	log, err := wal.Replay(wal.Records(labDir, 0, &wal.Options{FS: crashfs.Load(files)}), snapshot)
	if err != nil || len(log.Entries) != 0 || log.State != state(term, 2) {
		t.Errorf("%+v, %v", log, err)
	}
}

// T30. To raft-wal the loss of the last segment looks like a crash during a cut. No segment shows
// it, but the mark does. Without the mark the log reads as one that ends before it.
func TestLossOfASegmentIsReported(t *testing.T) {
	l, w := create(t)
	last := l.fill(t, w, 3)
	must(t, w.Close())
	for i, name := range l.segments() {
		files := l.Tree()
		delete(files, "log/"+name)
		var corrupt *wal.CorruptError
		if _, err := replay(crashfs.Load(files), walpb.Snapshot{}); err == nil {
			t.Errorf("without %s: %v", name, err)
		}
		if _, err := wal.Open(labDir, &wal.Options{FS: crashfs.Load(files)}); !errors.As(err, &corrupt) {
			t.Errorf("without %s, Open: %v", name, err)
		}
		if i == 2 {
			delete(files, "log/synced")
			log, err := replay(crashfs.Load(files), walpb.Snapshot{})
			if err != nil || text(log.Entries) != text(entries(1, 1, last-1, 0)) {
				t.Errorf("without %s and the mark: %v", name, err)
			}
		}
	}
}

// Release removes the first segments, and leaves a snapshot record that replaces them.
// Without one they are lost, and with them what was committed.
func TestLossOfTheFirstSegmentsIsReportedUnlessASnapshotReplacesThem(t *testing.T) {
	for _, c := range []struct {
		name     string
		recorded func(last uint64) bool // when the snapshot is
		index    uint64                 // of the snapshot, 0 for the last entry
		replaced bool
	}{
		{"no snapshot", func(uint64) bool { return false }, 0, false},
		{"a snapshot that is lost as well", func(last uint64) bool { return last == 6 }, 5, false},
		{"a snapshot after whose index entries are lost", func(last uint64) bool { return last == 0 }, 2, false},
		{"a snapshot of all that is lost", func(last uint64) bool { return last == 0 }, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, w := create(t)
			last := uint64(0)
			record := func(when, index uint64) {
				if c.recorded(when) {
					must(t, w.SaveSnapshot(walpb.Snapshot{Index: index, Term: 1}))
				}
			}
			for len(l.segments()) < 4 {
				last++
				l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
				record(last, c.index)
			}
			must(t, w.Save(state(1, last), nil))
			if c.index > 0 {
				record(0, c.index)
			} else {
				record(0, last)
			}
			must(t, w.Close())
			segments, files := l.segments(), l.FS.Tree()
			for n := 1; n <= 3; n++ {
				delete(files, labDir+"/"+segments[n-1])
				f := crashfs.Load(files)
				if !c.replaced {
					lostFirst(t, f, segments[n])
					continue
				}
				if r := check(t, f); r.Verdict != wal.Clean {
					t.Errorf("the first %d lost: Check: %v %v", n, r.Verdict, r.Findings)
				}
				w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
				if err != nil {
					t.Errorf("the first %d lost: Open: %v", n, err)
					continue
				}
				must(t, w.Close())
			}
		})
	}
}

// lostFirst fails unless Open, Check and PlanRepair say that the segments before the first are
// missing. One segment alone is not a log that has lost others.
func lostFirst(t *testing.T, f *crashfs.FS, first string) {
	t.Helper()
	o := &wal.Options{FS: f, SegmentSize: 8 << 10}
	before := f.Tree()
	_, openErr := wal.Open(labDir, o)
	_, planErr := wal.PlanRepair(labDir, o)
	for what, err := range map[string]error{"Open": openErr, "PlanRepair": planErr} {
		var corrupt *wal.CorruptError
		if !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment || corrupt.Segment != first {
			t.Errorf("%s begins the log: %s: %v", first, what, err)
		}
	}
	if d := onlyDiffer(before, f.Tree()); len(d) > 0 {
		t.Errorf("Open refused the log and yet changed %v", d)
	}
	if r := check(t, f); r.Verdict != wal.Missing || len(r.Findings) != 1 || r.Findings[0].Segment != first {
		t.Errorf("%s begins the log: Check: %v %+v", first, r.Verdict, r.Findings)
	}
	if r, err := wal.Check(labDir+"/"+first, o); err != nil || r.Verdict != wal.Clean {
		t.Errorf("%s alone: %v, %v", first, r.Verdict, err)
	}
}
