package node

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/walpb"
)

// A Machine is a state that commands change, in place of the key-value store. What they mean only
// it knows. Its methods are called one after another. They may wait, until stop is closed; then it
// no longer matters what they do.
//
// The members of a Node with a Machine are those that the cluster began with.
type Machine interface {
	// Apply is given the next command: each once in a life of the Node, in the order of the log.
	Apply(stop <-chan struct{}, index, term uint64, command []byte)
	// Restore is given the state of a snapshot, which stands for all commands up to its index: when
	// the Node starts from it, or when a leader has sent it.
	Restore(stop <-chan struct{}, index, term uint64, state []byte)
}

// Begin has a command written in the log and applied, if this member leads. It returns at once,
// with where the command will be applied, if it ever is: another leader may put something else
// there, and then Apply says so, as it says what is at every index. Without a Machine, or of a
// command larger than MaxRequest, it takes nothing.
func (n *Node) Begin(command []byte) (index, term uint64, leads bool) {
	data := marshal(&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: n.nextID()}, Put: &pb.PutRequest{Value: command}})
	if n.cfg.Machine == nil || len(data) > n.cfg.MaxRequest {
		return 0, n.term.Load(), false
	}
	type place struct {
		index, term uint64
		leads       bool
	}
	answer := make(chan place, 1)
	n.inbox.call(func() {
		for n.raft.HasReady() {
			n.ready(n.raft.Ready())
		}
		if n.raft.BasicStatus().RaftState != raft.StateLeader || n.raft.Propose(data) != nil {
			answer <- place{term: n.raft.BasicStatus().GetTerm()}
			return
		}
		rd := n.raft.Ready()
		last := rd.Entries[len(rd.Entries)-1] // the command: nothing was ready before it
		answer <- place{last.GetIndex(), last.GetTerm(), true}
		n.ready(rd)
	})
	select {
	case p := <-answer:
		return p.index, p.term, p.leads
	case <-n.stop:
		return 0, n.term.Load(), false
	}
}

// command gives an entry to the machine.
func (n *Node) command(e *raftpb.Entry, r *pb.InternalRaftRequest) error {
	if r.Put == nil {
		return errors.New("not a command")
	}
	n.cfg.Machine.Apply(n.stop, e.GetIndex(), e.GetTerm(), r.Put.Value)
	select {
	case <-n.stop:
		return ErrStopped // it need not have been taken
	default:
		return nil
	}
}

// handMachine gives the machine the state of a snapshot, if there is one that it has not been
// given. The applier calls it.
func (n *Node) handMachine() {
	h := n.applier.machine
	n.applier.machine = nil
	if h != nil && h.Machine {
		n.cfg.Machine.Restore(n.stop, h.Index, h.Term, h.State)
	}
}

// SnapshotAt makes a snapshot of a state of the machine's: that after the command at an index,
// which has been given to Apply. When it returns nil the snapshot is durable, and the log is
// released. It does nothing if there is a later one. Only one call at a time is allowed.
//
// The error says that the index is not committed, is the context's, ErrStopped, or that of the file
// system.
func (n *Node) SnapshotAt(ctx context.Context, index uint64, state []byte) error {
	if committed := n.committed.Load(); index > committed {
		return fmt.Errorf("raftkv: a snapshot at %d, and only %d is committed", index, committed)
	}
	applied := make(chan struct{})
	// The machine may be faster than what gives it the commands.
	n.applier.once(index, func() { close(applied) })
	select {
	case <-applied:
	case <-n.stop:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	if index <= n.newest.Load() {
		return nil
	}
	term, err := n.storage.Term(index)
	if errors.Is(err, raft.ErrCompacted) {
		return nil // a leader has sent a later one
	} else if err != nil {
		return err
	}
	n.applier.mu.Lock()
	s := walpb.Snapshot{Index: index, Term: term, ConfState: n.applier.conf}
	n.applier.mu.Unlock()
	h := n.head(index, term)
	h.Members, h.Machine, h.State = n.members.Clone(), true, state
	return n.keep(s, h, mvcc.New().View())
}
