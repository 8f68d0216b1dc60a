package wal_test

import (
	"errors"
	"os"
	"path"
	"slices"
	"testing"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// The first segment and the last two are locked, from Create or Open on, and no other: FORMAT.md,
// chapter 12.
func TestTheFirstSegmentAndTheLastTwoAreLocked(t *testing.T) {
	l, w := create(t)
	locked := func(when string) {
		t.Helper()
		segments := l.segments()
		want := slices.Compact(slices.Concat(segments[:1], segments[max(0, len(segments)-2):]))
		var got []string
		for _, name := range segments {
			f, err := l.FS.OpenFile(path.Join(labDir, name), os.O_RDWR, 0)
			must(t, err)
			switch err := f.Lock(); {
			case errors.Is(err, wal.ErrLocked):
				got = append(got, name)
			case err != nil:
				t.Fatal(err)
			}
			must(t, f.Close())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: of %q these are locked: %q", when, segments, got)
		}
	}
	release := func(index uint64) {
		t.Helper()
		must(t, w.SaveSnapshot(walpb.Snapshot{Term: 1, Index: index}))
		must(t, w.Release(index))
	}
	locked("created")
	var ends []uint64
	for n := 2; n <= 9; n++ {
		ends = append(ends, l.fill(t, w, n))
		locked("cut")
	}
	release(ends[3])
	locked("released to the middle")
	must(t, w.Close())
	w, err := wal.Open(labDir, l.options())
	must(t, err)
	locked("opened")
	must(t, l.settle())
	release(ends[6])
	locked("released to the last but one")
	l.fill(t, w, 5)
	locked("cut again")
	release(l.last)
	locked("released to the last")
	l.fill(t, w, 4)
	locked("cut once more")
	must(t, w.Close())
	l.nothingLeft(t)
}
