package wal_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

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

// Close waits for what is in flight, also if the Writer has failed meanwhile by another way: a
// directory sync in Release.
func TestCloseWaitsForAFlushInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		last := uint64(0)
		for len(l.segments()) < 3 {
			last++
			l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
		}
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

// A Save that waits for room, and is turned away because the Writer is being closed, must not take
// with it the signal that somebody is to write what has gathered.
func TestCloseIsNotForgottenBehindACallerThatLeaves(t *testing.T) {
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
