package wal_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// R22. Whatever happens to a log, it leaves no descriptor and no goroutine.
func TestNothingIsLeftOpen(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "log")
	opts := &wal.Options{SegmentSize: 64 << 10}
	nothing := func(when string) {
		t.Helper()
		if open := openFiles(t, base); len(open) > 0 {
			t.Errorf("after %s these are open: %v", when, open)
		}
		noGoroutines(t)
	}
	if _, err := wal.Open(dir, opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
	nothing("Open of nothing")
	w, err := wal.Create(dir, []byte("meta"), opts)
	must(t, err)
	if len(openFiles(t, base)) == 0 {
		t.Error("an open log has no file open: this test sees nothing")
	}
	if _, err := wal.Create(dir, nil, opts); !errors.Is(err, wal.ErrExists) || !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Create: %v", err)
	}
	if _, err := wal.Open(dir, opts); !errors.Is(err, wal.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open: %v", err)
	}
	if r, err := wal.Check(dir, opts); err != nil || runtime.GOOS == "linux" && !r.Locked {
		t.Errorf("Check: %+v, %v", r, err)
	}
	// D20. The failures above have not cost the Writer its locks.
	if _, err := wal.Open(dir, opts); !errors.Is(err, wal.ErrLocked) {
		t.Errorf("third Open: %v", err)
	}
	for i := uint64(1); i <= 100; i++ {
		must(t, w.Save(state(1, i-1), entries(1, i, i, 3000)))
	}
	must(t, w.Append(state(1, 100), nil, func(error) {}))
	for range wal.Records(dir, 0, opts) {
		break // a reader that stops early
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 90, Term: 1}))
	must(t, w.Release(90))
	must(t, w.Close())
	must(t, w.Close())
	nothing("Close")
	if _, err := os.Stat(filepath.Join(dir, "0.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Close left the spare: %v", err)
	}

	segments, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
	slices.Sort(segments)
	b, err := os.ReadFile(segments[0])
	must(t, err)
	b[3000] ^= 1
	must(t, os.WriteFile(segments[0], b, 0o600))
	var corrupt *wal.CorruptError
	if _, err := wal.Open(dir, opts); !errors.As(err, &corrupt) {
		t.Errorf("Open of a damaged log: %v", err)
	}
	nothing("Open of a damaged log")
	if _, err := wal.PlanRepair(dir, opts); !errors.As(err, &corrupt) {
		t.Errorf("PlanRepair of a damaged log: %v", err)
	}
	nothing("PlanRepair of a damaged log")
	if _, err := wal.Create(segments[0], nil, opts); err == nil {
		t.Error("Create below a file: no error")
	}
	nothing("a failed Create")
}

// R22. After Close every method returns ErrClosed, and nothing is written.
func TestMethodsAfterCloseSayClosed(t *testing.T) {
	l, w := create(t)
	must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
	must(t, w.Close())
	before := l.Tree()
	l.did()
	for name, call := range map[string]func() error{
		"Save":         func() error { return w.Save(state(1, 1), entries(1, 2, 2, 10)) },
		"Save nothing": func() error { return w.Save(walpb.HardState{}, nil) },
		"Append":       func() error { return w.Append(state(1, 1), nil, func(error) { t.Error("done was called") }) },
		"SaveSnapshot": func() error { return w.SaveSnapshot(walpb.Snapshot{Index: 1, Term: 1}) },
		"Sync":         w.Sync,
		"Release":      func() error { return w.Release(1) },
	} {
		if err := call(); !errors.Is(err, wal.ErrClosed) || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, w.Close())
	if ops := l.did(); len(ops) > 0 || len(onlyDiffer(before, l.Tree())) > 0 {
		t.Errorf("after Close: %v", ops)
	}
	l.nothingLeft(t)
}

func TestTheZeroWriterSaysClosed(t *testing.T) {
	var w wal.Writer
	for what, err := range map[string]error{
		"Save":         w.Save(state(1, 0), entries(1, 1, 1, 10)),
		"Append":       w.Append(state(1, 0), entries(1, 1, 1, 10), nil),
		"SaveSnapshot": w.SaveSnapshot(walpb.Snapshot{}),
		"Sync":         w.Sync(),
		"Release":      w.Release(1),
		"Close":        w.Close(),
		"second Close": w.Close(),
	} {
		if !errors.Is(err, wal.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
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

// Close waits for the sync in flight, also if the Writer has failed meanwhile for another reason: a
// directory sync in Release.
func TestCloseWaitsForAFlushInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		last := l.fill(t, w, 3)
		must(t, w.SaveSnapshot(walpb.Snapshot{Index: last - 1, Term: 1}))
		must(t, w.Sync())
		dir, data := make(chan error), make(chan error)
		l.onOp = func(op crashfs.Op) error {
			switch {
			case op.Kind == crashfs.OpSyncDir:
				return <-dir
			case op.Kind == crashfs.OpSyncData && isSegment(op):
				return <-data
			}
			return nil
		}
		released, saved, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() { released <- w.Release(last) }()
		synctest.Wait() // it syncs the directory
		go func() { saved <- w.Save(walpb.HardState{}, entries(1, last+1, last+1, 10)) }()
		synctest.Wait() // it syncs the segment
		dir <- syscall.EIO
		if err := <-released; !errors.Is(err, syscall.EIO) {
			t.Errorf("Release: %v", err)
		}
		go func() { closed <- w.Close() }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("Close returned while a sync was in flight")
		}
		close(data)
		<-saved // nil or EIO: it is durable, and the Writer has failed
		if err := <-closed; !errors.Is(err, syscall.EIO) {
			t.Errorf("Close: %v", err)
		}
		if err := w.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("second Close: %v", err)
		}
		if err := w.Sync(); err == nil || strings.Contains(err.Error(), "closed") {
			t.Errorf("the first failure is forgotten: %v", err)
		}
		l.nothingLeft(t)
	})
}

// A Save that waits for room is turned away when Close begins. It was the one to be woken, and must
// wake the next: otherwise no goroutine writes the batch that has gathered.
func TestCloseIsNotForgottenWhenACallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		first, turnedAway, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() { first <- h.w.Save(walpb.HardState{}, entries(1, 1, 1, 10)) }()
		synctest.Wait() // its sync is held
		acked := make(chan error, 1)
		must(t, h.w.Append(walpb.HardState{}, entries(1, 2, 2, 2<<20), func(err error) { acked <- err }))
		go func() { turnedAway <- h.w.Save(walpb.HardState{}, entries(1, 3, 3, 10)) }()
		synctest.Wait() // it waits for room
		go func() { closed <- h.w.Close() }()
		synctest.Wait()
		close(h.gate)
		must(t, <-first)
		if err := <-turnedAway; !errors.Is(err, wal.ErrClosed) {
			t.Errorf("Save while closing: %v", err)
		}
		must(t, <-acked)
		must(t, <-closed)
	})
}
