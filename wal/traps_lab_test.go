package wal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A lab is a crashfs with instruments. It knows every file by the name that the file has now, where
// crashfs tells the one that it was opened by; it keeps the list of what was done, counts open
// files, and fails or holds what it is told to.
type lab struct {
	*crashfs.FS
	onOp func(op crashfs.Op) error // called before each operation; may block; what it returns is injected

	mu     sync.Mutex // held during each operation, so that inject reaches the one that it is meant for
	inject error
	ops    []crashfs.Op
	files  map[*labFile]bool

	spares chan error   // what Observer.Spare was told
	cuts   atomic.Int32 // segments that got their names
	filled atomic.Int32 // segments that were filled: a spare is made from then on
}

// labDir is the directory of the log in a lab.
const labDir = "log"

func newLab(on *crashfs.FS) *lab {
	l := &lab{FS: on, files: map[*labFile]bool{}, spares: make(chan error, 1000)}
	on.SetFault(func(crashfs.Op) error { return l.inject })
	return l
}

// options returns options for a log in the lab, with segments small enough to be cut soon.
func (l *lab) options() *wal.Options {
	o := &wal.Options{SegmentSize: 8 << 10, FS: l}
	o.Observer.Spare = func(err error) { l.spares <- err }
	o.Observer.Cut = func(string, time.Duration) { l.cuts.Add(1) }
	return o
}

