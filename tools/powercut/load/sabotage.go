package load

import (
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/stele-wal/stele/fileutil"
)

// A Saboteur is a file system that does less than it says, to find out whether a campaign would
// notice.
type Saboteur struct {
	Name string
	Does string
	// Stage is where it has to be caught: power or fsync.
	Stage string
	Wrap  func(fileutil.FS) fileutil.FS
}

// Saboteurs returns all that there are.
func Saboteurs() []Saboteur {
	sabotage := func(stage, name, does string, c cuts) Saboteur {
		return Saboteur{Name: name, Does: does, Stage: stage, Wrap: func(fsys fileutil.FS) fileutil.FS {
			return saboteur{fsys, c}
		}}
	}
	log := func(name string) bool {
		return strings.HasSuffix(name, ".wal") || filepath.Base(name) == "0.tmp" || filepath.Base(name) == "1.tmp"
	}
	return []Saboteur{
		sabotage("power", "nodatasync", "no data is synced", cuts{data: always}),
		sabotage("power", "nodirsync", "no directory is synced", cuts{dir: true}),
		sabotage("power", "nologsync", "the data of the log is not synced, that of snapshots is", cuts{data: log}),
		sabotage("power", "nosnapsync", "the data of snapshots is not synced, that of the log is", cuts{data: func(n string) bool { return !log(n) }}),
		sabotage("power", "latesync", "every other sync of data is left out", cuts{data: always, every: 2}),
		sabotage("fsync", "nodropcache", "Open does not drop the page cache", cuts{drop: true}),
		sabotage("fsync", "goon", "a sync that failed says that it did not", cuts{errors: true}),
	}
}

// cuts says what is left out.
type cuts struct {
	data   func(name string) bool // syncs of the data of these files
	every  int                    // only every nth of these syncs of a file; 0 and 1 are all
	dir    bool                   // syncs of directories
	drop   bool                   // the page cache is not dropped
	errors bool                   // errors of syncs
}

func always(string) bool { return true }

type saboteur struct {
	fileutil.FS
	cuts
}

func (s saboteur) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := s.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &saboteurFile{File: f, cuts: s.cuts}, nil
}

func (s saboteur) OpenDir(name string) (fileutil.Dir, error) {
	d, err := s.FS.OpenDir(name)
	if err == nil && s.dir {
		d = unsynced{d}
	}
	return d, err
}

type unsynced struct{ fileutil.Dir }

func (unsynced) Sync() error { return nil }

type saboteurFile struct {
	fileutil.File
	cuts
	syncs int
}

func (f *saboteurFile) SyncData() error {
	f.syncs++
	if f.data != nil && f.data(f.Name()) && f.syncs%max(f.every, 1) == 0 {
		return nil
	}
	err := f.File.SyncData()
	if f.cuts.errors {
		return nil
	}
	return err
}

func (f *saboteurFile) DropCache() error {
	if f.drop {
		return nil
	}
	return f.File.DropCache()
}
