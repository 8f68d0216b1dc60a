package node

import (
	"context"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// MoveLeader makes another member the leader, and waits for that as long as ctx lets it. The errors
// are ErrNotLeader, ErrBadTransfer, ErrNoTransfer and ErrStopped.
func (n *Node) MoveLeader(ctx context.Context, to uint64) error {
	if n.lead.get() != n.cfg.ID {
		return ErrNotLeader
	}
	if m, ok := n.members.Get(to); !ok || m.IsLearner {
		return ErrBadTransfer
	}
	n.inbox.call(func() { n.raft.TransferLeader(to) })
	for {
		lead, changed := n.lead.watch()
		if lead == to {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ErrNoTransfer
		case <-n.stop:
			return n.why()
		}
	}
}

// Retire makes another member the leader, if this one is, and returns once another leads, or none
// can, or ctx is done.
func (n *Node) Retire(ctx context.Context) {
	moving := make(chan bool, 1)
	n.inbox.call(func() { moving <- n.handOver() })
	select {
	case yes := <-moving:
		if !yes {
			return
		}
	case <-n.stop:
		return
	case <-ctx.Done():
		return
	}
	for {
		lead, changed := n.lead.watch()
		if lead != n.cfg.ID && lead != raft.None {
			return
		}
		select {
		case <-changed:
		case <-n.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// handOver asks the voter that has most of the log to lead. The loop calls it.
func (n *Node) handOver() bool {
	if n.raft.BasicStatus().RaftState != raft.StateLeader {
		return false
	}
	var to, match uint64
	n.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id != n.cfg.ID && !pr.IsLearner && pr.RecentActive && (to == 0 || pr.Match > match) {
			to, match = id, pr.Match
		}
	})
	if to == 0 {
		return false
	}
	n.raft.TransferLeader(to)
	for n.raft.HasReady() {
		n.ready(n.raft.Ready())
	}
	return true
}

// leads takes note of the leader.
func (n *Node) leads(id uint64) {
	if !n.lead.set(id) {
		return
	}
	if f := n.cfg.Observer.LeaderChanged; f != nil {
		f(id)
	}
	n.reads.again()
}

// leadership is the leader, as far as this member knows.
type leadership struct {
	mu      sync.Mutex
	id      uint64        // raft.None if no leader is known
	changed chan struct{} // closed when id changes
}

func (l *leadership) init() { l.changed = make(chan struct{}) }

func (l *leadership) get() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

// watch returns the leader, and a channel that is closed when that changes.
func (l *leadership) watch() (id uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.changed
}

// set sets the leader, and reports whether it is another.
func (l *leadership) set(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id == id {
		return false
	}
	l.id = id
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}