// settle waits until the spare is there that Create, Open or a cut asked for.
func (l *lab) settle(t *testing.T) error {
	t.Helper()
	select {
	case err := <-l.spares:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("no spare was made, and none failed")
		return nil
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

// isSegment tells whether an operation is on a segment under its final name.
func isSegment(op crashfs.Op) bool { return strings.HasSuffix(op.Name, ".wal") }

// tree returns what a directory of the operating system holds: for each name its mode, and of a
// file its size and sum.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		got[name] = info.Mode().String()
		if !e.IsDir() {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			got[name] += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// names returns the names in a crashfs below labDir, sorted.
func names(f *crashfs.FS) []string {
	var list []string
	for name := range f.Tree() {
		if base, ok := strings.CutPrefix(name, labDir+"/"); ok && base != "" {
			list = append(list, base)
		}
	}
	slices.Sort(list)
	return list
}

// onlyDiffer lists the names at which two trees differ.
func onlyDiffer(a, b map[string][]byte) []string {
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if other, ok := b[name]; !ok || !bytes.Equal(a[name], other) {
			differ = append(differ, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[name]; !ok {
			differ = append(differ, name)
		}
	}
	return differ
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
		if tries++; tries > 10_000 { // counted, not timed: in a synctest bubble time would stand still
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

// entries returns entries with the indexes from..to, all of a term, each with n bytes of data that
// tell it from others.
func entries(term, from, to uint64, n int) []walpb.Entry {
	var list []walpb.Entry
	for i := from; i <= to; i++ {
		data := bytes.Repeat([]byte{byte('a' + i%26)}, n)
		copy(data, fmt.Sprintf("%d/%d", i, term))
		list = append(list, walpb.Entry{Term: term, Index: i, Data: data})
	}
	return list
}

// text returns entries as index/term, like "1/1 2/1".
func text(list []walpb.Entry) string {
	var b []string
	for _, e := range list {
		b = append(b, fmt.Sprintf("%d/%d", e.Index, e.Term))
	}
	return strings.Join(b, " ")
}

// state returns a hard state of a term with a commit.
func state(term, commit uint64) walpb.HardState {
	return walpb.HardState{Term: term, Vote: 1, Commit: commit}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a log in a new lab.
func create(t *testing.T, change ...func(*wal.Options)) (*lab, *wal.Writer) {
	t.Helper()
	l := newLab(crashfs.New())
	o := l.options()
	for _, c := range change {
		c(o)
	}
	w, err := wal.Create(labDir, []byte("meta"), o)
	must(t, err)
	t.Cleanup(func() { w.Close() })
	must(t, l.settle(t))
	return l, w
}

func plain(o *wal.Options) { o.PlainEtcd = true }

// save saves, and waits for the spare if that filled a segment.
func (l *lab) save(t *testing.T, w *wal.Writer, s walpb.HardState, list []walpb.Entry) {
	t.Helper()
	filled := l.filled.Load()
	must(t, w.Save(s, list))
	if l.filled.Load() > filled {
		must(t, l.settle(t))
	}
}

// replay replays the log of a file system from a snapshot.
func replay(f fileutil.FS, from walpb.Snapshot) (*wal.Log, error) {
	o := &wal.Options{FS: f}
	return wal.Replay(wal.Records(labDir, from.Index, o), from)
}

// check runs Check on the log of a file system.
func check(t *testing.T, f fileutil.FS) *wal.Report {
	t.Helper()
	r, err := wal.Check(labDir, &wal.Options{FS: f})
	must(t, err)
	return r
}

// records returns the records of an undamaged log.
func records(t *testing.T, f fileutil.FS) []wal.Record {
	t.Helper()
	var list []wal.Record
	for r, err := range wal.Records(labDir, 0, &wal.Options{FS: f}) {
		must(t, err)
		r.Data = bytes.Clone(r.Data)
		list = append(list, r)
	}
	return list
}

// damage returns a file system in which one file of the log is what edit makes of it.
func damage(f *crashfs.FS, name string, edit func([]byte) []byte) *crashfs.FS {
	all := f.Tree()
	all[labDir+"/"+name] = edit(bytes.Clone(all[labDir+"/"+name]))
	return crashfs.Load(all)
}

// refused fails unless Open says that the log is corrupt, at a place of that segment, naming it,
// and leaves everything as it was.
func refused(t *testing.T, f *crashfs.FS, segment string, offset int64, kinds ...wal.Kind) *wal.CorruptError {
	t.Helper()
	before := f.Tree()
	l := newLab(f)
	w, err := wal.Open(labDir, l.options())
	if err == nil {
		w.Close()
	}
	var corrupt *wal.CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("Open: %v, want a CorruptError in %s at %d", err, segment, offset)
		return nil
	}
	if corrupt.Segment != segment || corrupt.Offset != offset {
		t.Errorf("Open: %v, want %s at %d", err, segment, offset)
	}
	if len(kinds) > 0 && !slices.Contains(kinds, corrupt.Kind) {
		t.Errorf("Open: kind %v, want one of %v", corrupt.Kind, kinds)
	}
	if s := err.Error(); !strings.Contains(s, segment) || !strings.Contains(s, corrupt.Kind.String()) {
		t.Errorf("the text does not name the segment and the reason: %q", s)
	}
	if d := onlyDiffer(before, f.Tree()); len(d) > 0 {
		t.Errorf("Open refused the log and yet changed %v", d)
	}
	l.nothingLeft(t)
	if r := check(t, f); r.Verdict < wal.Corrupt {
		t.Errorf("Check: %v", r.Verdict)
	}
	if _, err := replay(f, walpb.Snapshot{}); !errors.As(err, &corrupt) {
		t.Errorf("Replay: %v, want a CorruptError", err)
	}
	return corrupt
}

// forge returns a segment as an etcd would have written it, with sound checksums around whatever
// the records hold. A record of type CRC keeps the CRC that it has.
func forge(seed uint32, list ...walpb.Record) []byte {
	var b []byte
	chain := seed
	for _, r := range list {
		if r.Type == walpb.TypeCRC {
			chain = r.CRC
		}
		chain = walpb.Checksum(chain, r.Data)
		r.CRC = chain
		body := r.Append(nil)
		word := uint64(len(body))
		pad := -len(body) & 7
		if pad > 0 {
			word |= 1<<63 | uint64(pad)<<56
		}
		b = binary.LittleEndian.AppendUint64(b, word)
		b = append(append(b, body...), make([]byte, pad)...)
	}
	return b
}

// head is what forge needs for the beginning of a log's first segment.
func head() []walpb.Record {
	return []walpb.Record{{Type: walpb.TypeCRC}, {Type: walpb.TypeMetadata, Data: []byte("meta")}, {Type: walpb.TypeSnapshot, Data: (&walpb.Snapshot{}).Append(nil)}}
}

const (
	segment0 = "0000000000000000-0000000000000000.wal"
)
