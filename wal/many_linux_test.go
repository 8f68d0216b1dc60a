package wal_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A log has as many segments as its owner likes, and a process few descriptors.
func TestALogOfManySegmentsTakesFewDescriptors(t *testing.T) {
	const child = "STELE_TEST_FEW_DESCRIPTORS"
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		if testing.Short() {
			cmd.Args = append(cmd.Args, "-test.short")
		}
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		must(t, err)
		return
	}
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 256, Max: 256}))
	segments := 10_000
	if testing.Short() {
		segments = 1000
	}
	t.Run("without syncs", func(t *testing.T) { fewDescriptors(t, segments, true) })
	t.Run("with syncs", func(t *testing.T) { fewDescriptors(t, 100, false) }) // and so with a mark
}

func fewDescriptors(t *testing.T, segments int, noSync bool) {
	dir := filepath.Join(t.TempDir(), "wal")
	f := &countingFS{FS: fileutil.OS{}}
	tasks := make(chan func(), 100)
	o := &wal.Options{FS: f, SegmentSize: 4096, NoSync: noSync, Background: func(task func()) { tasks <- task }}
	did := func(what string, err error) {
		t.Helper()
		must(t, err)
		open, most := f.count()
		if most > 8 {
			t.Errorf("%s: %d descriptors at once", what, most)
		}
		t.Logf("%s: %d descriptors at once, %d after it", what, most, open)
	}

	w, err := wal.Create(dir, nil, o)
	did("Create", err)
	for i := range uint64(segments) {
		if len(tasks) > 0 {
			(<-tasks)()
		}
		must(t, w.Save(walpb.HardState{Term: 1, Commit: i + 1}, entries(1, i+1, i+1, 4096)))
	}
	half := walpb.Snapshot{Term: 1, Index: uint64(segments / 2)}
	must(t, w.SaveSnapshot(half))
	did("Save", nil)
	did("Close", w.Close())
	if names, err := filepath.Glob(filepath.Join(dir, "*.wal")); len(names) < segments {
		t.Fatalf("%d segments, %v", len(names), err)
	}

	w, err = wal.Open(dir, o)
	did("Open", err)
	did("Close", w.Close())
	report, err := wal.Check(dir, o)
	did("Check", err)
	if report.Verdict != wal.Clean || report.LastIndex != uint64(segments) {
		t.Errorf("%v, last index %d", report.Verdict, report.LastIndex)
	}
	snapshots, err := wal.Snapshots(wal.Records(dir, 0, o))
	did("Snapshots", err)
	newest, _ := wal.Newest(snapshots)
	l, err := wal.Replay(wal.Records(dir, newest.Index, o), newest)
	did("Replay", err)
	if newest.Index != half.Index || len(l.Entries) != segments-segments/2 {
		t.Errorf("%d entries after %d", len(l.Entries), newest.Index)
	}
	w, l, err = wal.Recover(dir, o, func(s []walpb.Snapshot) (walpb.Snapshot, error) { return half, nil })
	did("Recover", err)
	if len(l.Entries) != segments-segments/2 {
		t.Errorf("%d entries", len(l.Entries))
	}
	did("Release", w.Release(half.Index))
	did("Close", w.Close())
	if names, err := filepath.Glob(filepath.Join(dir, "*.wal")); len(names) > segments-segments/2+2 {
		t.Fatalf("%d segments after a Release, %v", len(names), err)
	}
	if open, _ := f.count(); open != 0 {
		t.Errorf("%d descriptors are left open", open)
	}
}

// countingFS counts what is open.
type countingFS struct {
	fileutil.FS
	mu         sync.Mutex
	open, most int
}

// count returns how many files and directories are open, and how many there were at once since the
// last call.
func (f *countingFS) count() (open, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	most, f.most = f.most, f.open
	return f.open, most
}

func (f *countingFS) add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open += n
	f.most = max(f.most, f.open)
}

func (f *countingFS) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	f.add(1)
	return countedFile{file, f}, nil
}

func (f *countingFS) OpenDir(name string) (fileutil.Dir, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	f.add(1)
	return countedDir{dir, f}, nil
}

type countedFile struct {
	fileutil.File
	fs *countingFS
}

func (f countedFile) Close() error {
	f.fs.add(-1)
	return f.File.Close()
}

type countedDir struct {
	fileutil.Dir
	fs *countingFS
}

func (d countedDir) Close() error {
	d.fs.add(-1)
	return d.Dir.Close()
}
