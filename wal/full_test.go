package wal_test

import (
	"bytes"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// full makes the disk of a lab as large as what is on it.
func (l *lab) full() { l.SetSize(l.Used()) }

// A full disk stops the log when there is no room for a record, neither in the last segment nor in the spare; and then it is the record that
// is refused, not the log that ends.
func TestOnAFullDiskTheSpareIsFilledBeforeASaveIsRefused(t *testing.T) {
	for name, change := range map[string]func(*wal.Options){"ours": func(*wal.Options) {}, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, w := create(t, change)
				synctest.Wait() // the spare is there
				l.full()
				last := uint64(0)
				save := func() error {
					err := w.Save(state(1, last), entries(1, last+1, last+1, 1000))
					synctest.Wait()
					if err == nil {
						last++
					}
					return err
				}
				var err error
				for err == nil {
					err = save()
				}
				if !errors.Is(err, wal.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) || last < 14 || l.cuts.Load() != 1 { // 2 segments of 8 KiB
					t.Errorf("after %d entries and %d cuts: %v", last, l.cuts.Load(), err)
				}
				before := l.Clone()
				for range 3 {
					if err := save(); !errors.Is(err, wal.ErrNoSpace) {
						t.Errorf("once more: %v", err)
					}
					if err := w.SaveSnapshot(walpb.Snapshot{Index: 1, Term: 1, ConfState: bytes.Repeat([]byte{8, 1}, 1000)}); !errors.Is(err, wal.ErrNoSpace) {
						t.Errorf("a snapshot record: %v", err)
					}
					if err := w.Append(walpb.HardState{}, entries(1, last+1, last+2, 500), nil); !errors.Is(err, wal.ErrNoSpace) {
						t.Errorf("Append: %v", err)
					}
				}
				synctest.Wait()
				if d := onlyDiffer(before.Tree(), l.Tree()); len(d) > 0 {
					t.Errorf("what was refused has changed %v", d)
				}
				must(t, w.Sync())
				l.SetSize(0)
				for range 20 {
					must(t, save())
				}
				must(t, w.Close())
				l.nothingLeft(t)
				log, err := replay(l.FS.Crash(crashfs.DropAll), walpb.Snapshot{})
				if err != nil || text(log.Entries) != text(entries(1, 1, last, 0)) {
					t.Errorf("the log holds %v, %v", log, err)
				}
			})
		})
	}
}

// What no segment has room for is not worth a cut: the next one would not have it either, nor the one after.
func TestOnAFullDiskALargeSaveIsRefusedWithoutACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		synctest.Wait()
		must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
		l.SetSize(l.Used() + 4096)
		before := l.Clone()
		if err := w.Save(state(1, 0), entries(1, 2, 30, 1000)); !errors.Is(err, wal.ErrNoSpace) {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if d := onlyDiffer(before.Tree(), l.Tree()); len(d) > 0 {
			t.Errorf("what was refused has changed %v", d)
		}
		must(t, w.Save(state(1, 0), entries(1, 2, 2, 10)))
		l.SetSize(0)
		must(t, w.Save(state(1, 0), entries(1, 3, 30, 1000)))
		must(t, w.Close())
	})
}

// Whoever shares a batch with a Save that has no room is none the worse for it.
func TestOnAFullDiskEachSaveIsDurableOrRefused(t *testing.T) {
	l, w := create(t)
	l.full()
	var (
		mu      sync.Mutex
		next    = uint64(1)
		saving  sync.WaitGroup
		refused int
	)
	for range 8 {
		saving.Go(func() {
			for {
				done := make(chan error, 1)
				mu.Lock()
				err := w.Append(walpb.HardState{}, entries(1, next, next, 700), func(err error) { done <- err })
				if err == nil {
					next++
				}
				mu.Unlock()
				if err == nil {
					err = <-done
				}
				if errors.Is(err, wal.ErrNoSpace) {
					mu.Lock()
					refused++
					mu.Unlock()
					return
				}
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
			}
		})
	}
	saving.Wait()
	if refused != 8 || next < 12 {
		t.Errorf("%d were refused, after %d entries", refused, next-1)
	}
	must(t, w.Close())
	log, err := replay(l.FS.Crash(crashfs.DropAll), walpb.Snapshot{})
	if err != nil || text(log.Entries) != text(entries(1, 1, next-1, 0)) {
		t.Errorf("the log holds %v, %v", log, err)
	}
}
