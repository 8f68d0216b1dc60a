package wal_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Whoever reads a log that is being written sees a log: what was saved before, in order, and no
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
