package wal_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A server that has no descriptor left for a moment goes on to acknowledge: all that the log needs
// for that is open.
func TestALogThatIsOpenNeedsNoDescriptorToGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		last := uint64(0)
		save := func() {
			t.Helper()
			last++
			must(t, w.Save(state(1, last-1), entries(1, last, last, 1000)))
			synctest.Wait() // until nothing is done in the background any more
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

// A disk that is full and a quota that is used up are the same.
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

// The mark is the only proof of the last batch, so it is worth another try: the next one finds
// room, or a descriptor.
func TestTheMarkIsWrittenAgainOnceItCan(t *testing.T) {
	for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpWrite} {
		l := newLab(crashfs.New())
		var failing atomic.Bool
		failing.Store(true)
		l.onOp = func(op crashfs.Op) error {
			if failing.Load() && path.Base(op.Name) == "synced" && op.Kind == kind {
				return syscall.ENOSPC
			}
			return nil
		}
		w, err := wal.Create(labDir, []byte("meta"), l.options())
		must(t, err)
		must(t, w.Save(state(1, 0), entries(1, 1, 1, 100)))
		before, err := l.ReadFile(labDir + "/synced")
		if kind == crashfs.OpCreate && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the mark: %v", err)
		}
		failing.Store(false)
		must(t, w.Save(state(1, 0), entries(1, 2, 2, 100)))
		after, err := l.ReadFile(labDir + "/synced")
		if err != nil || len(after) != 64 || slices.Equal(before, after) {
			t.Errorf("%s of the mark failed once: now it has %d bytes, %v", kind, len(after), err)
		}
		must(t, w.Close())
	}
}

// What a full disk has no room for at the end of a segment, or of a log, the log can do without. It
// says so, and goes on.
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
			last := uint64(0)
			for l.cuts.Load() < 2 {
				last++
				l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
			}
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
