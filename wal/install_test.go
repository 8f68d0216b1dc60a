package wal_test

import (
	"errors"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// twoInstalls writes a log that is cut, and in whose last segment two snapshots are installed with
// no entry of the log before them. The second is committed by the hard state of the same Save as
// the entries after it. kept is whether a crash leaves that hard state, which follows the entries.
func twoInstalls(t *testing.T, kept bool) (f *crashfs.FS, first, second walpb.Snapshot) {
	t.Helper()
	l, w := create(t)
	last := uint64(0)
	for l.filled.Load() == 0 {
		last++
		l.save(t, w, state(1, last), entries(1, last, last, 1000))
	}
	first, second = walpb.Snapshot{Index: last + 10, Term: 2}, walpb.Snapshot{Index: last + 20, Term: 2}
	must(t, w.SaveSnapshot(first))
	must(t, w.Save(state(2, first.Index), nil))
	must(t, w.SaveSnapshot(second))
	must(t, w.Save(state(2, second.Index), entries(2, second.Index+1, second.Index+2, 20)))
	if names := l.segments(); len(names) != 2 {
		t.Fatalf("segments %v", names)
	}
	if kept {
		return l.Clone(), first, second
	}
	all := records(t, l.FS)
	end := all[len(all)-1]
	if end.Type != walpb.TypeState {
		t.Fatalf("the log ends with %v", end.Type)
	}
	f = damage(l.FS, end.Segment, func(b []byte) []byte {
		clear(b[end.Offset:])
		return b
	})
	must(t, f.Remove(markFile)) // it is written after the sync that the crash came before
	return f, first, second
}

// A member starts again from the newest committed snapshot. If that is in the log, no entry need
// come before it. An entry after a snapshot that was never committed must not be taken for the
// first of the log.
func TestAnInstallThatACrashCutShortLeavesTheOneBeforeIt(t *testing.T) {
	f, first, _ := twoInstalls(t, false)
	snapshots, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: f}))
	if err != nil || len(snapshots) == 0 || snapshots[len(snapshots)-1].Index != first.Index {
		t.Fatalf("%v, %v", snapshots, err)
	}
	for _, at := range []uint64{0, first.Index} {
		log, err := wal.Replay(wal.Records(labDir, at, &wal.Options{FS: f}), first)
		if err != nil || len(log.Entries) > 0 || log.State.Commit != first.Index {
			t.Errorf("from the first, read from %d: %v, %v; want no entries", at, log, err)
		}
	}

	// The log goes on, and the leader sends what follows the first snapshot after all.
	l := newLab(f)
	w, err := wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle())
	must(t, w.Save(state(3, first.Index+1), entries(3, first.Index+1, first.Index+2, 20)))
	must(t, w.Close())
	log, err := replay(f, first)
	if err != nil || text(log.Entries) != text(entries(3, first.Index+1, first.Index+2, 0)) {
		t.Errorf("from the first: %v, %v", log, err)
	}
}

func TestAnInstallThatIsThereReplacesTheOneBeforeIt(t *testing.T) {
	f, first, second := twoInstalls(t, true)
	if log, err := replay(f, first); !errors.Is(err, wal.ErrSnapshotOutdated) {
		t.Errorf("from the first: %v, %v", log, err)
	}
	log, err := replay(f, second)
	if err != nil || text(log.Entries) != text(entries(2, second.Index+1, second.Index+2, 0)) {
		t.Errorf("from the second: %v, %v", log, err)
	}
}

// installs returns a log whose second segment holds nothing but two snapshots that were installed,
// at 100 and at 200.
func installs(t *testing.T) *lab {
	t.Helper()
	l, w := create(t)
	for last := uint64(0); l.filled.Load() < 2; { // the next segment begins with what comes next
		last++
		l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
	}
	for _, i := range []uint64{100, 200} {
		must(t, w.SaveSnapshot(walpb.Snapshot{Index: i, Term: 1}))
		must(t, w.Save(state(1, i), nil))
	}
	must(t, w.Close())
	return l
}

// What follows a snapshot that was replaced is gone, wherever reading begins: no entry after
// either shows it.
func TestAReplacedSnapshotIsOutdatedWhereverReadingBegins(t *testing.T) {
	l := installs(t)
	o := &wal.Options{FS: l.FS}
	for _, from := range []uint64{0, 100} {
		log, err := wal.Replay(wal.Records(labDir, from, o), walpb.Snapshot{Index: 100, Term: 1})
		if !errors.Is(err, wal.ErrSnapshotOutdated) || log != nil {
			t.Errorf("read from %d: %v, %v; want ErrSnapshotOutdated", from, log, err)
		}
	}
	for _, from := range []uint64{0, 100, 200} {
		log, err := wal.Replay(wal.Records(labDir, from, o), walpb.Snapshot{Index: 200, Term: 1})
		if err != nil || len(log.Entries) > 0 || log.State.Commit != 200 {
			t.Errorf("the one that is in force, read from %d: %v, %v", from, log, err)
		}
	}
}

// T19. Release may leave nothing but an installed snapshot. A Writer that opens such a log knows
// where it begins, as the one that wrote it did.
func TestALogOfNothingButAnInstalledSnapshotGoesOnAfterIt(t *testing.T) {
	l := installs(t)
	o := l.options()
	refuses := func(when string, w *wal.Writer) {
		t.Helper()
		for what, err := range map[string]error{
			"an entry after a gap":          w.Save(walpb.HardState{}, entries(1, 999, 999, 1)),
			"an entry below the snapshot":   w.Save(walpb.HardState{}, entries(1, 150, 150, 1)),
			"a commit of what is not there": w.Save(state(1, 500), nil),
		} {
			if !errors.Is(err, wal.ErrInvalid) {
				t.Errorf("%s: %s: %v", when, what, err)
			}
		}
	}
	w, err := wal.Open(labDir, o)
	must(t, err)
	must(t, l.settle())
	must(t, w.Release(200))
	if names := l.segments(); len(names) != 1 {
		t.Fatalf("Release left %v: the test tests nothing", names)
	}
	refuses("before the log is opened again", w)
	must(t, w.Close())
	if r := check(t, l.FS); r.Verdict != wal.Clean || r.LastIndex != 200 || r.LastTerm != 1 {
		t.Errorf("Check: %v, the log ends at %d/%d, want 1/200", r.Verdict, r.LastTerm, r.LastIndex)
	}
	w, err = wal.Open(labDir, o)
	must(t, err)
	must(t, l.settle())
	refuses("then", w)
	must(t, w.Save(state(1, 201), entries(1, 201, 201, 1)))
	must(t, w.Close())
	if log, err := replay(l.FS, walpb.Snapshot{Index: 200, Term: 1}); err != nil || text(log.Entries) != "1/201" {
		t.Errorf("%v, %v", log, err)
	}
}
