package wal_test

import (
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D1. etcd skips an entry at or below the snapshot it is opened at, and so forgets that it voided
// those above.
func TestOverwriteAtOrBelowSnapshotStaysDead(t *testing.T) {
	for _, c := range []struct {
		name     string
		first    uint64 // the overwrite begins here
		last     uint64
		snapshot uint64
		want     string // from the snapshot on
		next     uint64
	}{
		{"below the snapshot, ends at it", 3, 4, 4, "", 5},
		{"at the snapshot", 4, 4, 4, "", 5},
		{"below the snapshot, ends above it", 3, 6, 4, "2/5 2/6", 7},
		{"above the snapshot", 4, 4, 3, "2/4", 5},
		{"all", 1, 2, 1, "2/2", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, w := create(t)
			must(t, w.Save(state(1, 0), entries(1, 1, 7, 20)))
			must(t, w.Save(state(2, c.snapshot), entries(2, c.first, c.last, 20)))
			at := walpb.Snapshot{Index: c.snapshot, Term: 2}
			if c.snapshot < c.first {
				at.Term = 1
			}
			must(t, w.SaveSnapshot(at))
			must(t, w.Close())
			log, err := replay(l.FS, at)
			if err != nil || text(log.Entries) != c.want {
				t.Fatalf("from the snapshot on: %v, %v; want %q", log, err, c.want)
			}
			if r := check(t, l.FS); r.LastIndex != c.last || r.LastTerm != 2 {
				t.Errorf("the log ends at %d/%d, want 2/%d", r.LastTerm, r.LastIndex, c.last)
			}
			// Nor does a Writer after a restart.
			w, err = wal.Open(labDir, l.options())
			must(t, err)
			if err := w.Save(walpb.HardState{}, entries(2, c.next+1, c.next+1, 1)); !errors.Is(err, wal.ErrInvalid) {
				t.Errorf("an entry after a dead one: %v", err)
			}
			must(t, w.Save(walpb.HardState{}, entries(2, c.next, c.next, 1)))
			must(t, w.Close())
		})
	}
}

// D1, the second half: a snapshot that a leader sent replaces the log.
func TestInstalledSnapshotVoidsTheLogBeforeIt(t *testing.T) {
	for name, at := range map[string]walpb.Snapshot{
		"beyond the log":         {Index: 9, Term: 2},
		"inside, with more term": {Index: 4, Term: 2},
	} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t)
			must(t, w.Save(state(1, 2), entries(1, 1, 6, 20)))
			must(t, w.SaveSnapshot(at))
			must(t, w.Save(state(2, at.Index), nil))
			must(t, w.Sync())
			log, err := replay(l.FS, at)
			if err != nil || len(log.Entries) > 0 {
				t.Errorf("from the snapshot on: %v, %v; want none", log, err)
			}
			// A reader that starts at the old one is told, and gets no log with a hole.
			if log, err := replay(l.FS, walpb.Snapshot{}); !errors.Is(err, wal.ErrSnapshotOutdated) {
				t.Errorf("from the beginning on: %v, %v", log, err)
			}
			must(t, w.Save(walpb.HardState{}, entries(2, at.Index+1, at.Index+2, 20)))
			must(t, w.Close())
			log, err = replay(l.FS, at)
			if err != nil || text(log.Entries) != text(entries(2, at.Index+1, at.Index+2, 0)) {
				t.Errorf("from the snapshot on: %v, %v", log, err)
			}
		})
	}
}

// D3. etcd returns that error to a reader, and drops it when it opens the log to append.
func TestOpeningAtAnUnrecordedSnapshotIsAnError(t *testing.T) {
	l, w := create(t)
	must(t, w.Save(state(1, 4), entries(1, 1, 5, 20)))
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 4, Term: 1}))
	for _, when := range []string{"open to append", "closed"} {
		if log, err := replay(l.FS, walpb.Snapshot{Index: 3, Term: 1}); !errors.Is(err, wal.ErrSnapshotNotFound) || log != nil || !strings.Contains(err.Error(), "1/3") {
			t.Errorf("%s: not recorded: %v, %v", when, log, err)
		}
		if log, err := replay(l.FS, walpb.Snapshot{Index: 4, Term: 2}); !errors.Is(err, wal.ErrSnapshotMismatch) || log != nil || !strings.Contains(err.Error(), "2/4") {
			t.Errorf("%s: recorded with another term: %v, %v", when, log, err)
		}
		must(t, w.Close())
	}
}

// A reader of a log that is being written sees a log: what was saved before, in order, and no
// damage.
func TestReadersOfALogThatIsWrittenSeeALog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	w, err := wal.Create(dir, []byte("live"), &wal.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var (
		saved         atomic.Uint64
		failed, ended atomic.Bool
		done          = make(chan struct{})
	)
	defer func() {
		failed.Store(t.Failed())
		<-done
	}()
	go func() {
		defer close(done)
		defer ended.Store(true)
		a := newAppender(3, 700)
		for a.last < 3000 && !failed.Load() {
			state, entries := a.next()
			state.Commit = saved.Load()
			if err := w.Save(state, entries); err != nil {
				t.Error(err)
				return
			}
			saved.Store(a.last)
		}
	}()
	rounds := 0
	for ; !ended.Load(); rounds++ {
		before := saved.Load()
		log, err := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{})
		if err != nil {
			t.Fatal(err)
		}
		if n := uint64(len(log.Entries)); n < before {
			t.Fatalf("%d entries were saved, a reader saw %d", before, n)
		}
		report, err := wal.Check(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if report.Verdict >= wal.Corrupt {
			t.Fatalf("%+v", report.Findings)
		}
		if !report.Locked {
			t.Error("a reader does not see the lock")
		}
	}
	<-done
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("read %d times while %d entries were saved", rounds, saved.Load())
}
