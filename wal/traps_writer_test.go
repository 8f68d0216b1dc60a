package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A held lab holds every sync of a segment until it is told to let one go.
type held struct {
	*lab
	w     *wal.Writer
	gate  chan error // each sync takes one
	syncs int
}

// hold makes a log in a synctest bubble. From then on its syncs wait.
func hold(t *testing.T) *held {
	t.Helper()
	l, w := create(t)
	h := &held{lab: l, w: w, gate: make(chan error)}
	l.onOp = func(op crashfs.Op) error {
		if op.Kind != crashfs.OpSyncData || !isSegment(op) {
			return nil
		}
		err, open := <-h.gate
		if open || err == nil {
			h.syncs++
		}
		return err
	}
	return h
}

// D22, R26.
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

// R26. Nobody hears of anything before it is durable, nor out of order.
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

func TestAppendsPendingAtAFailureHearOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		var outcomes []error
		done := func(err error) { outcomes = append(outcomes, err) }
		for i := uint64(1); i <= 3; i++ {
			must(t, h.w.Append(walpb.HardState{}, entries(1, i, i, 10), done))
		}
		synctest.Wait() // the first is being synced, alone or with others
		for i := uint64(4); i <= 6; i++ {
			must(t, h.w.Append(walpb.HardState{}, entries(1, i, i, 10), done))
		}
		h.gate <- syscall.EIO
		synctest.Wait()
		if len(outcomes) != 6 {
			t.Errorf("%d of 6 heard of the failure", len(outcomes))
		}
		for i, err := range outcomes {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("append %d: %v", i+1, err)
			}
		}
		if err := h.w.Append(walpb.HardState{}, entries(1, 7, 7, 10), func(error) { t.Error("done was called") }); !errors.Is(err, syscall.EIO) {
			t.Errorf("Append after the failure: %v", err)
		}
		if err := h.w.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("Close: %v", err)
		}
		if err := h.w.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("second Close: %v", err)
		}
		if len(outcomes) != 6 {
			t.Errorf("done was called %d times for 6", len(outcomes))
		}
		h.nothingLeft(t)
	})
}

// Close is not a failure: what is pending becomes durable, and is acknowledged before Close
// returns.
func TestCloseAcknowledgesWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		acked := 0
		for i := uint64(1); i <= 20; i++ {
			must(t, h.w.Append(state(1, i), entries(1, i, i, 10), func(err error) {
				if err == nil {
					acked++
				}
			}))
		}
		closed := make(chan error)
		go func() { closed <- h.w.Close() }()
		synctest.Wait()
		if err := h.w.Save(walpb.HardState{}, entries(1, 21, 21, 10)); !errors.Is(err, wal.ErrClosed) {
			t.Errorf("Save while Close waits: %v", err)
		}
		close(h.gate)
		must(t, <-closed)
		if acked != 20 {
			t.Errorf("%d of 20 acknowledged", acked)
		}
		log, err := replay(h.Crash(crashfs.DropAll), walpb.Snapshot{})
		if err != nil || len(log.Entries) != 20 || log.State.Commit != 20 {
			t.Errorf("after Close and a power cut: %v, %v", log, err)
		}
		h.nothingLeft(t)
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

// R13. A commit alone costs no sync, and is durable with the next one.
func TestCommitAloneIsNotSyncedUntilSync(t *testing.T) {
	for name, sync := range map[string]func(w *wal.Writer) error{
		"Sync":  (*wal.Writer).Sync,
		"Close": (*wal.Writer).Close,
		"Save":  func(w *wal.Writer) error { return w.Save(walpb.HardState{}, entries(1, 3, 3, 10)) },
	} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t)
			must(t, w.Save(walpb.HardState{Term: 1}, entries(1, 1, 2, 10)))
			l.did()
			must(t, w.Save(walpb.HardState{Term: 1, Commit: 1}, nil))
			if ops := l.did(); len(ops) > 0 {
				t.Errorf("a commit alone did %v", ops)
			}
			must(t, sync(w))
			log, err := replay(l.Crash(crashfs.DropAll), walpb.Snapshot{})
			if err != nil || log.State.Commit != 1 {
				t.Errorf("after %s and a power cut: %v, %v", name, log, err)
			}
			// But a vote alone is.
			if name != "Close" {
				must(t, w.Save(walpb.HardState{Term: 1, Vote: 7, Commit: 1}, nil))
				log, err = replay(l.Crash(crashfs.DropAll), walpb.Snapshot{})
				if err != nil || log.State.Vote != 7 {
					t.Errorf("a vote was saved, and after a power cut it is: %v, %v", log, err)
				}
			}
		})
	}
}

