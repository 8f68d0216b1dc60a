package wal_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func stateRecord(term, commit uint64) walpb.Record {
	s := state(term, commit)
	return walpb.Record{Type: walpb.TypeState, Data: s.Append(nil)}
}

func snapshotRecord(term, index uint64) walpb.Record {
	s := walpb.Snapshot{Term: term, Index: index}
	return walpb.Record{Type: walpb.TypeSnapshot, Data: s.Append(nil)}
}

func entryRecords(term, from, to uint64) (list []walpb.Record) {
	for _, e := range entries(term, from, to, 5) {
		list = append(list, walpb.Record{Type: walpb.TypeEntry, Data: e.Append(nil)})
	}
	return list
}

// Writers differ in the order in which they write the snapshot of a leader, the hard state that
// commits it, and the entries after it. Each order is a log as soon as all of them are there, and
// not before.
func TestOtherWritersOrders(t *testing.T) {
	for _, c := range []struct {
		name    string
		records [][]walpb.Record // after the head of the first segment
		start   walpb.Snapshot   // what can be replayed from
		first   uint64           // of the entries then
		says    string           // of a log that ends before what has to follow
	}{
		{
			name:    "etcd since 3.3.21 and 3.4.8: snapshot record, hard state, entries",
			records: [][]walpb.Record{entryRecords(1, 1, 10), {stateRecord(1, 10), snapshotRecord(2, 100), stateRecord(2, 100)}, entryRecords(2, 101, 102)},
			start:   walpb.Snapshot{Term: 2, Index: 100}, first: 101,
		}, {
			name:    "etcd before that, Fabric: hard state, snapshot record, entries",
			records: [][]walpb.Record{entryRecords(1, 1, 10), {stateRecord(1, 10), stateRecord(2, 100), snapshotRecord(2, 100)}, entryRecords(2, 101, 102)},
			start:   walpb.Snapshot{Term: 2, Index: 100}, first: 101,
		}, {
			name:    "the same, where the first entries after the snapshot came with it",
			records: [][]walpb.Record{entryRecords(1, 1, 10), {stateRecord(1, 10)}, entryRecords(2, 101, 102), {stateRecord(2, 101), snapshotRecord(2, 100)}},
			start:   walpb.Snapshot{Term: 2, Index: 100}, first: 101,
		}, {
			name:    "etcdctl backup, etcdutl backup: entries, hard state, snapshot record",
			records: [][]walpb.Record{entryRecords(3, 106, 111), {stateRecord(3, 111), snapshotRecord(2, 105)}},
			start:   walpb.Snapshot{Term: 2, Index: 105}, first: 106,
		}, {
			name:    "entries right after the hard state that commits them",
			records: [][]walpb.Record{entryRecords(1, 1, 3), {stateRecord(1, 5)}, entryRecords(1, 4, 6)},
			first:   1,
		}, {
			name:    "a commit of a snapshot that is not recorded",
			records: [][]walpb.Record{entryRecords(1, 1, 10), {stateRecord(1, 10), stateRecord(2, 100)}},
			says:    "the hard state commits 100, but the last entry is 10, and no record of a snapshot follows",
		}, {
			name:    "a commit beyond the snapshot that is recorded",
			records: [][]walpb.Record{entryRecords(1, 1, 10), {stateRecord(2, 100), snapshotRecord(2, 99)}},
			says:    "the hard state commits 100, but the last entry is 99, and no record of a snapshot follows",
		}, {
			name:    "entries after a gap",
			records: [][]walpb.Record{entryRecords(1, 1, 10), entryRecords(2, 106, 111)},
			says:    "entries from 106 on leave a gap after 10, and no record of a snapshot at 105 follows",
		}, {
			name:    "a snapshot in the middle of entries after a gap",
			records: [][]walpb.Record{entryRecords(1, 1, 10), entryRecords(2, 106, 111), {stateRecord(2, 111), snapshotRecord(2, 108)}},
			says:    "no record of a snapshot at 105 follows",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := slices.Concat(append([][]walpb.Record{head()}, c.records...)...)
			segment := append(forge(0, all...), make([]byte, 4096)...)
			f := crashfs.Load(map[string][]byte{"/log/" + segment0: segment})
			o := &wal.Options{FS: f}
			list, err := wal.Snapshots(wal.Records("/log", 0, o))
			if c.says != "" {
				var corrupt *wal.CorruptError
				if !errors.As(err, &corrupt) || corrupt.Kind != wal.LostEnd || !strings.Contains(corrupt.Detail, c.says) {
					t.Errorf("Snapshots: %v, want %q", err, c.says)
				}
				at := refused(t, f, segment0, corrupt.Offset, wal.LostEnd)
				if r := check(t, f); len(r.Findings) != 1 || r.Findings[0].Offset != at.Offset {
					t.Errorf("Check: %+v", r.Findings)
				}
				return
			}
			if r := check(t, f); err != nil || r.Verdict != wal.Clean {
				t.Fatalf("%v; Check: %+v", err, r)
			}
			if diff := cmp.Diff([]walpb.Snapshot{c.start}, list); diff != "" {
				t.Errorf("snapshots (-want +got):\n%s", diff)
			}
			w, err := wal.Open("/log", o)
			if err != nil {
				t.Fatal(err)
			}
			log, err := replay(f, c.start)
			if err != nil || log.Entries[0].Index != c.first {
				t.Fatalf("%+v, %v", log, err)
			}
			last := log.Entries[len(log.Entries)-1]
			if err := w.Save(state(last.Term, last.Index), entries(last.Term, last.Index+1, last.Index+1, 5)); err != nil {
				t.Error(err)
			}
			must(t, w.Close())
			if log, err = replay(f, c.start); err != nil || log.Entries[len(log.Entries)-1].Index != last.Index+1 {
				t.Errorf("after one more Save: %+v, %v", log, err)
			}
		})
	}
}

// What Save and SaveSnapshot refuse because no reader takes it, or no etcd.
func TestWhatNoReaderTakesIsRefused(t *testing.T) {
	for name, change := range map[string]func(*wal.Options){"with witnesses": func(*wal.Options) {}, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t, change)
			must(t, w.Save(state(1, 1), entries(1, 1, 2, 10)))
			before := l.Tree()
			if err := w.SaveSnapshot(walpb.Snapshot{Term: 1, Index: 1, ConfState: []byte("members")}); !errors.Is(err, wal.ErrInvalid) {
				t.Errorf("a ConfState that is none: %v", err)
			}
			own := []walpb.Entry{{Type: 9, Term: 1, Index: 3}}
			if err := w.Save(walpb.HardState{}, own); name == "plain" && !errors.Is(err, wal.ErrInvalid) || name != "plain" && err != nil {
				t.Errorf("an entry of a type of one's own: %v", err)
			}
			if name == "plain" {
				must(t, w.Sync())
				if d := onlyDiffer(before, l.Tree()); len(d) > 0 {
					t.Errorf("what was refused changed %v", d)
				}
			}
			must(t, w.Close())
			if _, err := replay(l.FS, walpb.Snapshot{}); err != nil {
				t.Error(err)
			}
		})
	}
}
