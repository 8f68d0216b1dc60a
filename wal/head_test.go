package wal_test

import (
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// The first segment gets its name when its head is durable, the record of the empty snapshot
// included. Without that the log could be opened, and replayed from nothing.
func TestTheFirstSegmentBeginsWithTheEmptySnapshot(t *testing.T) {
	entry := entryRecords(1, 1, 1)[0]
	for name, list := range map[string][]walpb.Record{
		"nothing after the metadata":                  head()[:2],
		"an entry after the metadata":                 append(head()[:2:2], entry),
		"the record of another snapshot":              append(head()[:2:2], snapshotRecord(1, 1), entry),
		"the record of an empty snapshot of a term":   append(head()[:2:2], snapshotRecord(1, 0), entry),
		"a hard state, and then the empty snapshot":   append(head()[:2:2], stateRecord(1, 0), head()[2]),
		"metadata twice, and then the empty snapshot": append(head()[:2:2], head()[1:]...),
	} {
		f := crashfs.Load(map[string][]byte{"/log/" + segment0: append(forge(0, list...), make([]byte, 4096)...)})
		if r := check(t, f); r.Verdict != wal.Corrupt {
			t.Errorf("%s: Check: %v", name, r.Verdict)
		}
		if w, err := wal.Open("/log", &wal.Options{FS: f}); err == nil {
			t.Errorf("%s: Open opens it", name)
			w.Close()
		}
	}
	// A real one of ours, whose bytes after the metadata are gone.
	for _, change := range [][]func(*wal.Options){nil, {plain}} {
		b, list := unmarked(t, 5, change...)
		clear(b[list[1].Offset+list[1].Size:])
		refused(t, crashfs.Load(map[string][]byte{"/log/" + segment0: b}), segment0, list[1].Offset+list[1].Size)
	}
}
