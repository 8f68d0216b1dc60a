package harness

import (
	"path"
)

// Dir is where the log is; it has a parent that is not there at first.
const Dir = "data/wal"

// IsSpare tells the files that package wal makes in the background.
func IsSpare(name string) bool { return path.Dir(name) == Dir && path.Ext(name) == ".tmp" }

// SnapDir is where the files of the snapshots are, if there are any.
const SnapDir = "data/snap"
