package wal_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A full disk stops the log when neither the last segment nor the spare has room for a record. Then
// the record is refused, and the log does not end.
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
				// Two segments of 8 KiB hold 14 entries or more.
				if !errors.Is(err, wal.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) || last < 14 || l.cuts.Load() != 1 {
					t.Errorf("after %d entries and %d cuts: %v", last, l.cuts.Load(), err)
				}
				before := l.Clone()
				if err := w.Save(state(1, last+1), entries(1, last+2, last+2, 1000)); !errors.Is(err, wal.ErrInvalid) {
					t.Errorf("what is invalid anyway: %v", err)
				}
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

// A record that no segment has room for is not worth a cut.
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

// A Save that is refused does no harm to those that share its batch.
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

// D7, R10. After a failed preallocation the next Save of etcd panics, also when there is space
// again.
func TestNoSpaceForTheSpareIsSurvivedAndCutsResume(t *testing.T) {
	for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpPreallocate, crashfs.OpSyncData, crashfs.OpLock} {
		t.Run(string(kind), func(t *testing.T) {
			noSpaceForTheSpare(t, kind)
		})
	}
}

func noSpaceForTheSpare(t *testing.T, kind crashfs.OpKind) {
	l := newLab(crashfs.New())
	w, err := wal.Create(labDir, []byte("meta"), l.options())
	must(t, err)
	defer w.Close()
	must(t, l.settle())
	full := true // there is a spare; the one after it cannot be made
	l.onOp = func(op crashfs.Op) error {
		if full && isSpare(op) && op.Kind == kind {
			return syscall.ENOSPC
		}
		return nil
	}
	var last uint64
	save := func() error {
		last++
		must(t, w.Save(state(1, last-1), entries(1, last, last, 1000)))
		return l.settle()
	}
	for err = nil; err == nil; {
		err = save()
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the spare: %v", err)
	}
	save() // in the segment that was the spare
	segments := l.segments()
	for range 20 { // two segments and a half, all in one
		save()
	}
	if now := l.segments(); !slices.Equal(now, segments) || l.cuts.Load() != 1 {
		t.Errorf("without space there are %v, there were %v", now, segments)
	}
	full = false
	save() // this one asks for a spare again
	save() // this one finds it: the segment ends here
	save()
	if l.cuts.Load() != 2 {
		t.Errorf("with space again, the log was not cut")
	}
	must(t, w.Close())
	l.nothingLeft(t)
	log, err := replay(l.FS, walpb.Snapshot{})
	must(t, err)
	if got, want := text(log.Entries), text(entries(1, 1, last, 0)); got != want {
		t.Errorf("the log holds %s, want %s", got, want)
	}
}

// A quota that is used up is like a full disk.
func TestAQuotaThatIsUsedUpIsAFullDisk(t *testing.T) {
	for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpPreallocate, crashfs.OpSyncData} {
		synctest.Test(t, func(t *testing.T) {
			l, w := create(t)
			l.onOp = func(op crashfs.Op) error {
				if isSpare(op) && op.Kind == kind {
					return syscall.EDQUOT
				}
				return nil
			}
			for i := uint64(1); i < 20; i++ {
				if err := w.Save(state(1, i-1), entries(1, i, i, 2000)); err != nil {
					t.Fatalf("%s of the spare fails: %v", kind, err)
				}
				synctest.Wait()
			}
			must(t, w.Close())
		})
	}
}

// A full disk may have no room for what the end of a segment, or of a log, would be better with.
// The log warns, and goes on without it.
func TestAFullDiskDoesNotEndALogForWhatItCanDoWithout(t *testing.T) {
	for name, fails := range map[string]func(closing bool, op crashfs.Op) bool{
		"truncate":     func(_ bool, op crashfs.Op) bool { return op.Kind == crashfs.OpTruncate && isSegment(op) },
		"last witness": func(closing bool, op crashfs.Op) bool { return closing && op.Kind == crashfs.OpWrite && isSegment(op) },
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			l, w := create(t, func(o *wal.Options) { o.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
			var closing atomic.Bool
			failed := 0
			l.onOp = func(op crashfs.Op) error {
				if fails(closing.Load(), op) {
					failed++
					return syscall.ENOSPC
				}
				return nil
			}
			last := l.fill(t, w, 3)
			closing.Store(true)
			must(t, w.Close())
			if failed == 0 || strings.Count(said.String(), "level=WARN") != failed {
				t.Errorf("%d failed, and it said %s", failed, said.String())
			}
			l.onOp = nil
			if r := check(t, l.FS); r.Verdict != wal.Clean || r.LastIndex != last {
				t.Errorf("%v, up to %d of %d", r.Verdict, r.LastIndex, last)
			}
			w, err := wal.Open(labDir, l.options())
			must(t, err)
			must(t, w.Close())
			l.nothingLeft(t)
		})
	}
}