// D12. etcd keeps a pointer to the hard state that it is given.
func TestCallersMayReuseWhatTheyPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		spoil := func(list []walpb.Entry) {
			for i := range list {
				for j := range list[i].Data {
					list[i].Data[j] = 0xee
				}
				list[i] = walpb.Entry{Term: 99, Index: 99}
			}
		}
		s := walpb.HardState{Term: 1}
		list := entries(1, 1, 3, 2000)
		must(t, h.w.Append(s, list, func(error) {}))
		spoil(list) // not yet written
		s.Vote, s.Term = 9, 9
		snapshot := walpb.Snapshot{Index: 3, Term: 1, ConfState: []byte{8, 1, 8, 2}}
		close(h.gate)
		must(t, h.w.SaveSnapshot(snapshot))
		snapshot.ConfState[0] = 0xee
		list = entries(1, 4, 4, 10)
		must(t, h.w.Save(walpb.HardState{Term: 1, Commit: 3}, list))
		spoil(list)
		// Only the vote changes: it is compared with what was saved, not with what the caller has
		// made of it.
		before := h.syncs
		s = walpb.HardState{Term: 1, Vote: 2, Commit: 3}
		must(t, h.w.Save(s, nil))
		if h.syncs == before {
			t.Error("a vote that changed was not synced")
		}
		f := h.Crash(crashfs.DropAll)
		must(t, h.w.Close())
		log, err := replay(f, walpb.Snapshot{})
		must(t, err)
		want := slices.Concat(entries(1, 1, 3, 2000), entries(1, 4, 4, 10))
		if text(log.Entries) != text(want) || log.State != s {
			t.Fatalf("the log holds %s, %v", text(log.Entries), log.State)
		}
		for i := range want {
			if !bytes.Equal(log.Entries[i].Data, want[i].Data) {
				t.Errorf("entry %d changed after it was saved", i+1)
			}
		}
		snapshots, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: f}))
		must(t, err)
		if last := snapshots[len(snapshots)-1]; !bytes.Equal(last.ConfState, []byte{8, 1, 8, 2}) {
			t.Errorf("the snapshot record holds %v", last.ConfState)
		}
	})
}

