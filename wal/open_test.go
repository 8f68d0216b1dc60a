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
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D27, T33. An error names the directory or the file that is wrong, and says what is wrong with it.
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
					// The parent directory need not be ours.
					if op.Kind != kind || trimming || op.Name == filepath.Dir(labDir) {
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

const deep = "base/member/wal"

// unsyncedLog is a log of several segments of which nothing is durable, not even its directory.
func unsyncedLog(t *testing.T) *crashfs.FS {
	t.Helper()
	disk := crashfs.New()
	w, err := wal.Create(deep, nil, &wal.Options{FS: disk, SegmentSize: 4096, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(40) {
		if err := w.Save(walpb.HardState{Term: 1, Commit: i}, []walpb.Entry{{Index: i + 1, Term: 1, Data: make([]byte, 300)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

// lasts fails the test unless a log has all of its 40 entries after a power cut.
func lasts(t *testing.T, disk *crashfs.FS) {
	t.Helper()
	after := disk.Crash(crashfs.DropAll)
	w, err := wal.Open(deep, &wal.Options{FS: after, SegmentSize: 4096})
	if err != nil {
		t.Fatalf("after a power cut: %v", err)
	}
	defer w.Close()
	log, err := wal.Replay(wal.Records(deep, 0, &wal.Options{FS: after}), walpb.Snapshot{})
	if err != nil || len(log.Entries) != 40 {
		t.Errorf("after a power cut: %v, %v", log, err)
	}
}

func TestOpenMakesDurableWhatWasNeverSynced(t *testing.T) {
	disk := unsyncedLog(t)
	w, err := wal.Open(deep, &wal.Options{FS: disk, SegmentSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	lasts(t, disk)
}

func TestRepairMakesDurableWhatWasNeverSynced(t *testing.T) {
	disk := unsyncedLog(t)
	beginFrame(t, disk)
	plan, err := wal.PlanRepair(deep, &wal.Options{FS: disk})
	if err != nil || plan.Verdict == wal.Clean {
		t.Fatalf("%+v, %v", plan, err)
	}
	if err := plan.Apply(); err != nil {
		t.Fatal(err)
	}
	lasts(t, disk)
}

// beginFrame writes the beginning of a frame after the end of a log.
func beginFrame(t *testing.T, disk *crashfs.FS) {
	t.Helper()
	names, err := disk.ReadDir(deep)
	if err != nil {
		t.Fatal(err)
	}
	name := path.Join(deep, names[len(names)-1].Name())
	b, err := disk.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(len(bytes.TrimRight(b, "\x00"))+7) / 8 * 8
	f, err := disk.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{100, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}, end); err != nil {
		t.Fatal(err)
	}
}

// What a failed sync could not write can be read until the cache is dropped.
func TestOpenReadsWhatTheDiskHasAlsoWithoutSync(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		disk := crashfs.New()
		w, err := wal.Create(deep, nil, &wal.Options{FS: disk, Background: func(func()) {}})
		must(t, err)
		must(t, w.Save(state(1, 0), entries(1, 1, 5, 100)))
		disk.SetFault(func(op crashfs.Op) error {
			if op.Kind == crashfs.OpSyncData {
				return syscall.EIO
			}
			return nil
		})
		if err := w.Save(state(1, 0), entries(1, 6, 9, 2000)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		w.Close()
		disk.SetFault(nil)
		o := &wal.Options{FS: disk, NoSync: noSync}
		before, err := wal.Replay(wal.Records(deep, 0, o), walpb.Snapshot{})
		if err != nil || len(before.Entries) != 9 {
			t.Fatalf("what was not written can be read until the cache is dropped: %v, %v", before, err)
		}
		w, err = wal.Open(deep, o)
		must(t, err)
		after, err := wal.Replay(wal.Records(deep, 0, o), walpb.Snapshot{})
		if err != nil || len(after.Entries) != 5 {
			t.Errorf("NoSync %v: %v, %v", noSync, after, err)
		}
		must(t, w.Close())
	}
}

// listed is a file system on which something happens after the names of a log were read.
type listed struct {
	fileutil.FS
	then func()
}

func (l *listed) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := l.FS.ReadDir(name)
	if then := l.then; then != nil {
		l.then = nil
		then()
	}
	return entries, err
}

// A log that is in use is locked, whatever its Writer does while Open takes the locks. It is not
// gone: a program that takes it to be would begin a new one.
func TestALogThatIsReleasedMeanwhileIsLocked(t *testing.T) {
	l := newLab(crashfs.New())
	w, err := wal.Create(labDir, nil, l.options())
	must(t, err)
	last := l.fill(t, w, 4)
	must(t, w.SaveSnapshot(walpb.Snapshot{Term: 1, Index: last}))
	_, err = wal.Open(labDir, &wal.Options{FS: &listed{l.FS, func() { must(t, w.Release(last)) }}})
	if !errors.Is(err, wal.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open says %v", err)
	}
	must(t, w.Close())
}

func TestADirectoryThatIsNotThereHoldsNoLog(t *testing.T) {
	o := &wal.Options{FS: crashfs.New()}
	newest := func(s []walpb.Snapshot) (walpb.Snapshot, error) { return walpb.Snapshot{}, nil }
	_, opened := wal.Open("nowhere", o)
	_, _, recovered := wal.Recover("nowhere", o, newest)
	_, checked := wal.Check("nowhere", o)
	_, replayed := wal.Replay(wal.Records("nowhere", 0, o), walpb.Snapshot{})
	for _, err := range []error{opened, recovered, checked, replayed} {
		if !errors.Is(err, wal.ErrNoLog) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
	}
}

func TestRecoverWantsAChoice(t *testing.T) {
	if _, _, err := wal.Recover("nowhere", &wal.Options{FS: crashfs.New()}, nil); !errors.Is(err, wal.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
