package wal_test

import (
	"errors"
	"path"
	"reflect"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// newest chooses the newest snapshot that the log can be replayed from.
func newest(snapshots []walpb.Snapshot) (walpb.Snapshot, error) {
	s, ok := wal.Newest(snapshots)
	if !ok {
		return s, wal.ErrSnapshotNotFound
	}
	return s, nil
}

// Recover reads the log once, and what follows the chosen snapshot once more.
func TestRecoverReadsNothingMoreThanTwice(t *testing.T) {
	l, w := create(t)
	l.fill(t, w, 17)
	s := walpb.Snapshot{Term: 1, Index: l.last}
	must(t, w.SaveSnapshot(s))
	l.fill(t, w, 20)
	must(t, w.Close())
	type of struct{ segment, read int64 }
	read := map[string]*of{}
	for _, name := range l.segments() {
		b, err := l.ReadFile(path.Join(labDir, name))
		must(t, err)
		read[name] = &of{segment: int64(len(b))}
	}
	l.onOp = func(op crashfs.Op) error {
		if of := read[path.Base(op.Name)]; of != nil && op.Kind == crashfs.OpRead {
			of.read += op.N
		}
		return nil
	}
	w, log, err := wal.Recover(labDir, l.options(), newest)
	must(t, err)
	defer w.Close()
	if len(log.Entries) != int(l.last-s.Index) || log.Snapshot.Index != s.Index {
		t.Errorf("%d entries after %d", len(log.Entries), log.Snapshot.Index)
	}
	for i, name := range l.segments() {
		of, times, lastPage := read[name], int64(1), int64(0)
		if i >= 15 {
			times = 2
		}
		if i == 19 {
			lastPage = 4096 // in which the Writer goes on
		}
		if most := times*of.segment + lastPage; of.read > most {
			t.Errorf("segment %d: %d bytes were read of %d", i, of.read, of.segment)
		}
	}
}

// What Recover returns is what Open, Snapshots and Replay do.
func TestRecoverIsOpenAndReplay(t *testing.T) {
	l, w := create(t)
	l.fill(t, w, 4)
	must(t, w.SaveSnapshot(walpb.Snapshot{Term: 1, Index: l.last, ConfState: []byte{8, 1}}))
	l.fill(t, w, 6)
	l.save(t, w, state(1, l.last), entries(1, l.last+1, l.last+3, 1000))
	files := l.Tree() // of a process that was killed
	must(t, w.Close())
	last := labDir + "/" + l.segments()[len(l.segments())-1]
	for verdict, damage := range map[wal.Verdict]func(b []byte){
		wal.Clean:  func([]byte) {},
		wal.Torn:   func(b []byte) { clear(b[2000:3000]) },
		wal.Unborn: func(b []byte) { clear(b) },
	} {
		t.Run(verdict.String(), func(t *testing.T) {
			files := crashfs.Load(files).Tree()
			delete(files, markFile)
			damage(files[last])
			report, err := wal.Check(labDir, &wal.Options{FS: crashfs.Load(files)})
			must(t, err)
			if report.Verdict != verdict {
				t.Fatalf("it is %v", report.Verdict)
			}
			for _, choose := range []func([]walpb.Snapshot) (walpb.Snapshot, error){newest, func(s []walpb.Snapshot) (walpb.Snapshot, error) { return s[0], nil }} {
				one, two := crashfs.Load(files), crashfs.Load(files)
				w, got, err := wal.Recover(labDir, &wal.Options{FS: one}, choose)
				must(t, err)
				of := w.Snapshots()
				must(t, w.Close())

				o := &wal.Options{FS: two}
				w, err = wal.Open(labDir, o)
				must(t, err)
				snapshots, err := wal.Snapshots(wal.Records(labDir, 0, o))
				must(t, err)
				from, err := choose(snapshots)
				must(t, err)
				want, err := wal.Replay(wal.Records(labDir, from.Index, o), from)
				must(t, err)
				must(t, w.Close())
				if !reflect.DeepEqual(got, want) || len(got.Entries) == 0 {
					t.Errorf("%d entries from %d, not %d from %d", len(got.Entries), got.Snapshot.Index, len(want.Entries), want.Snapshot.Index)
				}
				if !reflect.DeepEqual(of, snapshots) || len(of) != 2 {
					t.Errorf("the snapshots are %v, not %v", of, snapshots)
				}
				if !reflect.DeepEqual(one.Tree(), two.Tree()) {
					t.Error("Recover and Open leave other files")
				}
			}
		})
	}
}

// A program that finds no snapshot that fits changes nothing.
func TestARecoverWithoutASnapshotChangesNothing(t *testing.T) {
	l, w := create(t)
	l.fill(t, w, 3)
	must(t, w.Close())
	segments := l.segments()
	last := path.Join(labDir, segments[len(segments)-1])
	b, err := l.ReadFile(last)
	must(t, err)
	l.WriteFile(last, append(b, 1, 2, 3, 4, 5, 6, 7, 8)) // a torn tail
	must(t, l.FS.Remove(markFile))
	files := l.Tree()
	none := errors.New("none")
	for _, c := range []struct {
		want   error
		choose func([]walpb.Snapshot) (walpb.Snapshot, error)
	}{
		{none, func([]walpb.Snapshot) (walpb.Snapshot, error) { return walpb.Snapshot{}, none }},
		{wal.ErrSnapshotNotFound, func([]walpb.Snapshot) (walpb.Snapshot, error) { return walpb.Snapshot{Term: 1, Index: 2}, nil }},
	} {
		w, log, err := wal.Recover(labDir, l.options(), c.choose)
		if w != nil || log != nil || !errors.Is(err, c.want) {
			t.Errorf("%v, %v, %v", w, log, err)
		}
		if !reflect.DeepEqual(l.Tree(), files) || len(l.handles()) > 0 {
			t.Errorf("something changed, or is left open: %q", l.handles())
		}
	}
	w, _, err = wal.Recover(labDir, l.options(), newest)
	must(t, err)
	must(t, w.Close())
}
