package node

import (
	"fmt"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/walpb"
)

// ready does what raft asks for. A crash right after any of its lines leaves what the comment on
// the line says.
func (n *Node) ready(rd raft.Ready) {
	if rd.SoftState != nil {
		n.leads(rd.SoftState.Lead) // nothing: the leader is not written anywhere
	}
	if term := rd.HardState.GetTerm(); term != 0 {
		n.term.Store(term) // nothing: this is only for Status, and persist is what counts
		n.committed.Store(rd.HardState.GetCommit())
	}
	for _, s := range rd.ReadStates {
		n.reads.confirmed(n, s) // nothing: a read that was not answered
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			n.persist(m) // any part of what is to be remembered, from the front; none is promised
		case raft.LocalApplyThread:
			n.applier.push(m) // entries, durable here and committed: applied again after a restart
		default:
			n.send(m) // what it says was durable before raft made it; the rest waits in persist
		}
	}
}

// persist writes what raft must not forget, in order after all it wrote before, and has the
// responses sent once it is durable. It does not wait for that.
func (n *Node) persist(m *raftpb.Message) {
	state := walpb.HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}
	entries := toLog(m.Entries)
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		n.last = s.GetMetadata().GetIndex()
	}
	if len(entries) > 0 {
		n.last = entries[len(entries)-1].Index
	}
	if snapshot := m.GetSnapshot(); !raft.IsEmptySnap(snapshot) {
		// The snapshot's file was durable before raft knew of it. A crash here leaves a file that
		// no record names.
		if err := n.wal.SaveSnapshot(record(snapshot)); err != nil {
			n.fail(err) // the log before the snapshot; the leader sends the snapshot again
			return
		}
		// A crash here leaves a record beyond the commit. The log before it stands until the hard
		// state below is there too.
	} else if len(entries) == 0 && !n.promises(state) {
		// Nothing here is a promise: a commit can be learnt again. So it need not be durable, only
		// in order.
		if !state.IsZero() {
			if err := n.wal.Save(state, nil); err != nil {
				n.fail(err) // an older commit, at worst
				return
			}
		}
		n.deliver(n.acks.hold(m.Responses)) // as durable as before: they wait for earlier batches
		return
	}
	n.promised(state)
	k := n.acks.begin()
	durable := func(err error) {
		if err != nil {
			n.fail(err) // any part of the batch; as no response goes out, none of it was promised
			return
		}
		// From here on the entries, the term and the vote survive a crash, and so does the snapshot
		// in place of what was before it.
		n.remember(m)          // nothing new: memory follows the disk
		n.deliver(m.Responses) // a promise, and the disk keeps it
		n.deliver(n.acks.finish(k))
	}
	if n.cfg.saboteur.ackBeforeSync {
		durable(nil)
		durable = func(error) {}
	}
	if err := n.wal.Append(state, entries, durable); err != nil {
		n.fail(err) // as before: the log refused the batch, and will take no other
	}
	if n.cfg.saboteur.applyBeforeCommit {
		n.applier.push(&raftpb.Message{Entries: m.Entries})
	}
}

// promises reports whether a hard state says more than the last one that the log was given, apart
// from the commit.
func (n *Node) promises(s walpb.HardState) bool {
	return !s.IsZero() && (s.Term != n.acks.term || s.Vote != n.acks.vote)
}

func (n *Node) promised(s walpb.HardState) {
	if !s.IsZero() {
		n.acks.term, n.acks.vote = s.Term, s.Vote
	}
}

// remember has raft's storage in memory follow what is durable.
func (n *Node) remember(m *raftpb.Message) {
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		if err := n.storage.ApplySnapshot(s); err != nil {
			n.fail(err)
			return
		}
		n.newest.Store(s.GetMetadata().GetIndex())
		n.applier.restore(s) // before any later entry: raft gives those only after the response
	}
	if err := n.storage.Append(m.Entries); err != nil {
		n.fail(err)
	}
}

// deliver sends messages that had to wait.
func (n *Node) deliver(messages []*raftpb.Message) {
	var own []*raftpb.Message
	for _, m := range messages {
		if m.GetTo() == n.cfg.ID {
			own = append(own, m)
		} else {
			n.send(m)
		}
	}
	if len(own) > 0 {
		n.inbox.step(own...)
	}
}

// send sends a message to a peer.
func (n *Node) send(m *raftpb.Message) {
	if !between[m.GetType()] {
		return // raft passes an order to hand over on to another leader, which was not asked
	}
	select {
	case <-n.failed:
		// After a failed write nothing more may be promised. Only the order to take over may still
		// go.
		if m.GetType() != raftpb.MsgTimeoutNow {
			return
		}
	default:
	}
	if m.GetType() != raftpb.MsgSnap {
		n.cfg.Transport.Send(m)
		return
	}
	index, to := m.GetSnapshot().GetMetadata().GetIndex(), m.GetTo()
	began := time.Now()
	n.cfg.Transport.SendSnapshot(m, func() (*snap.Reader, error) { return n.snapshots.OpenBody(index) }, func(err error) {
		peer, took := fmt.Sprintf("%x", to), time.Since(began)
		if err == nil {
			n.log.Info("sent a snapshot", "to", peer, "index", index, "took", took)
			n.inbox.call(func() { n.raft.ReportSnapshot(to, raft.SnapshotFinish) })
			return
		}
		n.log.Warn("a peer did not take a snapshot", "peer", peer, "index", index, "took", took, "error", err)
		// Once raft knows that, it sends another.
		n.inbox.call(func() {
			n.after(n.cfg.ElectionTicks, func() { n.raft.ReportSnapshot(to, raft.SnapshotFailure) })
		})
	})
}

// acks keeps track of what the log was given and has not yet made durable.
type acks struct {
	mu   sync.Mutex
	last *ack

	term, vote uint64 // that the log was given last; the loop's alone
}

// ack is one batch for the log, and the messages that may go once it and all before it are durable.
type ack struct {
	durable bool
	after   []*raftpb.Message
}

// begin returns the ack of a batch that the log is about to be given.
func (a *acks) begin() *ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = &ack{}
	return a.last
}

// finish says that a batch is durable, and returns the messages that waited for it.
func (a *acks) finish(k *ack) []*raftpb.Message {
	a.mu.Lock()
	defer a.mu.Unlock()
	k.durable = true
	return k.after
}

// hold has messages wait for all that the log was given, and returns those that need not wait.
func (a *acks) hold(messages []*raftpb.Message) []*raftpb.Message {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil || a.last.durable {
		return messages
	}
	a.last.after = append(a.last.after, messages...)
	return nil
}
