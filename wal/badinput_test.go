package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// threeSegments returns the files of a log with three segments, entries 1 to last, and a snapshot
// record in the last one.
func threeSegments(t *testing.T, change ...func(*wal.Options)) (files map[string][]byte, segments []string, last uint64) {
	t.Helper()
	l, w := create(t, change...)
	for len(l.segments()) < 3 {
		last++
		l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last - 1, Term: 1}))
	last++
	l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
	must(t, w.Close())
	return l.Tree(), l.segments(), last
}

func TestBadDirectoriesAreNamedWithTheReason(t *testing.T) {
	good, segments, _ := threeSegments(t)
	random := make([]byte, 5000)
	rand.NewChaCha8([32]byte{1}).Read(random)
	huge := binary.LittleEndian.AppendUint64(nil, 1<<56-1)
	with := func(change func(files map[string][]byte)) map[string][]byte {
		files := maps.Clone(good)
		change(files)
		return files
	}
	add := func(name string, b []byte) map[string][]byte {
		return with(func(f map[string][]byte) { f["log/"+name] = b })
	}
	one := func(b []byte) map[string][]byte { return map[string][]byte{"log/" + segment0: b} }
	var corrupt *wal.CorruptError
	for _, c := range []struct {
		name  string
		files map[string][]byte
		is    error    // of Open, Check and Records
		kind  wal.Kind // or, of a CorruptError
		says  []string
	}{
		{name: "missing", files: map[string][]byte{"other/": nil}, is: fs.ErrNotExist, says: []string{"log"}},
		{name: "a file", files: map[string][]byte{"log": []byte("a file")}, is: wal.ErrForeign, says: []string{"log"}},
		{name: "empty", files: map[string][]byte{"log/": nil}, is: wal.ErrNoLog, says: []string{"log", "*.wal"}},
		{name: "no log", files: map[string][]byte{"log/a.txt": nil, "log/0.tmp": random}, is: wal.ErrNoLog, says: []string{"log", "*.wal"}},
		{name: "random bytes", files: one(random), kind: wal.BadLength, says: []string{segment0}},
		{name: "2^56 bytes", files: one(huge), kind: wal.BadLength, says: []string{segment0, fmt.Sprint(int64(1<<56 - 1))}},
		{name: "2^56 bytes, more follows", files: one(append(huge, random...)), kind: wal.BadLength, says: []string{segment0}},
		{name: "empty file", files: one(nil), says: []string{segment0}},
		{name: "zeros", files: one(make([]byte, 9000)), kind: wal.ZeroLength, says: []string{segment0}},
		{name: "no metadata", files: one(forge(0, head()[0], head()[2])), kind: wal.BadHead, says: []string{segment0, "metadata"}},
		{name: "no checksum", files: one(forge(0, head()[1:]...)), kind: wal.BadHead, says: []string{segment0, "crc"}},
		{name: "stray", files: add("x.wal.orig.wal", []byte("x")), is: wal.ErrForeign, says: []string{"log", "x.wal.orig.wal"}},
		{name: "backup of a segment", files: add("0000000000000000-0000000000000000.wal.orig.wal", good["log/"+segment0]), is: wal.ErrForeign, says: []string{"wal.orig.wal"}},
		{name: "too few digits", files: add("1-5.wal", good["log/"+segment0]), is: wal.ErrForeign, says: []string{"1-5.wal"}},
		{name: "upper case", files: add("000000000000000A-0000000000000001.wal", nil), is: wal.ErrForeign, says: []string{"000000000000000A"}},
		{name: "longer suffix", files: add("0000000000000003-0000000000000001.walx.wal", nil), is: wal.ErrForeign, says: []string{".walx.wal"}},
		{name: "a directory with a segment's name", files: add("0000000000000003-0000000000000001.wal/", nil), is: wal.ErrForeign, says: []string{"0000000000000003-0000000000000001.wal: not a segment but a directory"}},
		{name: "nothing but a directory with a segment's name", files: map[string][]byte{"log/" + segment0 + "/a": nil}, is: wal.ErrForeign, says: []string{segment0, "directory: move it away"}},
		{name: "one number twice", files: add("0000000000000001-0000000000000000.wal", good["log/"+segments[1]]), kind: wal.DoubleSegment, says: []string{"0000000000000001-"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := crashfs.Load(c.files)
			before := f.Tree()
			for _, how := range []struct {
				name string
				do   func(*wal.Options) error
			}{
				{"Open", func(o *wal.Options) error {
					w, err := wal.Open(labDir, o)
					if err == nil {
						w.Close()
					}
					return err
				}},
				{"Records", func(o *wal.Options) error {
					var last error
					for _, err := range wal.Records(labDir, 0, o) {
						last = err
					}
					return last
				}},
				{"Replay", func(o *wal.Options) error {
					_, err := wal.Replay(wal.Records(labDir, 0, o), walpb.Snapshot{})
					return err
				}},
				{"Snapshots", func(o *wal.Options) error {
					_, err := wal.Snapshots(wal.Records(labDir, 0, o))
					return err
				}},
				{"PlanRepair", func(o *wal.Options) error {
					_, err := wal.PlanRepair(labDir, o)
					return err
				}},
			} {
				l := newLab(f)
				var m0, m1 runtime.MemStats
				runtime.ReadMemStats(&m0)
				err := how.do(l.options())
				runtime.ReadMemStats(&m1)
				if n := m1.TotalAlloc - m0.TotalAlloc; n > 32<<20 {
					t.Errorf("%s allocated %d bytes", how.name, n)
				}
				switch {
				case err == nil:
					t.Errorf("%s: no error", how.name)
					continue
				case c.is != nil && !errors.Is(err, c.is):
					t.Errorf("%s: %v, want %v", how.name, err, c.is)
				case c.is == nil && (!errors.As(err, &corrupt) || corrupt.Kind != c.kind):
					t.Errorf("%s: %v, want a CorruptError of kind %v", how.name, err, c.kind)
				}
				if c.is == wal.ErrNoLog && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v is not fs.ErrNotExist", how.name, err)
				}
				for _, s := range append(c.says, "wal: ") {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%s: %q does not say %q", how.name, err, s)
					}
				}
				l.nothingLeft(t)
				if d := onlyDiffer(before, f.Tree()); len(d) > 0 {
					t.Errorf("%s changed %v", how.name, d)
				}
			}
			l := newLab(f)
			if r, err := wal.Check(labDir, l.options()); err == nil && r.Verdict < wal.Corrupt {
				t.Errorf("Check: %v", r.Verdict)
			} else if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("Check: %v, want %v", err, c.is)
			}
			l.nothingLeft(t)
		})
	}
}

