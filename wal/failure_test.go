package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
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

// A trial is one life of a log in which something fails. All lives do the same. After a failure the
// caller goes on as if nothing had happened, and that must do no harm.
type trial struct {
	t     *testing.T
	lab   *lab
	first error // the first error that a call returned

	saved     []walpb.Entry // all that were given to the log
	acked     uint64        // the last entry that was said to be durable
	state     walpb.HardState
	snapshots []walpb.Snapshot // acknowledged
	stage     string
}

// did takes the outcome of one call.
func (r *trial) did(what string, err error) bool {
	switch {
	case r.first == nil && err == nil:
		return true
	case r.first == nil:
		r.first, r.stage = err, what
	case err == nil:
		r.t.Errorf("%s returned nil after %s had failed with %v", what, r.stage, r.first)
	case !errors.Is(err, r.first) || err.Error() != r.first.Error():
		r.t.Errorf("%s returned %q, but %s had failed with %q", what, err, r.stage, r.first)
	}
	return false
}

func (r *trial) save(w *wal.Writer, appended bool) {
	i := uint64(len(r.saved)) + 1
	list := entries(1, i, i, 1500)
	s := state(1, i-1)
	r.saved = append(r.saved, list...)
	var err error
	if appended {
		done := make(chan error, 1)
		if err = w.Append(s, list, func(err error) { done <- err }); err == nil {
			err = <-done
		}
	} else {
		err = w.Save(s, list)
	}
	if r.did(fmt.Sprintf("save %d", i), err) {
		r.acked, r.state = i, s
	} else if r.first != nil {
		// The next entries follow what was acknowledged, as if the caller took the error for a
		// refusal.
		r.saved = r.saved[:i-1]
	}
	r.lab.settle()
}

func (r *trial) live() {
	l := r.lab
	w, err := wal.Create(labDir, []byte("meta"), l.options())
	if err != nil {
		r.first, r.stage = err, "create"
		l.nothingLeft(r.t)
		return
	}
	l.settle()
	for i := range 14 {
		r.save(w, i%5 == 3)
		if i == 6 {
			s := walpb.Snapshot{Index: 5, Term: 1}
			if r.did("snapshot", w.SaveSnapshot(s)) {
				r.snapshots = append(r.snapshots, s)
			}
		}
		if i == 9 {
			r.did("sync", w.Sync())
		}
		if i == 11 {
			r.did("release", w.Release(5))
		}
	}
	r.did("sync", w.Sync())
	if err := w.Append(state(1, r.acked), nil, func(err error) {
		if err == nil && r.first != nil {
			r.t.Error("Append was acknowledged after a failure")
		}
	}); r.first != nil {
		r.did("append", err)
	}
	if r.first != nil {
		r.did("snapshot", w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 1}))
		r.did("release", w.Release(5))
	}
	r.did("close", w.Close())
	r.did("close again", w.Close())
	l.nothingLeft(r.t)
}

// survives opens what a crash left, and looks for all that was acknowledged.
func (r *trial) survives(after string, f *crashfs.FS) {
	t := r.t
	w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
	if err != nil {
		if r.acked == 0 && r.stage == "create" && (errors.Is(err, wal.ErrNoLog) || errors.Is(err, fs.ErrNotExist)) {
			return
		}
		t.Errorf("%s failed, then %s: Open: %v", r.stage, after, err)
		return
	}
	must(t, w.Close())
	snapshots, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: f}))
	must(t, err)
	for _, s := range r.snapshots {
		if !slices.ContainsFunc(snapshots, func(o walpb.Snapshot) bool { return o.Index == s.Index && o.Term == s.Term }) {
			t.Errorf("%s failed, then %s: snapshot %d/%d is lost", r.stage, after, s.Term, s.Index)
		}
	}
	from := walpb.Snapshot{}
	if _, err := f.Stat(labDir + "/" + segment0); err != nil {
		from = r.snapshots[0] // released
	}
	log, err := replay(f, from)
	must(t, err)
	last := from.Index + uint64(len(log.Entries))
	if last < r.acked || log.State.Commit < r.state.Commit || log.State.Term < r.state.Term {
		t.Errorf("%s failed, then %s: entries up to %d, state %v are lost: up to %d, %v are there", r.stage, after, r.acked, r.state, last, log.State)
	}
	for _, e := range log.Entries {
		if want := entries(1, e.Index, e.Index, 1500)[0]; e.Term != 1 || !bytes.Equal(e.Data, want.Data) {
			t.Errorf("%s failed, then %s: entry %d is not what was saved", r.stage, after, e.Index)
		}
	}
}

