package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/walpb"
)

// snapshots is what was attempted on a store of snapshots, and how much of it must be there.
// Snapshots and bodies are told apart by their indexes.
type snapshots struct {
	used   bool
	acked  map[uint64]bool // by index: it must be there
	may    map[uint64]bool // it may be there: it was attempted
	keeps  map[uint64]bool // a Keep that failed may have removed it
	gone   map[uint64]bool // a Keep that was acknowledged has removed it
	broken uint64          // this one was damaged on purpose
	body   *snap.Writer
}

func (s *snapshots) clone() snapshots {
	c := *s
	c.acked, c.may, c.keeps, c.gone = maps.Clone(s.acked), maps.Clone(s.may), maps.Clone(s.keeps), maps.Clone(s.gone)
	c.body = nil
	return c
}

func (s *snapshots) close() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
	}
}

// state is what a snapshot of an index holds.
func state(index uint64) snap.Snapshot {
	return snap.Snapshot{Index: index, Term: 2, ConfState: oracle.ConfState(index), Data: bytes.Repeat([]byte{byte(index)}, int(index)*300)}
}

// bodyOf is what a body of an index holds: two blocks and a piece.
func bodyOf(index uint64) (snap.Body, []byte) {
	b := snap.Body{Index: index, Term: 2, ConfState: oracle.ConfState(index)}
	b.ID[0] = byte(index)
	return b, bytes.Repeat([]byte{byte(index), 1, 2}, (2*snap.BlockSize+500)/3)
}

func record2(index uint64) walpb.Snapshot { return walpb.Snapshot{Index: index, Term: 2} }

// recorded returns what a log would record: what was acknowledged, newest last.
func (s *snapshots) recorded() (list []walpb.Snapshot) {
	for _, i := range slices.Sorted(maps.Keys(s.acked)) {
		list = append(list, record2(i))
	}
	return list
}

// openStore opens the store, if it is not.
func openStore(t *trial) error {
	if !t.snaps.used {
		t.snaps = snapshots{used: true, acked: map[uint64]bool{}, may: map[uint64]bool{}, keeps: map[uint64]bool{}, gone: map[uint64]bool{}}
	}
	if t.store != nil {
		return nil
	}
	store, err := snap.Open(harness.SnapDir, &snap.Options{FS: t.files()})
	if err == nil {
		t.store = store
	}
	return err
}

// stored is a step that needs the store.
func stored(name string, do func(t *trial) error) step {
	return step{name: name, kind: onNothing, do: func(t *trial) error {
		if t.store == nil {
			return nil
		}
		return do(t)
	}}
}

func saveSnap(name string, index uint64) step {
	return stored(name, func(t *trial) error {
		t.snaps.may[index] = true
		err := t.store.Save(state(index))
		if err == nil {
			t.snaps.acked[index] = true
		}
		return err
	})
}

func loadSnap(index uint64) step {
	return stored("load", func(t *trial) error {
		got, err := t.store.Load(index, 2)
		if err == nil {
			return t.same(got.Index, got.Data)
		}
		if errors.Is(err, fs.ErrNotExist) && !t.snaps.acked[index] {
			return nil
		}
		return err
	})
}

// same compares what was read with what was written.
func (s *snapshots) same(index uint64, data []byte) error {
	_, body := bodyOf(index)
	if !s.may[index] || !bytes.Equal(data, state(index).Data) && !bytes.Equal(data, body) {
		return oracle.Failf(oracle.Invented, "snapshot %d with %d bytes was never written", index, len(data))
	}
	return nil
}

func newest(name string) step {
	return stored(name, func(t *trial) error {
		got, err := t.store.Newest(t.snaps.recorded())
		if err != nil {
			if errors.Is(err, snap.ErrNoSnapshot) && len(t.snaps.standing()) == 0 {
				return nil
			}
			return err
		}
		return t.same(got.Index, got.Data)
	})
}

// same compares what a step has read with what was written.
func (t *trial) same(index uint64, data []byte) error {
	if err := t.snaps.same(index, data); err != nil && t.failure == nil {
		t.failure = err
	}
	return nil
}

// standing returns the indexes that must be there.
func (s *snapshots) standing() (list []uint64) {
	for _, i := range slices.Sorted(maps.Keys(s.acked)) {
		if !s.gone[i] && !s.keeps[i] && i != s.broken {
			list = append(list, i)
		}
	}
	return list
}

// damage changes a byte of a snapshot's file, as rot does.
func damage(index uint64) step {
	return stored("damage", func(t *trial) error {
		name := snapPath(index)
		if b, err := t.disk.ReadFile(name); err == nil {
			b[len(b)/2] ^= 1
			t.disk.WriteFile(name, b)
			t.snaps.broken = index
		}
		return nil
	})
}

