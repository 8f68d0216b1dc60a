package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

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
			if err := l.settle(); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the spare: %v, so the disk is not full", err)
			}
			must(t, w.Close())
		}
		l.nothingLeft(t)
	}
	o.said = said.String()
	return o
}

// No caller was told that our own torn tail is durable, so it may go without a copy. To refuse
// would be to refuse the log, and the Release that would make space.
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

// An unproven tail may have been acknowledged. It does not go without a copy, and the error says
// how much space to free.
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

// An unborn segment is set aside by a rename, which needs no space.
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

// What Open needs for a copy may be what the spare of a dead Writer holds.
func TestOpenOnAFullDiskHasTheSpaceOfTheSpares(t *testing.T) {
	f, _, tail := torn(t)
	f.WriteFile(labDir+"/0.tmp", make([]byte, 64<<10))
	l := newLab(f)
	var room atomic.Bool
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpRemove && path.Base(op.Name) == "0.tmp" {
			room.Store(true)
		}
		if op.Kind == crashfs.OpWrite && !isSegment(op) && !room.Load() {
			return syscall.ENOSPC
		}
		return nil
	}
	w, err := wal.Open(labDir, &wal.Options{FS: l, SegmentSize: 64 << 10})
	must(t, err)
	must(t, w.Close())
	for name, b := range copies(f) {
		if !bytes.Equal(b, tail) {
			t.Errorf("%s is not the torn tail", name)
		}
	}
	if len(copies(f)) != 1 {
		t.Errorf("there are %v", names(f))
	}
}

// A repair is the decision of an operator, who was shown the name of the copy.
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

// On a file system that writes everything to a new place, zeros need space too. To truncate needs
// none.
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
	must(t, l.settle())
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
