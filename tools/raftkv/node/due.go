package node

import (
	"errors"
	"math"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// entryOverhead is what an entry takes in memory beside its data, roughly.
const entryOverhead = 128

func memoryOf(e *raftpb.Entry) uint64 { return uint64(len(e.Data)) + entryOverhead }

// sized is how large the newest snapshot is.
type sized struct{ index, bytes uint64 }

// due reports whether it is time for a snapshot. It costs as much as it holds, so a large state
// waits for more entries: what is written for snapshots is then no more than a small multiple of
// what is written for entries. The applier calls it.
func (n *Node) due() bool {
	a := &n.applier
	if a.since >= n.cfg.SnapshotEntries {
		return true
	}
	if a.bytes < n.cfg.SnapshotBytes {
		return false
	}
	if newest := n.newest.Load(); newest != a.sized.index {
		a.sized = sized{index: newest}
		// Without one there is nothing to wait for.
		if body, err := n.snapshots.OpenBody(newest); err == nil {
			a.sized.bytes = uint64(body.Size())
			body.Close()
		}
	}
	return a.bytes >= a.sized.bytes/2
}

// forget has raft's memory let go of the entries up to a snapshot, but for the last ones: a member
// that lags by no more is sent those, and no snapshot.
func (n *Node) forget(index uint64) error {
	first, err := n.storage.FirstIndex()
	if err != nil || first > index {
		return err
	}
	entries, err := n.storage.Entries(first, index+1, math.MaxUint64)
	if errors.Is(err, raft.ErrCompacted) {
		return nil // a snapshot that was received has taken their place
	} else if err != nil {
		return err
	}
	kept, bytes := uint64(0), uint64(0)
	for i := len(entries) - 1; i >= 0 && kept < n.cfg.CatchUpEntries; i-- {
		if bytes += memoryOf(entries[i]); bytes > n.cfg.CatchUpBytes {
			break
		}
		kept++
	}
	if err := n.storage.Compact(index - kept); err != nil && !errors.Is(err, raft.ErrCompacted) {
		return err
	}
	return nil
}
