package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
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

// A full disk stops the log when there is no room for a record, neither in the last segment nor in
// the spare; and then it is the record that is refused, not the log that ends.
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

// What no segment has room for is not worth a cut: the next one would not have it either, nor the
// one after.
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

// A caller that shares a batch with a Save that has no room is none the worse for it.
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

// opened is what an Open on a full disk came to.
type opened struct {
	err     error
	trimmed []string // what the observer was told
	said    string   // and what the log says
}

// openFull opens a log twice on a disk that is full: what the first Open has left is what the
// second finds.
func openFull(t *testing.T, f *crashfs.FS, change ...func(*wal.Options)) (o opened) {
	t.Helper()
	var said bytes.Buffer
	for life := range 2 {
		l := newLab(f)
		opts := l.options()
		opts.SegmentSize = 64 << 10
		opts.Logger = slog.New(slog.NewTextHandler(&said, nil))
		opts.Observer.Trimmed = func(segment string, offset, n int64, copied string) {
			o.trimmed = append(o.trimmed, fmt.Sprintf("%s %d %d %q", segment, offset, n, copied))
		}
		for _, c := range change {
			c(opts)
		}
		w, err := wal.Open(labDir, opts)
		if life == 0 {
			o.err = err
		} else if (err == nil) != (o.err == nil) {
			t.Errorf("Open says %v, and then %v", o.err, err)
		}
		if err == nil {
			if err := l.settle(t); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the spare: %v, so the disk is not full", err)
			}
			must(t, w.Close())
		}
		l.nothingLeft(t)
	}
	o.said = said.String()
	return o
}

// Nobody was told that our own torn tail is durable. To refuse it for want of space for a copy
// would be to refuse the log, and with it the Release that makes space.
func TestOpenOnAFullDiskDropsATornTail(t *testing.T) {
	for name, free := range map[string]int64{"without room for a copy": 4096, "with room for one": 16384 + 8192} {
		f, at, tail := torn(t)
		f.SetSize(f.Used() + free)
		o := openFull(t, f)
		copied := fmt.Sprintf("%s.%d.torn", segment0, at)
		kept := copies(f)
		if name == "with room for one" {
			if len(kept) != 1 || !bytes.Equal(kept[copied], tail) {
				t.Errorf("%s: %v", name, names(f))
			}
		} else {
			copied = ""
			if len(kept) != 0 || !strings.Contains(o.said, "without a copy") {
				t.Errorf("%s: %v; and it said %s", name, names(f), o.said)
			}
		}
		if want := fmt.Sprintf("%s %d %d %q", segment0, at, len(tail), copied); o.err != nil || len(o.trimmed) != 1 || o.trimmed[0] != want {
			t.Errorf("%s: %v; the observer was told %q, want %q", name, o.err, o.trimmed, want)
		}
		log, err := replay(f.Crash(crashfs.DropAll), walpb.Snapshot{})
		if err != nil || text(log.Entries) != text(entries(1, 1, 3, 0)) {
			t.Errorf("%s: the log holds %v, %v", name, log, err)
		}
	}
}

// What nothing proves may have been acknowledged: it does not go without a copy, and the error says
// how much to free.
func TestOpenOnAFullDiskKeepsAnUnprovenTail(t *testing.T) {
	l, w := create(t, plain, func(o *wal.Options) { o.SegmentSize = 64 << 10 })
	must(t, w.Save(state(1, 0), entries(1, 1, 3, 100)))
	f, at, tail := tear(t, w, l, entries(1, 4, 9, 4000))
	must(t, w.Close())
	must(t, f.Remove(markFile))
	f.SetSize(f.Used())
	before := f.Clone()
	if p, err := wal.PlanRepair(labDir, tornOptions(f)); err != nil || p.Verdict != wal.TornUnproven {
		t.Fatalf("%+v, %v", p, err)
	}
	o := openFull(t, f, plain)
	var need int64
	if o.err != nil {
		if _, tells, _ := strings.Cut(o.err.Error(), "free "); !errors.Is(o.err, syscall.ENOSPC) || !strings.Contains(o.err.Error(), fmt.Sprintf("%s: offset %d: ", segment0, at)) {
			t.Errorf("Open: %v", o.err)
		} else if _, err := fmt.Sscanf(tells, "%d bytes", &need); err != nil {
			t.Errorf("Open: %v: %v", o.err, err)
		}
	}
	if need == 0 || len(o.trimmed) > 0 {
		t.Fatalf("Open: %v, and trimmed %v", o.err, o.trimmed)
	}
	for name, b := range before.Tree() {
		if got := f.Tree()[name]; strings.HasSuffix(name, ".wal") && !bytes.Equal(got, b) {
			t.Errorf("Open has changed %s", name)
		}
	}
	f.SetSize(f.Used() + need)
	w, err := wal.Open(labDir, tornOptions(f))
	if err != nil || !bytes.Equal(copies(f)[fmt.Sprintf("%s.%d.torn", segment0, at)], tail) {
		t.Fatalf("with %d bytes more: %v, %v", need, err, names(f))
	}
	must(t, w.Close())
}

