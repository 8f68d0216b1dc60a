package wal_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
)

// A lab is a crashfs with instruments. It keeps a list of all operations, counts open files, and
// fails or holds operations. It calls a file by its present name, where crashfs has the one it was
// opened by.
type lab struct {
	*crashfs.FS
	// onOp is called before each operation. It may block; what it returns is injected.
	onOp func(op crashfs.Op) error

	mu     sync.Mutex // held during each operation, so that inject reaches the one it is meant for
	inject error
	ops    []crashfs.Op
	files  map[*labFile]bool

	cuts   atomic.Int32 // segments that got their names
	filled atomic.Int32 // segments that end where the next begins
	tasks  chan func()  // what the Writer wants done in the background
	spare  error        // what Observer.Spare was told last
	last   uint64       // the index of the entry that save saved last
}

// labDir is the directory of the log in a lab.
const labDir = "log"

func newLab(on *crashfs.FS) *lab {
	on.SetDirect(func(name string) bool { return strings.HasSuffix(name, ".wal") || spareNames.MatchString(name) })
	l := &lab{FS: on, files: map[*labFile]bool{}, tasks: make(chan func(), 100)}
	on.SetFault(func(crashfs.Op) error { return l.inject })
	return l
}

// options returns options for a log in the lab, with segments small enough to be cut soon. What is
// to be done in the background waits for settle.
func (l *lab) options() *wal.Options {
	o := &wal.Options{SegmentSize: 8 << 10, FS: l}
	o.Background = func(task func()) { l.tasks <- task }
	o.Observer.Spare = func(err error) { l.spare = err }
	o.Observer.Cut = func(string, time.Duration) { l.cuts.Add(1) }
	return o
}

// settle makes the spare that Create, Open or a cut asked for, if one did. The error is that of
// making it.
func (l *lab) settle() error {
	l.spare = nil
	for {
		select {
		case task := <-l.tasks:
			task()
		default:
			return l.spare
		}
	}
}

func (l *lab) do(op crashfs.Op, apply func() error) error {
	var fault error
	if l.onOp != nil {
		fault = l.onOp(op)
	}
	if op.Kind == crashfs.OpTruncate && isSegment(op) {
		l.filled.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
	l.inject = fault
	defer func() { l.inject = nil }()
	return apply()
}

// handles returns the names of the files that are open.
func (l *lab) handles() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for f := range l.files {
		names = append(names, f.name)
	}
	return names
}

var spareNames = regexp.MustCompile(`([ /])\d+\.tmp`)

// did returns the changes that were made since the last call, in order, without the directory's
// name, and with every spare called spare.
func (l *lab) did() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for _, op := range l.ops {
		if op.Kind.Changes() {
			line := strings.ReplaceAll(op.String(), labDir+"/", "")
			lines = append(lines, spareNames.ReplaceAllString(line, "${1}spare"))
		}
	}
	l.ops = nil
	return lines
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

func (l *lab) OpenFile(name string, flag int, perm fs.FileMode) (f fileutil.File, err error) {
	op := crashfs.Op{Kind: crashfs.OpOpen, Name: name}
	if _, err := l.FS.ReadFile(name); err != nil && flag&os.O_CREATE != 0 {
		op.Kind = crashfs.OpCreate
	}
	err = l.do(op, func() error {
		under, err := l.FS.OpenFile(name, flag, perm)
		if err == nil {
			file := &labFile{File: under, lab: l, name: name}
			l.files[file] = true
			f = file
		}
		return err
	})
	return f, err
}

func (l *lab) ReadDir(name string) (list []fs.DirEntry, err error) {
	err = l.do(crashfs.Op{Kind: crashfs.OpReadDir, Name: name}, func() (err error) { list, err = l.FS.ReadDir(name); return err })
	return list, err
}

func (l *lab) Stat(name string) (info fs.FileInfo, err error) {
	err = l.do(crashfs.Op{Kind: crashfs.OpStat, Name: name}, func() (err error) { info, err = l.FS.Stat(name); return err })
	return info, err
}

func (l *lab) Mkdir(name string, perm fs.FileMode) error {
	return l.do(crashfs.Op{Kind: crashfs.OpMkdir, Name: name}, func() error { return l.FS.Mkdir(name, perm) })
}

func (l *lab) Remove(name string) error {
	return l.do(crashfs.Op{Kind: crashfs.OpRemove, Name: name}, func() error { return l.FS.Remove(name) })
}

func (l *lab) OpenDir(name string) (d fileutil.Dir, err error) {
	err = l.do(crashfs.Op{Kind: crashfs.OpOpen, Name: name}, func() error {
		under, err := l.FS.OpenDir(name)
		d = labNames{under, l, name}
		return err
	})
	return d, err
}

type labNames struct {
	fileutil.Dir
	lab  *lab
	name string
}

func (d labNames) Sync() error {
	return d.lab.do(crashfs.Op{Kind: crashfs.OpSyncDir, Name: d.name}, d.Dir.Sync)
}

func (d labNames) Close() error {
	return d.lab.do(crashfs.Op{Kind: crashfs.OpClose, Name: d.name}, d.Dir.Close)
}

