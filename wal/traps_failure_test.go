package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
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

// isSpare tells whether an operation is on the segment in preparation.
func isSpare(op crashfs.Op) bool { return strings.HasSuffix(op.Name, ".tmp") }

// D7, R10. etcd's second Save after a failed preallocation panics, and goes on to after there is
// space again.
func TestNoSpaceForTheSpareIsSurvivedAndCutsResume(t *testing.T) {
	for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpPreallocate, crashfs.OpSyncData, crashfs.OpLock} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { noSpaceForTheSpare(t, kind) })
		})
	}
}

func noSpaceForTheSpare(t *testing.T, kind crashfs.OpKind) {
	l := newLab(crashfs.New())
	w, err := wal.Create(labDir, []byte("meta"), l.options())
	must(t, err)
	defer w.Close()
	must(t, l.settle(t))
	full := true // there is a spare; the one after it cannot be made
	l.onOp = func(op crashfs.Op) error {
		if full && isSpare(op) && op.Kind == kind {
			return syscall.ENOSPC
		}
		return nil
	}
	var last uint64
	save := func() {
		last++
		must(t, w.Save(state(1, last-1), entries(1, last, last, 1000)))
		synctest.Wait() // until nothing is done in the background any more
	}
	for l.cuts.Load() == 0 {
		save()
	}
	if err := l.settle(t); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the spare: %v", err)
	}
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

// A flush of the disk that failed for the spare may have dropped what the log had written but not
// yet synced, and the log's own sync, a moment later, returns nil. xfs on a disk that failed one
// flush did just that.
func TestASpareThatCannotBeSyncedEndsTheWriter(t *testing.T) {
	t.Run("between batches", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(crashfs.New())
			sync := l.holdSpare()
			w, err := wal.Create(labDir, nil, l.options())
			must(t, err)
			must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
			sync <- syscall.EIO
			first := l.settle(t)
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
	})
	t.Run("while a batch is on its way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(crashfs.New())
			sync, segment := l.holdSpare(), make(chan struct{})
			spare := l.onOp
			l.onOp = func(op crashfs.Op) error {
				if op.Kind == crashfs.OpSyncData && isSegment(op) {
					<-segment
				}
				return spare(op)
			}
			w, err := wal.Create(labDir, nil, l.options())
			must(t, err)
			outcomes := make(chan error, 10)
			for i := range uint64(4) { // the first is being synced, the second waits for it, and the others for that
				go func() { outcomes <- w.Save(state(1, 0), entries(1, 1+i, 1+i, 10)) }()
				synctest.Wait()
			}
			must(t, w.Append(state(1, 0), entries(1, 5, 5, 10), func(err error) { outcomes <- err }))
			sync <- syscall.EIO
			synctest.Wait()
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

// holdSpare makes the sync of each spare wait for what it is to return.
func (l *lab) holdSpare() chan<- error {
	var created atomic.Bool
	outcome := make(chan error)
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpRename { // until then the first segment has the name of a spare
			created.Store(true)
		}
		if created.Load() && isSpare(op) && op.Kind == crashfs.OpSyncData {
			return <-outcome
		}
		return nil
	}
	return outcome
}

// A trial is one life of a log in which something fails. It does the same in every life, and after
// a failure it goes on as if nothing had been, which is what must not do any harm.
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

// spare waits for the spare, so that what is done in the background is done at the same point of
// every life.
func (r *trial) spare(filled int32) {
	if r.first == nil && r.lab.filled.Load() > filled {
		r.lab.settle(r.t)
	}
}

func (r *trial) save(w *wal.Writer, appended bool) {
	filled := r.lab.filled.Load()
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
		// Later entries follow on what was acknowledged, as a caller who took the error for a
		// refusal would do it.
		r.saved = r.saved[:i-1]
	}
	r.spare(filled)
}

