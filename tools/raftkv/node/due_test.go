package node

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// A snapshot holds the whole state. Were one made after every so many bytes of entries, whatever it
// takes, a large state would be written over and over.
func TestALargerStateWaitsForMoreEntriesBeforeItsNextSnapshot(t *testing.T) {
	var made atomic.Int64
	s := newSim(t, 1, Config{SnapshotBytes: 16 << 10, Observer: Observer{Snapshot: func(time.Duration, error) { made.Add(1) }}})
	n := s.start(1)
	ctx := context.Background()
	write := func(i int) {
		t.Helper()
		if _, err := n.put(ctx, fmt.Sprint("k", i), strings.Repeat("v", 1<<10)); err != nil {
			t.Fatal(err)
		}
		s.eventually("the snapshot", func() bool { return !n.snapshotting.Load() })
	}
	s.leader()
	const writes = 1000 // a MiB, which is 65 times 16 KiB
	for i := range writes {
		write(i)
	}
	if got := made.Load(); got < 5 || got > 15 {
		t.Errorf("%d snapshots of a state that grew to a MiB", got)
	}
	// The rule holds for the next life too: it looks at the newest snapshot there is, from which
	// the entries are counted again.
	must(t, n.Stop())
	before := made.Load()
	n = s.start(1)
	s.leader()
	for i := range 100 {
		write(i)
	}
	if got := made.Load() - before; got > 1 {
		t.Errorf("%d snapshots of a MiB for a tenth of it", got)
	}
}

func TestTheEntriesKeptForSlowFollowersAreBoundedByBytesAsWell(t *testing.T) {
	const most = 16 << 10
	for _, test := range []struct{ value, kept int }{{10, 50}, {1 << 10, most / (1<<10 + entryOverhead + 64)}, {2 * most, 0}} {
		s := newSim(t, 1, Config{SnapshotEntries: 100, CatchUpEntries: 50, CatchUpBytes: most})
		n := s.start(1)
		s.leader()
		for range 150 {
			if _, err := n.put(context.Background(), "k", strings.Repeat("v", test.value)); err != nil {
				t.Fatal(err)
			}
		}
		s.eventually("a snapshot", func() bool { return n.Status().Snapshot > 0 && !n.snapshotting.Load() })
		first, err := n.storage.FirstIndex()
		must(t, err)
		entries, err := n.storage.Entries(first, n.Status().Snapshot+1, 1<<40)
		if first <= n.Status().Snapshot {
			must(t, err)
		}
		if len(entries) < test.kept || len(entries) > test.kept+1 || total(entries) > most {
			t.Errorf("with values of %d bytes: %d entries of %d bytes are kept, want %d", test.value, len(entries), total(entries), test.kept)
		}
	}
}

func total(entries []*raftpb.Entry) (bytes uint64) {
	for _, e := range entries {
		bytes += memoryOf(e)
	}
	return bytes
}
