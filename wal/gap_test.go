package wal_test

import (
	"path"
	"slices"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// releasable returns a log of six segments or more, all but the last two of which a snapshot record
// makes unnecessary.
func releasable(t *testing.T, change ...func(*wal.Options)) (l *lab, last uint64) {
	l, w := create(t, change...)
	for len(l.segments()) < 6 {
		last++
		l.save(t, w, state(1, last), entries(1, last, last, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Term: 1, Index: last, ConfState: []byte{8, 1}}))
	must(t, w.Close())
	return l, last
}

// A power cut in Release leaves any of the segments that it removed. etcd refuses a log with a gap,
// so Open removes the rest of them.
func TestOpenFinishesARelease(t *testing.T) {
	l, last := releasable(t)
	all := l.segments()
	for _, c := range []struct{ gone, left []int }{
		{[]int{1, 2}, []int{0}},
		{[]int{0, 2}, []int{1}},
		{[]int{1, 3}, []int{0, 2}},
	} {
		f := l.FS.Clone()
		for _, i := range c.gone {
			must(t, f.Remove(path.Join(labDir, all[i])))
		}
		of := path.Join(labDir, all[c.left[0]])
		must(t, f.Rename(path.Join(labDir, "synced"), of+".512.torn")) // a copy goes with its segment; and the mark is not needed
		w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
		must(t, err)
		must(t, w.Save(state(1, last), entries(1, last+1, last+1, 10)))
		must(t, w.Close())
		want := all[slices.Max(append(c.gone, c.left...))+1:]
		after := f.Crash(crashfs.DropAll)
		if got := (&lab{FS: after}).segments(); !slices.Equal(got, want) {
			t.Errorf("%v were gone, and after Open there are %v, want %v", c.gone, got, want)
		}
		if slices.Contains(names(after), of+".512.torn") {
			t.Error("a copy has outlived its segment")
		}
		for _, err := range wal.Records(labDir, 0, &wal.Options{FS: after}) {
			must(t, err)
		}
		if _, err := replay(after, walpb.Snapshot{Term: 1, Index: last}); err != nil {
			t.Error(err)
		}
	}
}

// An old segment under a later number looks as if a Release had removed those between. In a log
// without witnesses its number is covered by nothing; the index in its name shows that what stands
// before it was not released.
func TestOpenKeepsWhatStandsBeforeAnOldSegment(t *testing.T) {
	l, _ := releasable(t, plain)
	all := l.segments()
	for i, name := range all[:2] {
		tree := l.Tree()
		old := path.Join(labDir, "00000000000003e8"+name[16:])
		tree[old] = tree[path.Join(labDir, name)]
		delete(tree, path.Join(labDir, "synced"))
		f := crashfs.Load(tree)
		w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10, PlainEtcd: true})
		if err != nil {
			continue // as good
		}
		must(t, w.Close())
		if got := (&lab{FS: f}).segments(); len(got) < len(all) {
			t.Errorf("segment %d is there under a later number as well: Open left only %v of %v", i, got, all)
		}
	}
}