func keepSnaps(n int) step {
	return stored("keep", func(t *trial) error {
		standing := t.snaps.standing()
		if len(standing) == 0 {
			return nil
		}
		record := standing[len(standing)-1]
		// Which n are the newest depends on those that were never acknowledged, too: these stay in
		// any case.
		attempted := slices.DeleteFunc(slices.Sorted(maps.Keys(t.snaps.may)), func(i uint64) bool { return i > record })
		going := attempted[:max(0, len(attempted)-n)]
		for _, i := range going {
			t.snaps.keeps[i] = true
		}
		err := t.store.Keep(n, record2(record))
		tree := t.disk.Tree()
		for _, i := range going {
			_, snapshot := tree[snapPath(i)]
			_, body := tree[bodyPath(i)]
			if err == nil && !snapshot && !body {
				t.snaps.gone[i] = true
			}
		}
		return err
	})
}

func snapPath(index uint64) string {
	return fmt.Sprintf("%s/%016x-%016x.snap", harness.SnapDir, 2, index)
}

func bodyPath(index uint64) string { return fmt.Sprintf("%s/%016x.snap.db", harness.SnapDir, index) }

// writeBody streams a body, or as much of it as is asked for, and leaves the rest to a later step.
func writeBody(name string, index uint64, whole bool) step {
	return stored(name, func(t *trial) (err error) {
		t.snaps.may[index] = true
		b, content := bodyOf(index)
		w, err := t.store.Resume(b)
		if err != nil {
			return err
		}
		t.snaps.body = w
		defer t.snaps.close()
		rest := content[min(w.Size(), int64(len(content))):]
		if !whole {
			rest = rest[:min(len(rest), snap.BlockSize+1000)]
		}
		_, err = w.Write(rest)
		if err == nil && whole {
			err = w.Commit()
		}
		if err != nil {
			if _, again := w.Write([]byte{1}); again == nil || again.Error() != err.Error() {
				t.fail(WentOn, "a Writer of a body returned %v, and then %v", err, again)
			}
			if again := w.Commit(); again == nil || again.Error() != err.Error() {
				t.fail(WentOn, "a Writer of a body returned %v, and then %v", err, again)
			}
			return err
		}
		if whole {
			t.snaps.acked[index] = true
		}
		return nil
	})
}

// readBody finds the newest body and reads it.
var readBody = stored("read body", func(t *trial) error {
	r, err := t.store.NewestBody(t.snaps.recorded())
	if err != nil {
		if errors.Is(err, snap.ErrNoSnapshot) && len(t.snaps.standing()) == 0 {
			return nil
		}
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return t.same(r.Body().Index, b)
})

var listStep = stored("list", func(t *trial) error {
	_, err := t.store.List()
	return err
})

var snapSteps = []step{
	{name: "open the store", kind: onNothing, do: openStore},
	saveSnap("save snap", 1), saveSnap("save snap", 2), saveSnap("save again", 2), listStep, loadSnap(2), newest("newest"), saveSnap("save snap", 3),
	damage(3), newest("newest of damaged"), keepSnaps(1), loadSnap(2), saveSnap("save snap", 4), keepSnaps(2),
}

var bodySteps = []step{
	{name: "open the store", kind: onNothing, do: openStore},
	writeBody("write body", 11, true), writeBody("begin body", 12, false), writeBody("resume body", 12, true), readBody, listStep, keepSnaps(1),
	writeBody("write body", 13, true), readBody,
}

// examine opens what is left of a store.
func (s *snapshots) examine(disk *crashfs.FS) error {
	store, err := snap.Open(harness.SnapDir, &snap.Options{FS: disk})
	if err != nil {
		return oracle.Failf(oracle.Refused, "open the store: %v", err)
	}
	l, err := store.List()
	if err != nil {
		return oracle.Failf(oracle.Refused, "list: %v", err)
	}
	for _, name := range l.Broken {
		if s.broken == 0 || name != path.Base(snapPath(s.broken))+".broken" {
			return oracle.Failf(Damaged, "%s was set aside", name)
		}
	}
	if len(l.Strays) > 0 {
		return oracle.Failf(Damaged, "strays: %q", l.Strays)
	}
	there := map[uint64]bool{}
	for _, r := range l.Snapshots {
		got, err := store.Load(r.Index, r.Term)
		if r.Index == s.broken && err != nil {
			continue
		}
		if err != nil {
			return oracle.Failf(oracle.Lost, "%v", err)
		}
		if err := s.same(got.Index, got.Data); err != nil {
			return err
		}
		there[r.Index] = true
	}
	for _, i := range l.Bodies {
		r, err := store.OpenBody(i)
		if err != nil {
			return oracle.Failf(oracle.Lost, "%v", err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return oracle.Failf(oracle.Lost, "%v", err)
		}
		if err := s.same(i, b); err != nil {
			return err
		}
		there[i] = true
	}
	for _, i := range s.standing() {
		if !there[i] {
			return oracle.Failf(oracle.Lost, "snapshot %d was acknowledged", i)
		}
	}
	for i := range s.gone {
		if there[i] {
			return oracle.Failf(oracle.Invented, "snapshot %d was removed and is there again", i)
		}
	}
	return nil
}
