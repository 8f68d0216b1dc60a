package wal_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stele-wal/stele/walpb"
)

func TestReleaseRemovesNothingBehindItsIndexThoughASnapshotIsNewer(t *testing.T) {
	l, w := create(t)
	last := uint64(0)
	for len(l.segments()) < 4 {
		last++
		l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last - 1, Term: 1}))
	before := l.segments()
	var seq, index uint64 // at which the second segment begins
	if _, err := fmt.Sscanf(filepath.Base(before[1]), "%x-%x.wal", &seq, &index); err != nil {
		t.Fatal(err)
	}
	must(t, w.Release(index-1))
	if got := l.segments(); len(got) != 4 {
		t.Errorf("Release(%d) left %v of %v", index-1, got, before)
	}
	must(t, w.Release(index))
	if got := l.segments(); len(got) != 3 || got[0] != before[1] {
		t.Errorf("Release(%d) left %v of %v", index, got, before)
	}
	must(t, w.Close())
}