func (r *trial) live() {
	l := r.lab
	w, err := wal.Create(labDir, []byte("meta"), l.options())
	if err != nil {
		r.first, r.stage = err, "create"
		l.nothingLeft(r.t)
		return
	}
	l.settle(r.t)
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
			t.Errorf("%s failed, then %s: snapshot %d/%d is lost", r.stage, after, s.Index, s.Term)
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

// D8, R9, T31. Every write, truncation, sync, rename and directory sync fails once, and everything
// else works: what a log gets wrong then is to go on. After a power cut and after a mere restart
// everything acknowledged is there.
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
				witness := fault == syscall.ENOSPC && kind == crashfs.OpWrite && seen == n+1 // the last, which is but a proof
				if r.first == nil && !witness {
					t.Fatalf("%s number %d failed with %v, and nobody was told", kind, n, fault)
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

// D9, R11. A crash between the sync of a new segment's head and its rename leaves a 0.tmp that
// begins with good records; etcd writes over it without truncating it, so that what its new head
// does not cover comes to life again.
func TestStaleSparesNeverComeToLife(t *testing.T) {
	stale := forge(0, append(head(), walpb.Record{Type: walpb.TypeEntry, Data: (&walpb.Entry{Term: 9, Index: 1, Data: bytes.Repeat([]byte("stale"), 1000)}).Append(nil)})...)
	for _, how := range []string{"create", "open"} {
		t.Run(how, func(t *testing.T) {
			f := crashfs.New()
			if how == "open" {
				w, err := wal.Create(labDir, []byte("meta"), &wal.Options{FS: f})
				must(t, err)
				must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
				must(t, w.Close())
			}
			for _, name := range []string{"0.tmp", "1.tmp", "17.tmp"} {
				f.WriteFile(labDir+"/"+name, stale)
			}
			l := newLab(f)
			openOrCreate := func() (*wal.Writer, error) {
				if how == "open" {
					return wal.Open(labDir, l.options())
				}
				return wal.Create(labDir, []byte("meta"), l.options())
			}
			w, err := openOrCreate()
			must(t, err)
			must(t, l.settle(t))
			last := uint64(1)
			if how == "create" {
				must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
			}
			for l.cuts.Load() < 2 {
				last++
				l.save(t, w, walpb.HardState{}, entries(1, last, last, 700))
				for _, name := range l.segments() {
					if b, err := l.ReadFile(labDir + "/" + name); err != nil || bytes.Contains(b, []byte("stale")) {
						t.Errorf("%s holds what the stale spare held, or %v", name, err)
					}
				}
				// A segment holds nothing but what was written to it, whatever a crash leaves.
				for _, choose := range []crashfs.Chooser{crashfs.KeepAll, crashfs.DropAll} {
					log, err := replay(l.FS.Crash(choose), walpb.Snapshot{})
					must(t, err)
					if got, want := text(log.Entries), text(entries(1, 1, last, 0)); got != want {
						t.Fatalf("the log holds %s, want %s", got, want)
					}
				}
			}
			must(t, w.Close())
			if r := check(t, l.FS); r.Verdict != wal.Clean || how == "open" && len(r.Spares) > 0 {
				t.Errorf("in the end the log is %v, with spares %v", r.Verdict, r.Spares)
			}
		})
	}
}

// D10, R8. A log's directory may be a mount point, and hold what others put there.
func TestCreateKeepsWhatItDidNotMake(t *testing.T) {
	others := map[string][]byte{
		"log/precious.txt":       []byte("precious"),
		"log/lost+found/":        nil,
		"log/sub/deep.wal":       []byte("not here"),
		"log/old.wal.broken":     []byte("evidence"),
		"log.tmp/" + segment0:    []byte("etcd makes its log in here, and removes what it finds"),
		"log/x.tmp":              []byte("no number"),
		"log/snap.db":            {0, 1, 2},
		"log/" + segment0 + ".1": []byte("a backup"),
	}
	f := crashfs.Load(others)
	before := f.Tree()
	l := newLab(f)
	w, err := wal.Create(labDir, []byte("meta"), l.options())
	must(t, err)
	must(t, l.settle(t))
	for i := uint64(1); l.cuts.Load() < 3; i++ {
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 5, Term: 1}))
	must(t, w.Release(5))
	must(t, w.Close())
	w, err = wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle(t))
	must(t, w.Close())
	now := f.Tree()
	for name, b := range before {
		if got, ok := now[name]; !ok || !bytes.Equal(got, b) {
			t.Errorf("%s is gone or changed", name)
		}
	}
}

// position returns where in a list of operations the nth line with a prefix stands, and fails if it
// does not.
func position(t *testing.T, ops []string, prefix string, from int) int {
	t.Helper()
	for i := from; i < len(ops); i++ {
		if strings.HasPrefix(ops[i], prefix) {
			return i
		}
	}
	t.Fatalf("no %q at or after %d in\n%s", prefix, from, strings.Join(ops, "\n"))
	return 0
}

// inOrder fails unless lines with these prefixes follow one another.
func inOrder(t *testing.T, ops []string, prefixes ...string) {
	t.Helper()
	at := 0
	for _, p := range prefixes {
		at = position(t, ops, p, at) + 1
	}
}