func TestMissingSegmentMattersUnlessASnapshotReplacesIt(t *testing.T) {
	good, segments, last := threeSegments(t)
	without := func(name string) *crashfs.FS {
		files := maps.Clone(good)
		delete(files, "log/"+name)
		return crashfs.Load(files)
	}
	// The newest usable snapshot record is in the third segment: the log goes on without the
	// second, and without the first.
	for _, name := range segments[:2] {
		f := without(name)
		if r := check(t, f); name == segments[1] && r.Verdict != wal.Passed {
			t.Errorf("without %s: Check says %v, want %v", name, r.Verdict, wal.Passed)
		}
		l := newLab(f)
		w, err := wal.Open(labDir, l.options())
		if err != nil {
			t.Errorf("without %s: %v", name, err)
			continue
		}
		must(t, l.settle(t))
		must(t, w.Save(walpb.HardState{}, entries(1, last+1, last+1, 10)))
		must(t, w.Close())
		snapshots, err := wal.Snapshots(wal.Records(labDir, 0, l.options()))
		if err != nil || len(snapshots) == 0 {
			t.Fatalf("without %s: snapshots %v, %v", name, snapshots, err)
		}
		newest := snapshots[len(snapshots)-1]
		if newest.Index != last-2 {
			t.Errorf("without %s: newest snapshot %d, want %d", name, newest.Index, last-2)
		}
		log, err := replay(f, newest)
		if err != nil || text(log.Entries) != text(entries(1, last-1, last+1, 0)) {
			t.Errorf("without %s: from %d the log holds %v, %v", name, newest.Index, log, err)
		}
		l.nothingLeft(t)
	}

	// Without a snapshot record behind the gap what is missing is the log.
	l, w := create(t)
	for i := uint64(1); len(l.segments()) < 3; i++ {
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+l.segments()[1])
	f := crashfs.Load(files)
	l2 := newLab(f)
	_, err := wal.Open(labDir, l2.options())
	var corrupt *wal.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment || !strings.Contains(err.Error(), "0000000000000001") {
		t.Errorf("Open: %v, want the missing segment named", err)
	}
	if _, err := replay(f, walpb.Snapshot{}); !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment {
		t.Errorf("Replay: %v", err)
	}
	if r := check(t, f); r.Verdict != wal.Missing {
		t.Errorf("Check: %v", r.Verdict)
	}
	if d := onlyDiffer(files, f.Tree()); len(d) > 0 {
		t.Errorf("changed: %v", d)
	}
	l2.nothingLeft(t)
}