// D8, R9. Every write, truncation, sync, rename and directory sync fails once, and all else works:
// the mistake would be to go on. What was acknowledged is there after a restart and after a power
// cut.
func TestFirstFailureIsTheLastWord(t *testing.T) {
	kinds := map[crashfs.OpKind][]error{
		crashfs.OpWrite:       {syscall.EIO, syscall.ENOSPC, crashfs.ShortWrite(100), crashfs.ShortWrite(700)},
		crashfs.OpTruncate:    {syscall.EIO},
		crashfs.OpPreallocate: {syscall.EIO},
		crashfs.OpSyncData:    {syscall.EIO, syscall.ENOSPC},
		crashfs.OpRename:      {syscall.EIO, syscall.ENOSPC},
		crashfs.OpSyncDir:     {syscall.EIO},
		crashfs.OpMkdir:       {syscall.EROFS},
	}
	total := map[crashfs.OpKind]int{}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		for _, fault := range kinds[kind] {
			for n := 0; ; n++ {
				l := newLab(crashfs.New())
				seen, created := 0, false
				var mu sync.Mutex // spares are made in the background
				l.onOp = func(op crashfs.Op) error {
					mu.Lock()
					defer mu.Unlock()
					if op.Kind == crashfs.OpRename {
						created = true
					}
					// Once there is a log, what happens to the spare is not the log's failure; but
					// its rename is, and a sync that fails though there is space. What happens to
					// the mark is not.
					survived := created && isSpare(op) && kind != crashfs.OpRename && (kind != crashfs.OpSyncData || fault == syscall.ENOSPC)
					if op.Kind != kind || survived || path.Base(op.Name) == "synced" {
						return nil
					}
					if kind == crashfs.OpMkdir && op.Name != labDir {
						return nil // those above are there already
					}
					seen++
					if seen-1 == n {
						return fault
					}
					return nil
				}
				r := &trial{t: t, lab: l}
				r.live()
				if t.Failed() {
					t.Fatalf("%s number %d failed with %v", kind, n, fault)
				}
				if seen <= n {
					break // every one has failed once
				}
				total[kind]++
				// The last write is only a proof, for which a full disk need not have room.
				witness := fault == syscall.ENOSPC && kind == crashfs.OpWrite && seen == n+1
				if r.first == nil && !witness {
					t.Fatalf("%s number %d failed with %v, and no call returned it", kind, n, fault)
				}
				if r.first != nil && !errors.Is(r.first, fault) {
					t.Fatalf("%s number %d failed with %v, but the log said %v", kind, n, fault, r.first)
				}
				r.survives("restart", l.Clone())
				r.survives("power cut that keeps all", l.Crash(crashfs.KeepAll))
				r.survives("power cut that drops all", l.Crash(crashfs.DropAll))
				for seed := range uint64(6) {
					r.survives(fmt.Sprintf("power cut %d", seed), l.Crash(crashfs.Random(rand.New(rand.NewPCG(seed, uint64(n))))))
				}
				if t.Failed() {
					t.Fatalf("%s number %d failed with %v", kind, n, fault)
				}
			}
		}
	}
	t.Logf("failures injected: %v", total)
	for kind := range kinds {
		if total[kind] == 0 {
			t.Errorf("no %s has failed: the workload does none", kind)
		}
	}
}