// Metadata is the caller's as well.
func TestMetadataIsCopied(t *testing.T) {
	l := newLab(crashfs.New())
	metadata := []byte("meta")
	w, err := wal.Create(labDir, metadata, l.options())
	must(t, err)
	must(t, l.settle(t))
	copy(metadata, "XXXX")
	for i := uint64(1); l.cuts.Load() < 2; i++ {
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	must(t, w.Close())
	log, err := replay(l.FS, walpb.Snapshot{})
	if err != nil || string(log.Metadata) != "meta" {
		t.Errorf("metadata %v, %v", log, err)
	}
}

// D17, R23, D24. What a log cannot hold is refused, and nothing of it is written.
func TestWhatALogCannotHoldIsRefusedWhole(t *testing.T) {
	l, w := create(t, func(o *wal.Options) { o.MaxRecord = 2000 })
	must(t, w.Save(state(2, 0), entries(2, 1, 5, 10)))
	must(t, w.Save(state(2, 3), nil))
	must(t, w.Sync())
	before := l.Tree()
	l.did()
	e := func(term, index uint64) walpb.Entry { return walpb.Entry{Term: term, Index: index} }
	for _, c := range []struct {
		name    string
		state   walpb.HardState
		entries []walpb.Entry
		is      error
		says    string
	}{
		{"gap after the log", state(2, 3), []walpb.Entry{e(2, 7)}, wal.ErrInvalid, "gap after 5"},
		{"gap inside", state(2, 3), []walpb.Entry{e(2, 6), e(2, 8)}, wal.ErrInvalid, "2/8"},
		{"twice inside", state(2, 3), []walpb.Entry{e(2, 6), e(2, 6)}, wal.ErrInvalid, "2/6"},
		{"backwards inside", state(2, 3), []walpb.Entry{e(2, 6), e(2, 5)}, wal.ErrInvalid, "2/5"},
		{"index 0", state(2, 3), []walpb.Entry{e(2, 0)}, wal.ErrInvalid, "index 0"},
		{"committed entry", state(2, 3), []walpb.Entry{e(3, 3)}, wal.ErrInvalid, "committed up to 3"},
		{"term falls", state(2, 3), []walpb.Entry{e(1, 6)}, wal.ErrInvalid, "lower term"},
		{"term falls inside", state(3, 3), []walpb.Entry{e(3, 6), e(2, 7)}, wal.ErrInvalid, "lower term"},
		{"hard state's term falls", state(1, 3), nil, wal.ErrInvalid, "falls from 2 to 1"},
		{"vote changes", walpb.HardState{Term: 2, Vote: 7, Commit: 3}, nil, wal.ErrInvalid, "vote in term 2 changes from 1 to 7"},
		{"vote vanishes", walpb.HardState{Term: 2, Commit: 3}, nil, wal.ErrInvalid, "vote in term 2 changes from 1 to 0"},
		{"commit falls", state(2, 2), nil, wal.ErrInvalid, "falls from 3 to 2"},
		{"commit beyond the log", state(2, 6), nil, wal.ErrInvalid, "last entry is 5"},
		{"commit beyond what overwrites", state(3, 5), []walpb.Entry{e(3, 4)}, wal.ErrInvalid, "last entry is 4"},
		{"last of many too large", state(2, 3), append(entries(2, 6, 8, 10), entries(2, 9, 9, 2001)...), wal.ErrTooLarge, "limit is 2000"},
		{"largest index", state(2, 3), []walpb.Entry{e(2, 1<<64-1)}, wal.ErrInvalid, "gap"},
	} {
		if err := w.Save(c.state, c.entries); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: Save: %v, want %q", c.name, err, c.says)
		}
		if err := w.Append(c.state, c.entries, func(error) { t.Errorf("%s: done was called", c.name) }); !errors.Is(err, c.is) {
			t.Errorf("%s: Append: %v", c.name, err)
		}
	}
	if err := w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 9}); !errors.Is(err, wal.ErrInvalid) {
		t.Errorf("snapshot that contradicts an entry: %v", err)
	}
	if err := w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 2, ConfState: make([]byte, 2000)}); !errors.Is(err, wal.ErrTooLarge) {
		t.Errorf("snapshot record that is too large: %v", err)
	}
	must(t, w.Sync())
	if ops := l.did(); len(ops) > 0 || len(onlyDiffer(before, l.Tree())) > 0 {
		t.Errorf("refusals wrote: %v", ops)
	}
	// A refusal is no failure, and what was refused does not count.
	l.save(t, w, state(2, 4), entries(2, 6, 6, 10))
	must(t, w.Close())
	if log, err := replay(l.FS, walpb.Snapshot{}); err != nil || text(log.Entries) != text(entries(2, 1, 6, 0)) {
		t.Errorf("the log holds %v, %v", log, err)
	}
	if _, err := wal.Create("other", make([]byte, 2000), &wal.Options{FS: l.FS, MaxRecord: 2000}); !errors.Is(err, wal.ErrTooLarge) {
		t.Errorf("metadata that is too large: %v", err)
	}
	if _, err := l.FS.Stat("other"); err == nil {
		t.Error("a refused Create made a directory")
	}
}

// D24. The limit is the writer's: what is there can be read, whatever the limit is now.
func TestLimitDoesNotBindReaders(t *testing.T) {
	l, w := create(t, func(o *wal.Options) { o.MaxRecord = 1 << 20 })
	must(t, w.Save(state(1, 0), entries(1, 1, 1, 1<<20-100)))
	must(t, w.Close())
	o := l.options()
	o.MaxRecord = 100
	w, err := wal.Open(labDir, o)
	must(t, err)
	must(t, w.Close())
	if log, err := wal.Replay(wal.Records(labDir, 0, o), walpb.Snapshot{}); err != nil || len(log.Entries[0].Data) != 1<<20-100 {
		t.Errorf("%v, %v", log, err)
	}
}
