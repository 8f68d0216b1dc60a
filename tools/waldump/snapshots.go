package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A log's snapshot records, and the member's snapshot files.

type jsonSnapshot struct {
	Term   uint64 `json:"term"`
	Index  uint64 `json:"index"`
	Usable bool   `json:"usable"`
	File   string `json:"file,omitempty"`
}

// snapshots pairs the snapshot records with the snapshot files.
func snapshots(r *wal.Report, files map[snapshotID]string) []jsonSnapshot {
	list := []jsonSnapshot{}
	for _, s := range r.Snapshots {
		list = append(list, jsonSnapshot{
			Term: s.Term, Index: s.Index, Usable: s.Index <= r.State.Commit, File: files[snapshotID{s.Term, s.Index}],
		})
	}
	return list
}

// snapshotSummary counts records and files. A record without a file is not damage: old files are
// removed, and etcd from 3.8 on writes none.
func snapshotSummary(snaps []jsonSnapshot, files map[snapshotID]string) string {
	records, without := 0, len(files)
	newest := ""
	for _, s := range snaps {
		if s.Index == 0 {
			continue
		}
		records++
		if s.File != "" {
			without--
		}
		if s.Usable && s.File != "" {
			newest = s.File
		}
	}
	text := fmt.Sprintf("snapshot records %d, files %d", records, len(files))
	if without > 0 {
		text += fmt.Sprintf(" (%d of them without a record in this log)", without)
	}
	if newest != "" {
		text += ", newest usable " + newest
	}
	return text
}

// snapshotID is what names a snapshot.
type snapshotID struct{ term, index uint64 }

// snapshotFiles returns the names of a member's snapshot files. It does not read them.
func (a *app) snapshotFiles(t *target) (map[snapshotID]string, error) {
	files := map[snapshotID]string{}
	if t.snap == "" {
		return files, nil
	}
	list, err := snap.ReadOnly(t.snap, &snap.Options{FS: a.fs}).List()
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return nil, unreadable(err)
	}
	for _, f := range list.Snapshots {
		files[snapshotID{f.Term, f.Index}] = f.Name()
	}
	return files, nil
}

// usable returns the snapshot records that a log can be replayed from.
func usable(r *wal.Report) []walpb.Snapshot {
	return slices.DeleteFunc(slices.Clone(r.Snapshots), func(s walpb.Snapshot) bool { return s.Index > r.State.Commit })
}
