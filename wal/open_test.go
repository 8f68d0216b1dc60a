package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// tornOptions are those of the logs of tear.
func tornOptions(on *crashfs.FS) *wal.Options { return &wal.Options{FS: on, SegmentSize: 64 << 10} }

// tear appends entries to a log of one segment in a crashfs, and returns what a power cut leaves
// that came before their sync and garbled the first of them: the files, where the torn tail begins,
// and its bytes.
func tear(t *testing.T, w *wal.Writer, l *lab, list []walpb.Entry) (f *crashfs.FS, at int64, tail []byte) {
	t.Helper()
	before := records(t, l.FS)
	end := before[len(before)-1]
	at = end.Offset + end.Size
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData && isSegment(op) && f == nil {
			f = l.FS.Crash(crashfs.KeepAll)
		}
		return nil
	}
	must(t, w.Save(walpb.HardState{}, list))
	l.onOp = nil
	f = damage(f, segment0, func(b []byte) []byte {
		b[at+60] ^= 1
		tail = bytes.TrimRight(b[at:], "\x00")
		return b
	})
	return f, at, bytes.Clone(tail)
}

// torn returns a log with a torn tail of several pages.
func torn(t *testing.T) (f *crashfs.FS, at int64, tail []byte) {
	t.Helper()
	l, w := create(t, func(o *wal.Options) { o.SegmentSize = 64 << 10 })
	must(t, w.Save(state(1, 0), entries(1, 1, 3, 100)))
	f, at, tail = tear(t, w, l, entries(1, 4, 9, 4000))
	must(t, w.Close())
	return f, at, tail
}

// copies returns what is kept of torn tails, by name.
func copies(f *crashfs.FS) map[string][]byte {
	kept := map[string][]byte{}
	for name, b := range f.Tree() {
		if strings.HasSuffix(name, ".torn") {
			kept[path.Base(name)] = b
		}
	}
	return kept
}

// A crash may come while Open zeroes what it has copied. The next Open finds less, and must not put
// that in the place of the whole.
func TestACopyOfATornTailSurvivesACrashOfOpen(t *testing.T) {
	f, _, tail := torn(t)
	crashes := 0
	f.SetHook(nil, func(op crashfs.Op) {
		if !op.Kind.Changes() {
			return
		}
		for i := range append([]crashfs.Place{{}}, f.Pending()...) {
			for _, choose := range []crashfs.Chooser{crashfs.KeepAll, crashfs.DropAll, crashfs.DropOne(i), crashfs.KeepOne(i)} {
				crashes++
				crashed := f.Crash(choose)
				w, err := wal.Open(labDir, tornOptions(crashed))
				if err != nil {
					t.Errorf("after %v: %v", op, err)
					continue
				}
				must(t, w.Close())
				whole := false
				for _, b := range copies(crashed) {
					whole = whole || bytes.Equal(b, tail)
				}
				if !whole {
					t.Errorf("after %v no copy holds all that was removed", op)
				}
			}
		}
	})
	w, err := wal.Open(labDir, tornOptions(f))
	f.SetHook(nil, nil)
	must(t, err)
	must(t, w.Close())
	if crashes < 20 {
		t.Errorf("only %d crashes", crashes)
	}
}

// A log may be torn twice at the same offset. Each copy has a name of its own, whether Open or a
// repair makes it, and all go with the segment.
func TestASecondTornTailAtAnOffsetDoesNotReplaceTheFirst(t *testing.T) {
	for name, trim := range map[string]func(t *testing.T, f *crashfs.FS){
		"open": func(t *testing.T, f *crashfs.FS) {},
		"repair": func(t *testing.T, f *crashfs.FS) {
			plan, err := wal.PlanRepair(labDir, tornOptions(f))
			must(t, err)
			if _, there := copies(f)[plan.Copy]; there || plan.Copy == "" {
				t.Errorf("the plan is to copy to %q; there are %v", plan.Copy, names(f))
			}
			must(t, plan.Apply())
			if _, there := copies(f)[plan.Copy]; !there {
				t.Errorf("the plan was to copy to %q; there are %v", plan.Copy, names(f))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, at, tail := torn(t)
			var tails [][]byte
			var l *lab
			var w *wal.Writer
			for range 3 {
				tails = append(tails, tail)
				trim(t, f)
				l = newLab(f)
				var err error
				w, err = wal.Open(labDir, l.options())
				must(t, err)
				must(t, l.settle(t))
				if len(tails) == 3 {
					break
				}
				var again int64
				f, again, tail = tear(t, w, l, entries(1, 4, 4, 200*len(tails)))
				must(t, w.Close())
				if again != at {
					t.Fatalf("the log was torn at %d, and now at %d", at, again)
				}
			}
			kept := copies(f)
			prefix := fmt.Sprintf("%s.%d", segment0, at)
			for i, name := range []string{prefix + ".torn", prefix + ".1.torn", prefix + ".2.torn"} {
				if !bytes.Equal(kept[name], tails[i]) {
					t.Errorf("%s does not hold the torn tail number %d", name, i+1)
				}
			}
			if len(kept) != 3 {
				t.Errorf("%d copies", len(kept))
			}

			last := uint64(3)
			for len(l.segments()) < 2 {
				last++
				l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
			}
			must(t, w.Save(state(1, last), nil))
			must(t, w.SaveSnapshot(walpb.Snapshot{Index: last, Term: 1}))
			must(t, w.Release(last))
			must(t, w.Close())
			if len(copies(f)) > 0 || slices.Contains(l.segments(), segment0) {
				t.Errorf("Release left %v", names(f))
			}
		})
	}
}