// A segment that was being born is set aside by a name, which needs no space.
func TestOpenOnAFullDiskSetsAnUnbornSegmentAside(t *testing.T) {
	l, w := create(t)
	var f *crashfs.FS
	unborn := ""
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData && isSegment(op) && l.cuts.Load() == 1 && f == nil {
			f, unborn = l.FS.Crash(crashfs.KeepAll), path.Base(op.Name)
		}
		return nil
	}
	last := uint64(0)
	for f == nil {
		last++
		l.save(t, w, walpb.HardState{}, entries(1, last, last, 1000))
	}
	must(t, w.Close())
	// Of its head the first sector has not reached the disk.
	f = damage(f, unborn, func(b []byte) []byte { clear(b[:512]); return b })
	rest := bytes.TrimRight(f.Tree()[labDir+"/"+unborn], "\x00")
	f.SetSize(f.Used())
	o := openFull(t, f)
	kept := copies(f)[unborn+".0.torn"]
	if o.err != nil || len(o.trimmed) != 1 || len(kept)%4096 != 0 || !bytes.Equal(bytes.TrimRight(kept, "\x00"), rest) {
		t.Errorf("%v, %v, %v", o.err, o.trimmed, names(f))
	}
	log, err := replay(f.Crash(crashfs.DropAll), walpb.Snapshot{})
	if err != nil || text(log.Entries) != text(entries(1, 1, last-1, 0)) {
		t.Errorf("the log holds %v, %v", log, err)
	}
}

// A repair is somebody's decision, who was shown the name of the copy.
func TestARepairOnAFullDiskIsRefusedWithoutACopy(t *testing.T) {
	f, _, tail := torn(t)
	f.SetSize(f.Used())
	p, err := wal.PlanRepair(labDir, tornOptions(f))
	must(t, err)
	before := f.Clone()
	if err := p.Apply(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free ") {
		t.Errorf("%v", err)
	}
	if a, b := before.Tree()[labDir+"/"+segment0], f.Tree()[labDir+"/"+segment0]; !bytes.Equal(a, b) {
		t.Error("the segment has changed")
	}
	f.SetSize(0)
	must(t, p.Apply())
	if !bytes.Equal(copies(f)[p.Copy], tail) {
		t.Errorf("%v", names(f))
	}
}

// Where nothing is written in its place, zeros need space as well, and nothing does not.
func TestATailThatCannotBeZeroedIsCutOff(t *testing.T) {
	f, at, _ := torn(t)
	l := newLab(f)
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpWrite && op.Name != markFile {
			return syscall.ENOSPC
		}
		return nil
	}
	o := l.options()
	o.SegmentSize = 64 << 10
	w, err := wal.Open(labDir, o)
	must(t, err)
	must(t, l.settle(t))
	if size := len(f.Tree()[labDir+"/"+segment0]); size != 64<<10 { // it was reserved again
		t.Errorf("the torn tail began at %d, and now there are %d bytes", at, size)
	}
	l.onOp = nil
	must(t, w.Save(state(1, 0), entries(1, 4, 4, 10)))
	must(t, w.Close())
	log, err := replay(f.Crash(crashfs.DropAll), walpb.Snapshot{})
	if err != nil || text(log.Entries) != text(entries(1, 1, 4, 0)) {
		t.Errorf("the log holds %v, %v", log, err)
	}
}
