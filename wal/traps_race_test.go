package wal_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D15, R22. Under -race.
func TestMethodsMayBeCalledConcurrently(t *testing.T) {
	l, w := create(t)
	const n = 300
	var last sync.Mutex
	var index uint64
	var wg sync.WaitGroup
	expected := func(what string, err error) {
		if err != nil && !errors.Is(err, wal.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	start := make(chan struct{})
	each := func(f func(i uint64)) {
		wg.Go(func() {
			<-start
			for i := uint64(0); i < n; i++ {
				f(i)
			}
		})
	}
	// Indexes are given out in order, which takes a lock of the callers' own: Append under it, Save
	// as well.
	each(func(uint64) {
		last.Lock()
		defer last.Unlock()
		index++
		expected("Append", w.Append(state(1, index), entries(1, index, index, 200), func(err error) { expected("done", err) }))
	})
	each(func(uint64) {
		last.Lock()
		defer last.Unlock()
		index++
		expected("Save", w.Save(state(1, index), entries(1, index, index, 200)))
	})
	each(func(uint64) { expected("Sync", w.Sync()) })
	each(func(i uint64) {
		if i%10 == 0 {
			last.Lock()
			s := walpb.Snapshot{Index: index, Term: 1}
			last.Unlock()
			if s.Index == 0 {
				return // nobody has come to save anything yet
			}
			expected("SaveSnapshot", w.SaveSnapshot(s))
			expected("Release", w.Release(s.Index))
		}
	})
	each(func(i uint64) {
		if i%20 == 0 {
			for _, err := range wal.Records(labDir, 0, &wal.Options{FS: l}) {
				expected("Records", err)
			}
		}
	})
	close(start)
	wg.Go(func() {
		for {
			last.Lock()
			enough := index > n
			last.Unlock()
			if enough {
				break
			}
			if w.Sync() != nil {
				break
			}
		}
		expected("Close", w.Close())
	})
	wg.Wait()
	must(t, w.Close())
	l.nothingLeft(t)
	if r := check(t, l.FS); r.Verdict != wal.Clean {
		t.Errorf("%v: %+v", r.Verdict, r.Findings)
	}
}

// A spare is for one cut. This panicked: while the batch that fills one segment was being synced,
// the batch that gathers in the next could fill that as well, and took the same spare.
func TestSpareIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		done := make(chan bool)
		go func() {
			defer close(done)
			for i := uint64(1); i <= 5; i++ { // each as large as a segment
				if err := h.w.Append(state(1, i-1), entries(1, i, i, 9000), func(error) {}); err != nil {
					t.Error(err)
				}
			}
		}()
		synctest.Wait()
		close(h.gate)
		<-done
		must(t, h.w.Close())
		log, err := replay(h.FS, walpb.Snapshot{})
		if err != nil || text(log.Entries) != text(entries(1, 1, 5, 0)) {
			t.Errorf("%v, %v", log, err)
		}
	})
}