func (l *lab) Rename(from, to string) error {
	return l.do(crashfs.Op{Kind: crashfs.OpRename, Name: from, NewName: to}, func() error {
		err := l.FS.Rename(from, to)
		for f := range l.files {
			if err == nil && f.name == from {
				f.name = to
			}
		}
		return err
	})
}

type labFile struct {
	fileutil.File
	lab  *lab
	name string // as it is now; guarded by lab.mu
}

func (f *labFile) do(op crashfs.Op, apply func() error) error {
	f.lab.mu.Lock()
	op.Name = f.name
	f.lab.mu.Unlock()
	return f.lab.do(op, apply)
}

func (f *labFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = f.do(crashfs.Op{Kind: crashfs.OpRead, Off: off, N: int64(len(b))}, func() (err error) { n, err = f.File.ReadAt(b, off); return err })
	return n, err
}

func (f *labFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.do(crashfs.Op{Kind: crashfs.OpWrite, Off: off, N: int64(len(b))}, func() (err error) { n, err = f.File.WriteAt(b, off); return err })
	return n, err
}

func (f *labFile) Size() (n int64, err error) {
	err = f.do(crashfs.Op{Kind: crashfs.OpStat}, func() (err error) { n, err = f.File.Size(); return err })
	return n, err
}

func (f *labFile) Truncate(n int64) error {
	return f.do(crashfs.Op{Kind: crashfs.OpTruncate, N: n}, func() error { return f.File.Truncate(n) })
}

func (f *labFile) Preallocate(n int64) error {
	return f.do(crashfs.Op{Kind: crashfs.OpPreallocate, N: n}, func() error { return f.File.Preallocate(n) })
}

func (f *labFile) SyncData() error {
	return f.do(crashfs.Op{Kind: crashfs.OpSyncData}, f.File.SyncData)
}

func (f *labFile) Lock() error { return f.do(crashfs.Op{Kind: crashfs.OpLock}, f.File.Lock) }

func (f *labFile) Locked() (held bool, err error) {
	err = f.do(crashfs.Op{Kind: crashfs.OpLock}, func() (err error) { held, err = f.File.Locked(); return err })
	return held, err
}

func (f *labFile) NextData(off int64) (next int64, err error) {
	err = f.do(crashfs.Op{Kind: crashfs.OpRead, Off: off}, func() (err error) { next, err = f.File.NextData(off); return err })
	return next, err
}

func (f *labFile) DropCache() error {
	return f.do(crashfs.Op{Kind: crashfs.OpDropCache}, f.File.DropCache)
}

func (f *labFile) Close() error {
	return f.do(crashfs.Op{Kind: crashfs.OpClose}, func() error {
		delete(f.lab.files, f)
		return f.File.Close()
	})
}

// isSegment reports whether an operation is on a segment under its final name.
func isSegment(op crashfs.Op) bool { return strings.HasSuffix(op.Name, ".wal") }

// isSpare reports whether an operation is on the segment in preparation.
func isSpare(op crashfs.Op) bool { return strings.HasSuffix(op.Name, ".tmp") }

// full makes the disk of a lab as large as what is on it.
func (l *lab) full() { l.SetSize(l.Used()) }

// A held lab holds every sync of a segment until it is told to let one go.
type held struct {
	*lab
	w     *wal.Writer
	gate  chan error // each sync takes one
	syncs int
}

// hold makes a log in a synctest bubble. From then on its syncs wait.
func hold(t *testing.T) *held {
	t.Helper()
	l, w := create(t)
	h := &held{lab: l, w: w, gate: make(chan error)}
	l.onOp = func(op crashfs.Op) error {
		if op.Kind != crashfs.OpSyncData || !isSegment(op) {
			return nil
		}
		err, open := <-h.gate
		if open || err == nil {
			h.syncs++
		}
		return err
	}
	return h
}

// createFailing makes a log in a new lab whose spares cannot be synced.
func createFailing(t *testing.T) (*lab, *wal.Writer) {
	t.Helper()
	l := newLab(crashfs.New())
	w, err := wal.Create(labDir, nil, l.options())
	must(t, err)
	l.onOp = func(op crashfs.Op) error {
		if isSpare(op) && op.Kind == crashfs.OpSyncData {
			return syscall.EIO
		}
		return nil
	}
	return l, w
}

// walGoroutines returns the stacks of goroutines that run, or were started by, code of package wal.
func walGoroutines() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var in []string
	for _, stack := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(stack, "stele-wal/stele/wal.") {
			in = append(in, stack)
		}
	}
	return in
}

// noGoroutines fails unless every goroutine of package wal ends. A goroutine that has done its work
// is a moment away from its end, hence the patience.
func noGoroutines(t *testing.T) {
	t.Helper()
	for tries := 0; len(walGoroutines()) > 0; runtime.Gosched() {
		// Counted, not timed: in a synctest bubble time would stand still.
		if tries++; tries > 10_000 {
			t.Fatalf("goroutines are left:\n%s", strings.Join(walGoroutines(), "\n\n"))
		}
	}
}

// nothingLeft fails if the lab has open files or package wal goroutines.
func (l *lab) nothingLeft(t *testing.T) {
	t.Helper()
	if open := l.handles(); len(open) > 0 {
		t.Errorf("files are left open: %v", open)
	}
	noGoroutines(t)
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
