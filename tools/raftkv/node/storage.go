package node

import (
	"math"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// storage is raft's log in memory. It hands out a snapshot only if every member there is now can be
// restored from it: raft would send an older one over and over to a member that was added after it,
// which never takes it.
type storage struct {
	*raft.MemoryStorage
	// The index of the last change of members that raft knows of; the loop's.
	changed uint64
	demand  func(index uint64) // has a snapshot made of this index or a later one

	// changing is held while the log changes, and while entries are read outside of the loop: raft
	// panics if the end that was asked for is gone.
	changing sync.Mutex
}

func (s *storage) Append(entries []*raftpb.Entry) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.MemoryStorage.Append(entries)
}

func (s *storage) ApplySnapshot(snapshot *raftpb.Snapshot) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.MemoryStorage.ApplySnapshot(snapshot)
}

// after returns the entries after an index, nil if they are not all there. Any goroutine may call
// it.
func (s *storage) after(index uint64) []*raftpb.Entry {
	s.changing.Lock()
	defer s.changing.Unlock()
	last, _ := s.LastIndex() // which has no way to fail
	if index >= last {
		return nil
	}
	entries, err := s.Entries(index+1, last+1, math.MaxUint64)
	if err != nil {
		return nil // index is in a snapshot by now
	}
	return entries
}

// Snapshot returns the newest snapshot, or ErrSnapshotTemporarilyUnavailable while a later one has
// to be made. The loop calls it.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	newest, err := s.MemoryStorage.Snapshot()
	if err == nil && newest.GetMetadata().GetIndex() < s.changed {
		s.demand(s.changed)
		// Raft asks again when it next hears from the member.
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return newest, err
}

// demand has the applier make a snapshot of an index or a later one, at most one in an election
// timeout. The loop calls it.
func (n *Node) demand(index uint64) {
	if n.demanded == 0 {
		n.demanded = n.cfg.ElectionTicks
		n.applier.add(work{demand: index})
	}
}

// failedSnapshots is how many election timeouts pass after a snapshot could not be made until it is
// tried again for a member that needs one: what is missing is room on the disk, most likely.
const failedSnapshots = 10

// A pause is something that the loop is to do some ticks from now.
type pause struct {
	ticks int
	then  func()
}

// after has the loop call f after some ticks. The loop calls it.
func (n *Node) after(ticks int, f func()) { n.pauses = append(n.pauses, pause{ticks, f}) }

// tick lets time pass for what waits in the loop.
func (n *Node) tick() {
	n.demanded, n.warned = max(n.demanded-1, 0), max(n.warned-1, 0)
	waiting := n.pauses
	n.pauses = nil // a call may begin another pause
	for _, p := range waiting {
		if p.ticks--; p.ticks > 0 {
			n.pauses = append(n.pauses, p)
		} else {
			p.then()
		}
	}
}