// A crash in a Release can bring back any of the segments that it removed.
func TestSeveralGapsMatterNoMoreThanOne(t *testing.T) {
	l, w := create(t)
	last := uint64(0)
	for len(l.segments()) < 6 {
		last++
		l.save(t, w, state(1, last), entries(1, last, last, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last, Term: 1}))
	must(t, w.Close())
	files := l.Tree()
	for _, i := range []int{1, 3} {
		delete(files, "log/"+l.segments()[i])
	}
	f := crashfs.Load(files)
	if r := check(t, f); r.Verdict != wal.Passed || len(r.Findings) != 2 {
		t.Errorf("Check says %v, want %v: %+v", r.Verdict, wal.Passed, r.Findings)
	}
	if p, err := wal.PlanRepair(labDir, &wal.Options{FS: f}); err != nil || p.Verdict != wal.Clean {
		t.Errorf("PlanRepair: %+v, %v", p, err)
	}
	l2 := newLab(f)
	w, err := wal.Open(labDir, l2.options())
	must(t, err)
	must(t, l2.settle(t))
	must(t, w.Save(walpb.HardState{}, entries(1, last+1, last+1, 10)))
	must(t, w.Close())
	log, err := replay(f, walpb.Snapshot{Index: last, Term: 1})
	if err != nil || text(log.Entries) != text(entries(1, last+1, last+1, 0)) {
		t.Errorf("the log holds %v, %v", log, err)
	}
	l2.nothingLeft(t)
}

// A file system that does not answer says nothing about the log: nothing may be concluded, renamed
// or trimmed.
func TestFileSystemErrorsAreReturnedAndNothingIsTouched(t *testing.T) {
	good, segments, _ := threeSegments(t)
	torn := damage(crashfs.Load(good), segments[2], func(b []byte) []byte {
		copy(b[(len(bytes.TrimRight(b, "\x00"))+64)&^7:], "torn")
		return b
	})
	for _, fault := range []error{syscall.EIO, syscall.EACCES, syscall.EMFILE} {
		for _, kind := range []crashfs.OpKind{crashfs.OpStat, crashfs.OpReadDir, crashfs.OpOpen, crashfs.OpRead, crashfs.OpLock} {
			for n := 0; ; n++ {
				f := torn.Clone()
				before := f.Tree()
				l := newLab(f)
				seen, trimming := 0, false
				var mu sync.Mutex // an Open that succeeds makes a spare in the background
				l.onOp = func(op crashfs.Op) error {
					mu.Lock()
					defer mu.Unlock()
					trimming = trimming || op.Kind == crashfs.OpCreate
					if op.Kind != kind || trimming || op.Name == filepath.Dir(labDir) { // the parent need not be ours
						return nil
					}
					if seen++; seen-1 == n {
						return fault
					}
					return nil
				}
				w, err := wal.Open(labDir, l.options())
				if w != nil {
					w.Close()
				}
				if seen <= n {
					if n == 0 && kind != crashfs.OpStat {
						t.Errorf("Open does no %s", kind)
					}
					break
				}
				var corrupt *wal.CorruptError
				if !errors.Is(err, fault) || errors.As(err, &corrupt) {
					t.Errorf("%s number %d failed with %v: Open says %v", kind, n, fault, err)
				}
				if d := onlyDiffer(before, f.Tree()); len(d) > 0 {
					t.Errorf("%s number %d failed with %v: Open changed %v", kind, n, fault, d)
				}
				l.nothingLeft(t)
				if n > 100 {
					t.Fatal("endless")
				}
			}
		}
	}
}

// On a file system that can only be read the log can be read, and Open says why it does not open.
func TestReadOnlyFileSystem(t *testing.T) {
	good, _, last := threeSegments(t)
	f := crashfs.Load(good)
	l := newLab(f)
	l.onOp = func(op crashfs.Op) error {
		if op.Kind.Changes() {
			return syscall.EROFS
		}
		return nil
	}
	if w, err := wal.Open(labDir, l.options()); !errors.Is(err, syscall.EROFS) || !strings.HasPrefix(err.Error(), "wal: ") {
		t.Errorf("Open: %v, %v", w, err)
	}
	if w, err := wal.Create("other", nil, l.options()); !errors.Is(err, syscall.EROFS) || !strings.HasPrefix(err.Error(), "wal: ") {
		t.Errorf("Create: %v, %v", w, err)
	}
	l.nothingLeft(t)
	log, err := wal.Replay(wal.Records(labDir, 0, l.options()), walpb.Snapshot{})
	if err != nil || text(log.Entries) != text(entries(1, 1, last, 0)) {
		t.Errorf("Replay: %v, %v", log, err)
	}
	if r, err := wal.Check(labDir, l.options()); err != nil || r.Verdict != wal.Clean {
		t.Errorf("Check: %v, %v", r, err)
	}
	if d := onlyDiffer(good, f.Tree()); len(d) > 0 {
		t.Errorf("changed: %v", d)
	}
	l.nothingLeft(t)
}

