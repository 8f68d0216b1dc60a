package wal_test

import (
	"errors"
	"math"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// After the highest index there is none: 0 does not follow it. Whatever Save takes at the end of
// all indexes, Open and Replay take.
func TestIndexesDoNotWrap(t *testing.T) {
	const end = math.MaxUint64
	for base := uint64(end - 2); base != 0; base++ {
		disk := crashfs.New()
		o := &wal.Options{FS: disk, SegmentSize: 4096}
		w, err := wal.Create(labDir, nil, o)
		must(t, err)
		must(t, w.SaveSnapshot(walpb.Snapshot{Index: base, Term: end}))
		must(t, w.Save(walpb.HardState{Term: end, Vote: end, Commit: base}, nil))
		for _, first := range []uint64{0, 1, base, base + 1} {
			for count := range uint64(4) {
				var list []walpb.Entry
				for i := range count + 1 {
					list = append(list, walpb.Entry{Term: end, Index: first + i})
				}
				err := w.Save(walpb.HardState{}, list)
				fits := first == base+1 && first != 0 && end-first >= count
				if (err == nil) != fits || err != nil && !errors.Is(err, wal.ErrInvalid) {
					t.Errorf("behind %d, %d entries from %d on: %v", base, count+1, first, err)
				}
			}
		}
		must(t, w.Close())
		w, err = wal.Open(labDir, o)
		must(t, err)
		must(t, w.Close())
		log, err := replay(disk, walpb.Snapshot{Index: base, Term: end})
		if err != nil || len(log.Entries) > 0 && log.Entries[0].Index != base+1 {
			t.Errorf("behind %d: %v, %v", base, log, err)
		}
	}
}
