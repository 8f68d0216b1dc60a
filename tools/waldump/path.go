package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stele-wal/stele/wal"
)

// target is the log that a PATH names.
type target struct {
	given   string // the PATH
	path    string // a directory of segments, or one segment
	snap    string // the directory of the member's snapshot files; "" if there is none
	archive bool   // path is in a temporary directory
}

// find finds the log that a PATH names. It unpacks an archive, which cleanUp removes.
func (a *app) find(given string) (*target, error) {
	t := &target{given: given, path: filepath.Clean(given)}
	archive, inside, err := a.splitArchive(t.path)
	if err != nil {
		return nil, unreadable(err)
	}
	if archive != "" {
		t.archive = true
		dir, err := a.unpack(archive, inside)
		if err != nil {
			return nil, unreadable(inFile(archive, err))
		}
		if t.path, err = onlyLog(filepath.Join(dir, inside), given); err != nil {
			return nil, err
		}
	}
	info, err := a.fs.Stat(t.path)
	if err != nil {
		return nil, unreadable(err)
	}
	dir := filepath.Dir(t.path)
	if info.IsDir() {
		if t.path, err = a.logDir(t.path); err != nil {
			return nil, err
		}
		dir = t.path
	}
	if absolute, err := filepath.Abs(dir); err == nil {
		snap := filepath.Join(filepath.Dir(absolute), "snap")
		if info, err := a.fs.Stat(snap); err == nil && info.IsDir() {
			t.snap = snap
		}
	}
	return t, nil
}

// logDir returns the directory of the segments, below the one that was given: itself, or where an
// etcd member has it.
func (a *app) logDir(given string) (string, error) {
	for _, below := range []string{"", "wal", filepath.Join("member", "wal")} {
		dir := filepath.Join(given, below)
		entries, err := a.fs.ReadDir(dir)
		if below != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", unreadable(err)
		}
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".wal") }) {
			return dir, nil
		}
	}
	return "", &failure{
		code: exitFailed,
		err:  fmt.Errorf("%s: %w, neither there nor in wal or member/wal below it", given, wal.ErrNoLog),
		next: "give the directory that holds the *.wal files, or an etcd data directory (etcd's --data-dir; --wal-dir, if it was given)",
	}
}

// unreadable is the failure of something that could not be read.
func unreadable(err error) *failure {
	f := &failure{code: exitFailed, err: err}
	var corrupt *wal.CorruptError
	switch {
	case errors.As(err, &corrupt):
		f.code, f.next = exitCorrupt, adviceCorrupt
	case errors.Is(err, wal.ErrForeign):
		f.next = "if the file is a copy, move it to another directory; only segments may end in .wal"
	case errors.Is(err, wal.ErrNoLog):
		f.next = "give the directory that holds the *.wal files"
	case errors.Is(err, fs.ErrNotExist):
		f.next = "check the path"
	case errors.Is(err, fs.ErrPermission):
		f.next = "run as the user that the log belongs to, or as root; nothing was changed"
	default:
		f.next = "a failed read proves nothing: look for disk errors in the system's log, copy the directory " +
			"elsewhere while it can be read, and try again on the copy"
	}
	return f
}