func TestUnreadableDirectoryOfTheOperatingSystem(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("SKIPPED: root may read everything; run the tests as another user to see what EACCES does")
	}
	dir := filepath.Join(t.TempDir(), "log")
	w, err := wal.Create(dir, nil, &wal.Options{SegmentSize: 1 << 16})
	must(t, err)
	must(t, w.Close())
	for _, name := range []string{filepath.Join(dir, segment0), dir} {
		must(t, os.Chmod(name, 0))
		if _, err := wal.Open(dir, nil); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), name) {
			t.Errorf("Open: %v", err)
		}
		if _, err := wal.Check(dir, nil); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Check: %v", err)
		}
		must(t, os.Chmod(name, 0o700))
	}
}

// openFiles returns the names of the files below dir that this process has open.
func openFiles(t *testing.T, dir string) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("SKIPPED: descriptors cannot be counted here: %v", err)
	}
	var open []string
	for _, fd := range fds {
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(name, dir) {
			open = append(open, name)
		}
	}
	return open
}

// R22. Whatever becomes of a log, no descriptor and no goroutine is left of it.
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

// A snapshot record behind a gap says nothing about the entries after that snapshot. If these were
// in the missing segments, as the name of the next one tells, they are lost, and with them what was
// committed.
func TestMissingSegmentMattersIfItHeldEntriesAfterTheSnapshot(t *testing.T) {
	l, w := create(t)
	last := uint64(0)
	for len(l.segments()) < 3 {
		last++
		l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
	}
	must(t, w.Save(state(1, last), nil))
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 1, ConfState: []byte{8, 1}}))
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+l.segments()[1])
	f := crashfs.Load(files)
	refused(t, f, l.segments()[2], 0, wal.MissingSegment)
	o := &wal.Options{FS: f}
	var corrupt *wal.CorruptError
	if s, err := wal.Snapshots(wal.Records(labDir, 0, o)); !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment {
		t.Errorf("Snapshots: %v, %v", s, err)
	}
	if log, err := wal.Replay(wal.Records(labDir, 0, o), walpb.Snapshot{Index: 2, Term: 1}); !errors.As(err, &corrupt) || corrupt.Kind != wal.MissingSegment {
		t.Errorf("Replay: %v, %v", log, err)
	}
}

// Where entries were overwritten the names of the segments do not grow. Release goes by any of
// them, so a crash in it may leave a segment behind a gap whose name is beyond the snapshot, if a
// later one's is not.
func TestMissingSegmentsDoNotMatterIfALaterNameSaysSo(t *testing.T) {
	l, w := create(t)
	last := uint64(0)
	for len(l.segments()) < 3 {
		last++
		l.save(t, w, state(1, 0), entries(1, last, last, 1000))
	}
	last = 3 // a leader of another term takes it from there
	for len(l.segments()) < 4 {
		last++
		l.save(t, w, state(2, 0), entries(2, last, last, 1000))
	}
	names := l.segments()
	if names[3][17:] >= names[2][17:] {
		t.Fatalf("the names grow: %v", names)
	}
	must(t, w.Save(state(2, last), nil))
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last, Term: 2, ConfState: []byte{8, 1}}))
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+names[1])
	f := crashfs.Load(files)
	if r := check(t, f); r.Verdict != wal.Passed {
		t.Errorf("Check: %v %+v", r.Verdict, r.Findings)
	}
	s, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: f}))
	must(t, err)
	if len(s) != 1 || s[0].Index != last {
		t.Errorf("snapshots %v", s)
	}
	log, err := replay(f, s[0])
	if err != nil || log.State.Commit != last {
		t.Errorf("Replay: %v %v", log, err)
	}
	w, err = wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
	must(t, err)
	must(t, w.Close())
}

// Of a snapshot that was recorded twice the first record may be in a segment that a crash in
// Release has left in front of a gap.
func TestReplayGoesOnBehindAGapFromASnapshotThatIsRecordedTwice(t *testing.T) {
	l, w := create(t)
	snapshot := walpb.Snapshot{Index: 2, Term: 1, ConfState: []byte{8, 1}}
	term := uint64(1)
	must(t, w.Save(state(1, 2), entries(1, 1, 2, 10)))
	must(t, w.SaveSnapshot(snapshot))
	for len(l.segments()) < 3 { // votes fill the segments
		term++
		l.save(t, w, state(term, 2), nil)
	}
	must(t, w.SaveSnapshot(snapshot))
	must(t, w.Close())
	files := l.Tree()
	delete(files, "log/"+l.segments()[1])
	log, err := wal.Replay(wal.Records(labDir, 0, &wal.Options{FS: crashfs.Load(files)}), snapshot)
	if err != nil || len(log.Entries) != 0 || log.State != state(term, 2) {
		t.Errorf("%+v, %v", log, err)
	}
}
