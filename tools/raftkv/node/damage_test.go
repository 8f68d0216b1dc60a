package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/snap"
)

// Two snapshots are kept so that one may be damaged. Then the log has to go back to the older one.
func TestAMemberWhoseNewestSnapshotIsDamagedStartsFromTheOneBefore(t *testing.T) {
	s := newSim(t, 1, Config{SnapshotEntries: 20, CatchUpEntries: 5})
	s.cfg.WAL.SegmentSize = 4096
	s.start(1)
	ctx := context.Background()
	writes := writeTwoSnapshots(t, s)
	newest, before := damageNewest(t, s, 1)
	n := s.start(1)
	if got := n.Status().Snapshot; got != before {
		t.Errorf("it starts from snapshot %d, want %d", got, before)
	}
	for i := range writes {
		if v, err := n.read(ctx, fmt.Sprint("k", i)); err != nil || v != strings.Repeat("v", 300) {
			t.Fatalf("key %d: %d bytes, %v", i, len(v), err)
		}
	}
	// It goes on from there: the next snapshots take the place of the damaged one.
	for i := range 50 {
		if _, err := n.put(ctx, fmt.Sprint("k", i), "w"); err != nil {
			t.Fatal(err)
		}
	}
	s.eventually("another snapshot", func() bool { return n.Status().Snapshot > newest })
	damageNewest(t, s, 1)
	n = s.start(1)
	if v, err := n.read(ctx, "k49"); err != nil || v != "w" {
		t.Errorf("k49 is %q, %v", v, err)
	}
}

func TestAMemberWithoutAnySoundSnapshotSaysWhatToDo(t *testing.T) {
	s := newSim(t, 1, Config{SnapshotEntries: 20, CatchUpEntries: 5})
	s.cfg.WAL.SegmentSize = 4096
	s.start(1)
	writeTwoSnapshots(t, s)
	newest, before := damageNewest(t, s, 1)
	s.disks[1].WriteFile(bodyPath(before), nil)
	_, err := s.tryStart(1)
	var damage *snap.CorruptError
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), "add it again with an empty directory") || !strings.Contains(err.Error(), fmt.Sprintf("%016x", newest)) {
		t.Errorf("it says: %v", err)
	}
}

// writeTwoSnapshots writes keys k0, k1 and so on, 110 at the least, until the leader has made two
// snapshots, and returns how many. Snapshots are made in the background, so how many keys that
// takes is not known.
func writeTwoSnapshots(t *testing.T, s *sim) int {
	t.Helper()
	made := map[uint64]bool{}
	for i := range 100_000 {
		if i >= 110 && len(made) >= 2 {
			return i
		}
		n := s.leader()
		if _, err := n.put(context.Background(), fmt.Sprint("k", i), strings.Repeat("v", 300)); err != nil {
			t.Fatal(err)
		}
		if at := n.Status().Snapshot; at > 0 {
			made[at] = true
		}
	}
	t.Fatal("there are no two snapshots")
	return 0
}

func bodyPath(index uint64) string {
	return filepath.Join(simDir, "snap", fmt.Sprintf("%016x.snap.db", index))
}

// damageNewest turns a member's power off and damages its newest snapshot. It returns its index and
// that of the one before.
func damageNewest(t *testing.T, s *sim, id uint64) (newest, before uint64) {
	t.Helper()
	_ = s.get(id).Stop() // a snapshot that is being made is done
	s.crash(id, crashfs.KeepAll)
	dir := filepath.Join(simDir, "snap")
	store, err := snap.Open(dir, &snap.Options{FS: s.disks[id]})
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.List()
	if err != nil || len(l.Bodies) != 2 {
		t.Fatalf("the snapshots are %d, %v", l.Bodies, err)
	}
	name := bodyPath(l.Bodies[0])
	b, err := s.disks[id].ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	s.disks[id].WriteFile(name, b)
	return l.Bodies[0], l.Bodies[1]
}