// The space that Open needs for a copy may be what the spare of the Writer that died has taken.
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

// Who is told that a tail was trimmed may act on it. So nobody is before that is done and durable,
// whatever fails.
func TestNobodyIsToldOfATrimBeforeItIsDone(t *testing.T) {
	log, at, tail := torn(t)
	for _, noSync := range []bool{false, true} {
		failed, ended := 0, false
		for nth := int32(1); !ended; nth++ {
			var said bytes.Buffer
			var told []string
			var count atomic.Int32
			l := newLab(log.Clone())
			l.onOp = func(op crashfs.Op) error {
				if op.Kind.Changes() && path.Base(op.Name) != "0.tmp" && op.Name != markFile && op.Kind != crashfs.OpPreallocate && count.Add(1) == nth {
					return syscall.EIO
				}
				return nil
			}
			o := &wal.Options{FS: l, SegmentSize: 64 << 10, NoSync: noSync, Logger: slog.New(slog.NewTextHandler(&said, nil))}
			o.Observer.Trimmed = func(segment string, offset, n int64, _ string) {
				told = append(told, fmt.Sprint(segment, " ", offset, " ", n))
			}
			w, err := wal.Open(labDir, o)
			if err != nil {
				failed++
				if len(told) > 0 || strings.Contains(said.String(), "trimmed") {
					t.Errorf("Open failed with %v, and told %v, %s", err, told, said.String())
				}
				continue
			}
			ended = true
			count.Store(nth) // what follows goes well
			must(t, w.Close())
			if want := fmt.Sprint(segment0, " ", at, " ", len(tail)); len(told) != 1 || told[0] != want || strings.Count(said.String(), "trimmed") != 1 {
				t.Errorf("Open told %v, want %s; and said %s", told, want, said.String())
			}
		}
		if failed < 5 {
			t.Errorf("only %d operations could fail", failed)
		}
	}
}

// Release removes the first segments, and leaves a snapshot record that makes them needless.
// Without one they are lost, and with them what was committed.
func TestLossOfTheFirstSegmentsIsReportedUnlessASnapshotReplacesThem(t *testing.T) {
	for _, c := range []struct {
		name     string
		recorded func(last uint64) bool // when the snapshot is
		index    uint64                 // of the snapshot, 0 for the last entry
		needless bool
	}{
		{"no snapshot", func(uint64) bool { return false }, 0, false},
		{"a snapshot that is lost as well", func(last uint64) bool { return last == 6 }, 5, false},
		{"a snapshot after whose index entries are lost", func(last uint64) bool { return last == 0 }, 2, false},
		{"a snapshot of all that is lost", func(last uint64) bool { return last == 0 }, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, w := create(t)
			last := uint64(0)
			record := func(when, index uint64) {
				if c.recorded(when) {
					must(t, w.SaveSnapshot(walpb.Snapshot{Index: index, Term: 1}))
				}
			}
			for len(l.segments()) < 4 {
				last++
				l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
				record(last, c.index)
			}
			must(t, w.Save(state(1, last), nil))
			if c.index > 0 {
				record(0, c.index)
			} else {
				record(0, last)
			}
			must(t, w.Close())
			segments, files := l.segments(), l.FS.Tree()
			for n := 1; n <= 3; n++ {
				delete(files, labDir+"/"+segments[n-1])
				f := crashfs.Load(files)
				if !c.needless {
					lostFirst(t, f, segments[n])
					continue
				}
				if r := check(t, f); r.Verdict != wal.Clean {
					t.Errorf("the first %d lost: Check: %v %v", n, r.Verdict, r.Findings)
				}
				w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
				if err != nil {
					t.Errorf("the first %d lost: Open: %v", n, err)
					continue
				}
				must(t, w.Close())
			}
		})
	}
}

// lostFirst fails unless Open, Check and PlanRepair say that the segments before the first are
// missing. One segment by itself is not a log that has lost others.
func lostFirst(t *testing.T, f *crashfs.FS, first string) {
	t.Helper()
	o := &wal.Options{FS: f, SegmentSize: 8 << 10}
	before := f.Tree()
	_, openErr := wal.Open(labDir, o)
	_, planErr := wal.PlanRepair(labDir, o)
	for what, err := range map[string]error{"Open": openErr, "PlanRepair": planErr} {
		var corrupt *wal.CorruptError
		if !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment || corrupt.Segment != first {
			t.Errorf("%s begins the log: %s: %v", first, what, err)
		}
	}
	if d := onlyDiffer(before, f.Tree()); len(d) > 0 {
		t.Errorf("Open refused the log and yet changed %v", d)
	}
	if r := check(t, f); r.Verdict != wal.Missing || len(r.Findings) != 1 || r.Findings[0].Segment != first {
		t.Errorf("%s begins the log: Check: %v %+v", first, r.Verdict, r.Findings)
	}
	if r, err := wal.Check(labDir+"/"+first, o); err != nil || r.Verdict != wal.Clean {
		t.Errorf("%s by itself: %v, %v", first, r.Verdict, err)
	}
}
