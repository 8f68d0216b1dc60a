package harness

import (
	"path"
	"strings"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

// Dir is where the log is; it has a parent that is not there at first.
const Dir = "data/wal"

// SnapDir is where the files of the snapshots are, if there are any.
const SnapDir = "data/snap"

// NewDisk returns an empty file system on which the log's segments take direct writes only: what a
// Writer and Open write to them has to be whole pages.
func NewDisk() *crashfs.FS {
	disk := crashfs.New()
	disk.SetDirect(func(name string) bool {
		// A segment is made under the name of a spare. The names of copies have more dots.
		return path.Ext(name) == ".wal" || IsSpare(name) && strings.Count(name, ".") == 1
	})
	return disk
}

// IsSpare reports whether a file is one that package wal makes before it is needed, under a name
// that ends in .tmp.
func IsSpare(name string) bool { return path.Dir(name) == Dir && path.Ext(name) == ".tmp" }
