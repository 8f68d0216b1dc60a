package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D22. Callers that come while a sync is in flight share the next one.
func TestConcurrentSavesShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 64
		h := hold(t)
		var wg sync.WaitGroup
		save := func(i int) {
			wg.Go(func() {
				// The same index from every caller, so that any order of them is a log.
				if err := h.w.Save(walpb.HardState{}, entries(1, 1, 1, 10+i)); err != nil {
					t.Errorf("Save: %v", err)
				}
			})
		}
		save(0)
		synctest.Wait() // its sync is held
		for i := 1; i <= callers; i++ {
			save(i)
		}
		synctest.Wait() // all of them wait
		h.gate <- nil
		synctest.Wait()
		h.gate <- nil
		wg.Wait()
		if h.syncs != 2 {
			t.Errorf("%d Saves took %d syncs, want 2", callers+1, h.syncs)
		}
		close(h.gate)
		must(t, h.w.Close())
	})
}

// D22. etcd's lock is held while it syncs.
func TestLockIsNotHeldDuringASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		must(t, h.w.Append(state(1, 0), entries(1, 1, 1, 10), func(error) {}))
		synctest.Wait() // its sync is held
		returned := make(chan error, 2)
		go func() { returned <- h.w.Append(walpb.HardState{}, entries(1, 2, 2, 10), func(error) {}) }()
		go func() { returned <- h.w.Save(state(1, 1), nil) }() // a commit alone
		synctest.Wait()
		if len(returned) != 2 {
			t.Errorf("while a sync was in flight, %d of 2 calls returned that need not wait for it", len(returned))
		}
		close(h.gate)
		must(t, h.w.Close())
	})
}

// R26. No callback is called before what it waits for is durable, nor out of order.
func TestAppendsAreAcknowledgedInOrderAndNotEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		var acked []int
		for i := 1; i <= 50; i++ {
			must(t, h.w.Append(state(1, uint64(i-1)), entries(1, uint64(i), uint64(i), 10), func(err error) {
				if err != nil {
					t.Errorf("append %d: %v", i, err)
				}
				// A power cut at this very moment leaves the entry.
				log, err := replay(h.Crash(crashfs.DropAll), walpb.Snapshot{})
				if err != nil || len(log.Entries) < i {
					t.Errorf("append %d was acknowledged, and is not durable: %v", i, err)
				}
				acked = append(acked, i)
			}))
		}
		synctest.Wait()
		if len(acked) > 0 {
			t.Errorf("before any sync, %v are acknowledged", acked)
		}
		close(h.gate)
		must(t, h.w.Close())
		if len(acked) != 50 || !slices.IsSorted(acked) {
			t.Errorf("acknowledged: %v", acked)
		}
	})
}

// An Append of nothing is a barrier: it is acknowledged once all before it is durable.
func TestAppendOfNothingIsABarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		var order []string
		must(t, h.w.Append(walpb.HardState{}, entries(1, 1, 1, 10), func(err error) { order = append(order, fmt.Sprint("entry ", err)) }))
		synctest.Wait()
		must(t, h.w.Append(walpb.HardState{}, nil, func(err error) { order = append(order, fmt.Sprint("nothing ", err)) }))
		synctest.Wait()
		if len(order) > 0 {
			t.Errorf("before the sync: %v", order)
		}
		close(h.gate)
		synctest.Wait()
		if want := []string{"entry <nil>", "nothing <nil>"}; !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
		must(t, h.w.Append(walpb.HardState{}, nil, func(err error) { order = append(order, "idle") }))
		synctest.Wait()
		if len(order) != 3 {
			t.Errorf("with nothing pending, an Append of nothing is not acknowledged")
		}
		must(t, h.w.Close())
	})
}

func TestDoneMayCallTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		var outcomes []error
		must(t, w.Append(walpb.HardState{}, entries(1, 1, 1, 10), func(err error) {
			outcomes = append(outcomes, err,
				w.Save(state(1, 1), entries(1, 2, 2, 10)),
				w.SaveSnapshot(walpb.Snapshot{Index: 1, Term: 1}),
				w.Sync(),
				w.Release(1),
				w.Append(walpb.HardState{}, entries(1, 3, 3, 10), func(err error) { outcomes = append(outcomes, err) }))
		}))
		synctest.Wait()
		if len(outcomes) != 7 || slices.ContainsFunc(outcomes, func(err error) bool { return err != nil }) {
			t.Errorf("outcomes: %v", outcomes)
		}
		must(t, w.Close())
		l.nothingLeft(t)
	})
}

// Without syncs, a batch is written in place, unless an Append waits for it or it ends a segment.
func TestWithoutSyncsSaveAndAppendTakeTurns(t *testing.T) {
	l := newLab(crashfs.New())
	o := l.options()
	o.NoSync = true
	w, err := wal.Create(labDir, nil, o)
	must(t, err)
	const last = 300
	var (
		order sync.Mutex // of indexes
		index uint64
		calls sync.WaitGroup
	)
	for caller := range 4 {
		calls.Go(func() {
			for done := make(chan error, 1); ; {
				order.Lock()
				if index == last {
					order.Unlock()
					return
				}
				index++
				list := entries(1, index, index, int(index*37%3000))
				var err error
				if caller%2 == 0 {
					err = w.Append(walpb.HardState{}, list, func(err error) { done <- err })
				} else {
					err = w.Save(walpb.HardState{}, list)
				}
				must(t, l.settle())
				order.Unlock()
				if err == nil && caller%2 == 0 {
					err = <-done
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	calls.Wait()
	must(t, w.Close())
	log, err := replay(l, walpb.Snapshot{})
	must(t, err)
	if len(log.Entries) != last {
		t.Fatalf("%d entries, want %d", len(log.Entries), last)
	}
	for i, e := range log.Entries {
		if want := entries(1, uint64(i)+1, uint64(i)+1, (i+1)*37%3000)[0]; !bytes.Equal(e.Data, want.Data) {
			t.Fatalf("entry %d is not what was saved", e.Index)
		}
	}
}

// D15, R22. The race detector sees what this test does not.
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
	// Indexes must reach the log in order, so callers hold a lock of their own during the call.
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
				return // nothing has been saved yet
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
