package wal_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Nothing is not empty: neither in an entry's data, nor in a snapshot record's ConfState, nor in
// the metadata.
func TestNothingAndEmptyAreKeptApart(t *testing.T) {
	for _, empty := range [][]byte{nil, {}} {
		fs := crashfs.New()
		o := &wal.Options{FS: fs, SegmentSize: 4096}
		w, err := wal.Create("/log", empty, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Save(walpb.HardState{Term: 1, Commit: 1}, []walpb.Entry{{Term: 1, Index: 1, Data: empty}, {Term: 1, Index: 2, Data: empty}}); err != nil {
			t.Fatal(err)
		}
		s := walpb.Snapshot{Index: 1, Term: 1, ConfState: empty}
		if err := w.SaveSnapshot(s); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		snapshots, err := wal.Snapshots(wal.Records("/log", 0, o))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]walpb.Snapshot{{}, s}, snapshots); diff != "" {
			t.Errorf("snapshots (-want +got):\n%s", diff)
		}
		log, err := wal.Replay(wal.Records("/log", 1, o), s)
		if err != nil {
			t.Fatal(err)
		}
		want := &wal.Log{Metadata: empty, State: walpb.HardState{Term: 1, Commit: 1}, Snapshot: s, Entries: []walpb.Entry{{Term: 1, Index: 2, Data: empty}}}
		if diff := cmp.Diff(want, log); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		report, err := wal.Check("/log", o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]walpb.Snapshot{{}, s}, report.Snapshots); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}
	}
}
