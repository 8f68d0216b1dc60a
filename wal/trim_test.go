package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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

// T31. tan does not open a log if the checksum of a torn record at its end does not match.
func TestGarbageInTheLastBatchIsTornNotCorrupt(t *testing.T) {
	l, w := create(t)
	must(t, w.Save(state(1, 0), entries(1, 1, 3, 700)))
	fails := errors.New("power is about to fail")
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData {
			return fails
		}
		return nil
	}
	if err := w.Save(state(1, 3), entries(1, 4, 6, 700)); !errors.Is(err, fails) {
		t.Fatal(err)
	}
	torn := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		f := l.FS.Crash([]crashfs.Chooser{crashfs.Garbage(rng), crashfs.Tear(rng), crashfs.Random(rng)}[seed%3])
		r := check(t, f)
		if r.Verdict != wal.Clean && r.Verdict != wal.Torn {
			t.Errorf("seed %d: Check: %v %+v", seed, r.Verdict, r.Findings)
		}
		if r.Verdict == wal.Torn {
			torn++
		}
		w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		must(t, w.Close())
		log, err := replay(f, walpb.Snapshot{})
		must(t, err)
		if n := len(log.Entries); n < 3 || text(log.Entries) != text(entries(1, 1, uint64(n), 0)) {
			t.Errorf("seed %d: the log holds %s", seed, text(log.Entries))
		}
	}
	if torn < 50 {
		t.Errorf("only %d of 300 crashes tore the log", torn)
	}
}

// T23. A crash may leave, after the tail, whole and good records of a batch that was never
// acknowledged. They must not be read again once the log has grown up to where they begin.
func TestGhostsAfterTheTailStayDead(t *testing.T) {
	const size = 64 << 10
	l, w := create(t, func(o *wal.Options) { o.SegmentSize = size })
	must(t, w.Save(state(1, 0), entries(1, 1, 1, 100)))
	ghosts := entries(1, 2, 8, 1500)
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData {
			return errors.New("power is about to fail")
		}
		return nil
	}
	if err := w.Save(walpb.HardState{}, ghosts); err == nil {
		t.Fatal("the sync did not fail")
	}
	// Every sector of the batch is there but the first that holds nothing else.
	first := true
	crashed := l.FS.Crash(func(places []crashfs.Place, choices []crashfs.Choice) {
		crashfs.KeepAll(places, choices)
		for i, p := range places {
			if first && p.Kind == crashfs.Sector && strings.HasSuffix(p.Path, segment0) && p.Off >= 512 {
				choices[i], first = crashfs.Choice{}, false
			}
		}
	})
	if first {
		t.Fatal("no sector was dropped")
	}
	if r := check(t, crashed); r.Verdict != wal.Torn {
		t.Fatalf("Check: %v", r.Verdict)
	}
	l = newLab(crashed)
	o := l.options()
	o.SegmentSize = size
	w, err := wal.Open(labDir, o)
	must(t, err)
	must(t, l.settle())
	log, err := replay(crashed, walpb.Snapshot{})
	must(t, err)
	n := uint64(len(log.Entries))
	for n < 8 { // as far as the ghosts reached, each where one of them was
		n++
		l.save(t, w, walpb.HardState{}, []walpb.Entry{{Term: 2, Index: n, Data: bytes.Repeat([]byte{'n'}, 1500)}})
		for _, choose := range []crashfs.Chooser{crashfs.DropAll, crashfs.KeepAll} {
			log, err := replay(l.FS.Crash(choose), walpb.Snapshot{})
			if err != nil || uint64(len(log.Entries)) != n || log.Entries[n-1].Term != 2 {
				t.Fatalf("after entry %d/2 the log holds %v, %v", n, log, err)
			}
		}
		segment, err := l.ReadFile(labDir + "/" + segment0)
		must(t, err)
		if bytes.Contains(segment, ghosts[6].Data) {
			t.Fatal("a ghost is still there after the tail")
		}
	}
	must(t, w.Close())
}

// A crash may come while Open zeroes what it has copied. The next Open finds less, which must not
// replace the whole copy.
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
				must(t, l.settle())
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

			l.last = 3
			last := l.fill(t, w, 2)
			must(t, w.SaveSnapshot(walpb.Snapshot{Index: last, Term: 1}))
			must(t, w.Release(last))
			must(t, w.Close())
			if len(copies(f)) > 0 || slices.Contains(l.segments(), segment0) {
				t.Errorf("Release left %v", names(f))
			}
		})
	}
}

// An observer that is told of a trim may act on it. So it is told once the trim is done and
// durable, and not before, whatever fails.
func TestATrimIsReportedOnlyOnceItIsDone(t *testing.T) {
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

func TestTheZeroPlanDoesNotPanic(t *testing.T) {
	if err := new(wal.Plan).Apply(); err != nil {
		t.Errorf("the zero Plan is to do nothing: %v", err)
	}
	if err := (&wal.Plan{Dir: t.TempDir(), Verdict: wal.Torn}).Apply(); !errors.Is(err, wal.ErrNoLog) {
		t.Errorf("a Plan for a log that is not there: %v", err)
	}
}
