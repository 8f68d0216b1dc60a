package crash

import (
	"io/fs"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fuzz/harness"
)

// A Saboteur makes a file system that does less than it says. A campaign on it must fail.
type Saboteur struct {
	Name string
	// Wrap returns the file system. opening reports whether Open, or the repair before it, is at
	// work.
	Wrap func(fsys fileutil.FS, opening func() bool) fileutil.FS

	inRepair bool // opening reports whether Repair is at work, and not Open

	// What the program does wrong that uses the log and the snapshots' files.
	recordFirst bool // it records a snapshot before it has the file
	keepEarly   bool // it removes old files for the sake of a snapshot that is not committed
}

// Saboteurs returns all that there are.
func Saboteurs() []Saboteur {
	return []Saboteur{
		sabotage("no data is synced", cuts{syncData: always}),
		sabotage("no directory is synced", cuts{syncDir: always}),
		sabotage("Open does not sync data", cuts{syncData: whileOpening}),
		sabotage("Open does not sync what it has trimmed", cuts{syncTrim: true}),
		sabotage("Open does not sync the directory", cuts{syncDir: whileOpening}),
		sabotage("Open does not zero the torn tail", cuts{zero: whileOpening}),
		sabotage("the directory is not synced after a rename", cuts{syncDirAfter: "rename"}),
		sabotage("the directory is not synced after a removal", cuts{syncDirAfter: "remove"}),
		sabotage("every other sync of data is left out", cuts{syncLate: true}),
		sabotage("the first sync of a new file is left out", cuts{syncFirst: true}),
		sabotage("no snapshot's file is synced", cuts{syncSnap: true}),
		inRepair(sabotage("Repair does not sync data", cuts{syncData: whileOpening})),
		{Name: "a snapshot is recorded before its file is there", Wrap: honest, recordFirst: true},
		{Name: "old snapshots are removed before the next is committed", Wrap: honest, keepEarly: true},
	}
}

// cuts says what is left out.
type cuts struct {
	syncData, syncDir, zero when
	syncDirAfter            string // the operation
	syncLate                bool   // every other sync
	syncFirst               bool   // the first syncs of a file that was written
	syncTrim                bool   // the sync after a write in Open
	syncSnap                bool   // the sync of a snapshot's file
}

func inRepair(s Saboteur) Saboteur {
	s.inRepair = true
	return s
}

func honest(fsys fileutil.FS, _ func() bool) fileutil.FS { return fsys }

type when int

const (
	never when = iota
	always
	whileOpening
)

func sabotage(name string, c cuts) Saboteur {
	return Saboteur{Name: name, Wrap: func(fsys fileutil.FS, opening func() bool) fileutil.FS {
		return &saboteur{FS: fsys, cuts: c, opening: opening}
	}}
}

type saboteur struct {
	fileutil.FS
	cuts
	opening func() bool
	last    string // the last operation that changed names
}

func (s *saboteur) now(w when) bool { return w == always || w == whileOpening && s.opening() }

func (s *saboteur) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := s.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &saboteurFile{File: f, s: s}, nil
}

func (s *saboteur) OpenDir(name string) (fileutil.Dir, error) {
	d, err := s.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return saboteurDir{d, s}, nil
}

func (s *saboteur) Rename(oldpath, newpath string) error {
	s.last = "rename"
	return s.FS.Rename(oldpath, newpath)
}

func (s *saboteur) Remove(name string) error {
	if !harness.IsSpare(name) {
		s.last = "remove"
	}
	return s.FS.Remove(name)
}

type saboteurDir struct {
	fileutil.Dir
	s *saboteur
}

func (d saboteurDir) Sync() error {
	if s := d.s; s.now(s.syncDir) || s.syncDirAfter != "" && s.syncDirAfter == s.last {
		return nil
	}
	return d.Dir.Sync()
}

type saboteurFile struct {
	fileutil.File
	s       *saboteur
	syncs   int
	wrote   bool
	trimmed bool
}

func (f *saboteurFile) SyncData() error {
	f.syncs++
	if f.s.now(f.s.syncData) || f.s.syncFirst && f.wrote && f.syncs <= 2 {
		return nil
	}
	if f.s.syncTrim && f.trimmed && f.s.opening() {
		return nil
	}
	if f.s.syncSnap && strings.HasPrefix(f.Name(), harness.SnapDir) {
		return nil
	}
	if f.s.syncLate && f.syncs%2 == 0 {
		return nil
	}
	return f.File.SyncData()
}

func (f *saboteurFile) WriteAt(b []byte, off int64) (int, error) {
	if f.s.now(f.s.zero) && allZero(b) {
		return len(b), nil
	}
	f.wrote = true
	f.trimmed = f.s.opening()
	return f.File.WriteAt(b, off)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