// A failed flush of the disk may be reported to the sync of the spare, although what it dropped was
// of the log: the sync of the log, a moment later, returns nil. xfs did that on a disk that failed
// one flush.
func TestASpareThatCannotBeSyncedEndsTheWriter(t *testing.T) {
	t.Run("between batches", func(t *testing.T) {
		l, w := createFailing(t)
		must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
		first := l.settle()
		for what, err := range map[string]error{
			"Save":    w.Save(state(1, 0), entries(1, 2, 2, 10)),
			"Append":  w.Append(state(1, 0), entries(1, 2, 2, 10), nil),
			"Sync":    w.Sync(),
			"Release": w.Release(1),
			"Close":   w.Close(),
		} {
			if !errors.Is(err, syscall.EIO) || err.Error() != first.Error() {
				t.Errorf("%s: %v, but the spare: %v", what, err, first)
			}
		}
	})
	t.Run("while a batch is on its way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l, w := createFailing(t)
			segment, spare := make(chan struct{}), l.onOp
			l.onOp = func(op crashfs.Op) error {
				if op.Kind == crashfs.OpSyncData && isSegment(op) {
					<-segment
				}
				return spare(op)
			}
			outcomes := make(chan error, 10)
			// The first is being synced, the second waits for it, and the others for that.
			for i := range uint64(4) {
				go func() { outcomes <- w.Save(state(1, 0), entries(1, 1+i, 1+i, 10)) }()
				synctest.Wait()
			}
			must(t, w.Append(state(1, 0), entries(1, 5, 5, 10), func(err error) { outcomes <- err }))
			if err := l.settle(); !errors.Is(err, syscall.EIO) {
				t.Errorf("the spare: %v", err)
			}
			close(segment)
			synctest.Wait()
			if len(outcomes) != 5 {
				t.Errorf("%d of 5 calls have returned", len(outcomes))
			}
			for range len(outcomes) {
				if err := <-outcomes; !errors.Is(err, syscall.EIO) {
					t.Errorf("the call returned %v", err)
				}
			}
			if err := w.Close(); !errors.Is(err, syscall.EIO) {
				t.Errorf("Close: %v", err)
			}
		})
	})
}

func TestAppendsPendingAtAFailureAreNotified(t *testing.T) {
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

// D27. After a rename etcd's errors name a file by the path that it was opened by.
func TestErrorsNameTheSegmentAsItIs(t *testing.T) {
	l, w := create(t)
	l.onOp = func(op crashfs.Op) error {
		if l.cuts.Load() > 0 && op.Kind == crashfs.OpWrite {
			return errors.New("no")
		}
		return nil
	}
	var err error
	for i := uint64(1); err == nil; i++ {
		err = w.Save(walpb.HardState{}, entries(1, i, i, 3000))
	}
	if !strings.Contains(err.Error(), "0000000000000001-") {
		t.Errorf("the segment is not named: %v", err)
	}
	if strings.Contains(err.Error(), ".tmp") {
		t.Errorf("a name is named that the file no longer has: %v", err)
	}
}

// A server that has no descriptor left for a moment goes on acknowledging, since all files that the
// log needs for that are open.
func TestALogThatIsOpenNeedsNoDescriptorToGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		last := uint64(0)
		save := func() {
			t.Helper()
			last++
			must(t, w.Save(state(1, last-1), entries(1, last, last, 1000)))
			l.settle()
		}
		save()
		l.onOp = func(op crashfs.Op) error {
			switch op.Kind {
			case crashfs.OpOpen, crashfs.OpCreate, crashfs.OpReadDir:
				return syscall.EMFILE
			}
			return nil
		}
		for l.cuts.Load() == 0 {
			save()
		}
		for range 20 { // there is no spare for the next cut
			save()
		}
		newest := walpb.Snapshot{Index: last - 1, Term: 1}
		must(t, w.SaveSnapshot(newest))
		must(t, w.Sync())
		if err := w.Release(newest.Index); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("Release: %v", err)
		}
		save()
		l.onOp = nil
		must(t, w.Release(newest.Index))
		if n := len(l.segments()); n != 1 {
			t.Errorf("%d segments are there after a Release that had descriptors again", n)
		}
		save() // this one asks for a spare again
		save() // this one finds it: the segment ends here
		save()
		if l.cuts.Load() != 2 {
			t.Errorf("%d cuts, and a spare can be made again", l.cuts.Load())
		}
		must(t, w.Close())
		l.nothingLeft(t)
		log, err := replay(l.FS.Crash(crashfs.DropAll), newest)
		if err != nil || len(log.Entries) == 0 || log.Entries[len(log.Entries)-1].Index != last {
			t.Errorf("after a power cut: %v", err)
		}
	})
}