// D11, R7. etcd syncs neither the directory that it creates nor the one that it repairs.
func TestNamesAreSyncedAfterWhatTheyName(t *testing.T) {
	second, third := "0000000000000001-", "0000000000000002-"

	l := newLab(crashfs.New())
	w, err := wal.Create(labDir+"/deep/er", []byte("meta"), l.options())
	must(t, err)
	must(t, l.settle(t))
	must(t, w.Close())
	ops := l.did()
	inOrder(t, ops, "mkdir log", "syncdir .", "mkdir deep", "syncdir log", "mkdir deep/er", "syncdir deep")
	inOrder(t, ops, "create deep/er/spare", "write deep/er/spare", "syncdata deep/er/spare", "rename deep/er/spare deep/er/"+segment0, "syncdir deep/er")
	for _, op := range ops[:position(t, ops, "rename", 0)] {
		if strings.HasPrefix(op, "syncdata") && !strings.HasSuffix(op, "spare") {
			t.Errorf("before there is a log, %s", op)
		}
	}

	// An existing directory may have been made a moment ago by somebody who did not sync it.
	l = newLab(crashfs.New())
	must(t, l.Mkdir(labDir, 0o700))
	l.did()
	w, err = wal.Create(labDir, []byte("meta"), l.options())
	must(t, err)
	must(t, l.settle(t))
	inOrder(t, l.did(), "syncdir .", "rename spare "+segment0, "syncdir log")

	// A cut: the old segment is whole and durable before the new one has its name, and the name is
	// durable before the call that needed the segment returns.
	var i uint64
	for len(l.segments()) < 2 {
		i++
		l.did()
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	ops = l.did()
	renamed := position(t, ops, "rename spare "+second, 0)
	inOrder(t, ops, "rename spare "+second, "write "+second, "syncdata "+second, "syncdir log")
	for _, op := range ops[renamed:] {
		if strings.Contains(op, segment0) {
			t.Errorf("after the cut, %s", op)
		}
	}
	full, err := l.ReadFile(labDir + "/" + segment0)
	must(t, err)
	after := l.Crash(crashfs.DropAll)
	if b, err := after.ReadFile(labDir + "/" + segment0); err != nil || !bytes.Equal(b, full) {
		t.Errorf("of the full segment, %d bytes are durable, %v; not %d", len(b), err, len(full))
	}

	// Released segments stay away.
	for len(l.segments()) < 3 {
		i++
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	for range 2 {
		i++
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: i - 1, Term: 1}))
	l.did()
	must(t, w.Release(i-1))
	ops = l.did()
	inOrder(t, ops, "remove "+segment0, "remove "+second, "syncdir log")
	if list := names(l.Crash(crashfs.DropAll)); len(list) == 0 || slices.Contains(list, segment0) || !slices.ContainsFunc(list, func(n string) bool { return strings.HasPrefix(n, third) }) {
		t.Errorf("after Release and a crash there are %v", list)
	}
	must(t, w.Close())

	// A trim: the copy is durable before the original goes, and the zeros are before anything is
	// appended.
	torn := damage(l.FS.Crash(crashfs.KeepAll), l.segments()[0], func(b []byte) []byte {
		end := len(bytes.TrimRight(b, "\x00")) + 64
		copy(b[end&^7:], "torn")
		return b
	})
	l = newLab(torn)
	w, err = wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle(t))
	ops = l.did()
	copied := position(t, ops, "rename "+third, 0)
	if !strings.Contains(ops[copied], ".torn") {
		t.Fatalf("not a copy: %s", ops[copied])
	}
	segment := l.segments()[0]
	inOrder(t, ops, "write "+segment+".", "syncdata "+segment+".", "rename "+segment+".", "syncdir log", "write "+segment+" ", "syncdata "+segment, "syncdir log")
	must(t, w.Close())

	// So it is with a repair.
	l = newLab(damage(l.FS.Crash(crashfs.KeepAll), segment, func(b []byte) []byte {
		copy(b[(len(bytes.TrimRight(b, "\x00"))+64)&^7:], "torn")
		return b
	}))
	plan, err := wal.PlanRepair(labDir, l.options())
	must(t, err)
	if ops := l.did(); len(ops) > 0 {
		t.Errorf("planning did %v", ops)
	}
	must(t, plan.Apply())
	inOrder(t, l.did(), "write "+segment+".", "syncdata "+segment+".", "rename "+segment+".", "syncdir log", "write "+segment+" ", "syncdata "+segment, "syncdir log")
}

// segments returns the names of the segments that are there.
func (l *lab) segments() []string {
	var list []string
	for _, n := range names(l.FS) {
		if filepath.Ext(n) == ".wal" {
			list = append(list, n)
		}
	}
	return list
}
