package node

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// ErrForgot is why a Node stops, or does not start, whose log lacks what its member has promised:
// its disk was lost, or put back to an earlier time. With its vote the others could decide without
// what it had acknowledged.
var ErrForgot = errors.New("raftkv: this member has lost what it acknowledged before")

// Forgotten returns ErrForgot with what to do about it.
func Forgotten(id uint64) error {
	return fmt.Errorf("%w: remove it (etcdctl member remove %x), move its data directory away, add it again (etcdctl member add) and start it with "+
		"--initial-cluster-state existing; if too few others are left for that, restore a saved snapshot (raftkv restore)", ErrForgot, id)
}

// Forgot tells a member that a peer knows it to have promised more than is in its log.
func (n *Node) Forgot() { n.fail(Forgotten(n.cfg.ID)) }

// A Standing is what a member says of its log when it begins to speak to another.
type Standing struct {
	Last  uint64 // the index of the last entry that is durable
	Term  uint64
	Fresh bool // the log was made in this life, and the member has not introduced itself since
}

// Standing returns what there is to say of the log now.
func (n *Node) Standing() Standing {
	last, _ := n.storage.LastIndex() // which has no way to fail
	// The term after the index: if a leader cuts the log in between, the term is that leader's, and
	// says so.
	return Standing{Last: last, Term: n.term.Load(), Fresh: n.fresh.Load()}
}

// Introducing says that the member is about to tell the cluster its name. From then on it is not
// Fresh.
func (n *Node) Introducing() { n.fresh.Store(false) }

// Trusts returns ErrForgot if this member knows of more that another has promised than that has in
// its log, by what it says as it begins to speak: it has introduced itself before, or it has
// acknowledged more to this leader. Other errors are ErrStopped and the context's.
func (n *Node) Trusts(ctx context.Context, id uint64, s Standing) error {
	if s.Fresh && n.introduced(id) {
		n.log.Error("a member has started before, and comes with an empty log: its vote is not taken", "member", fmt.Sprintf("%x", id), "error", Forgotten(id))
		return ErrForgot
	}
	acknowledged := make(chan uint64, 1)
	n.inbox.call(func() {
		var match uint64
		// In the term of a leader no member's log loses what it has acknowledged to that leader. A
		// member in a later term may have been told otherwise.
		if st := n.raft.BasicStatus(); st.RaftState == raft.StateLeader && s.Term <= st.GetTerm() {
			n.raft.WithProgress(func(member uint64, _ raft.ProgressType, pr tracker.Progress) {
				if member == id {
					match = pr.Match
				}
			})
		}
		acknowledged <- match
	})
	select {
	case match := <-acknowledged:
		if s.Last < match {
			n.log.Error("a member's log ends before what it has acknowledged: its vote is not taken", "member", fmt.Sprintf("%x", id),
				"acknowledged", match, "last", s.Last, "error", Forgotten(id))
			return ErrForgot
		}
		return nil
	case <-n.stop:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// introduced reports whether a member has told its name before, as far as this one knows. An entry
// that says so proves it also where it is not known to be committed: commits need not be durable,
// and a member that has the entry may be the only one that does.
func (n *Node) introduced(id uint64) bool {
	applied := n.applied.Load()
	if m, ok := n.members.Get(id); ok && m.Name != "" {
		return true
	}
	for _, e := range n.storage.after(applied) {
		if e.GetType() != raftpb.EntryNormal || len(e.Data) == 0 {
			continue
		}
		r, err := parseRequest(e.Data)
		if err == nil && r.ClusterMemberAttrSet.GetMember_ID() == id {
			return true
		}
	}
	m, ok := n.members.Get(id) // the entry may have been applied, and compacted, meanwhile
	return ok && m.Name != ""
}

// notLost returns why there is no log to be made, where there is none: a member that has snapshots
// had one.
func (n *Node) notLost(dir string) error {
	l, err := n.snapshots.List()
	if err != nil {
		return err
	}
	if len(l.Bodies)+len(l.Partials)+len(l.Snapshots) == 0 {
		return nil
	}
	return fmt.Errorf("%s: no log, though there are snapshots beside it: %w", dir, Forgotten(n.cfg.ID))
}
