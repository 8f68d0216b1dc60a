package node

import (
	"bytes"
	"context"
	"encoding/json"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// Reconfigure makes one change of the members and returns when it is in effect. The errors are
// member's, and those of Propose.
func (n *Node) Reconfigure(ctx context.Context, t raftpb.ConfChangeType, id uint64, c member.Change) error {
	if err := n.members.Check(t, id, c); err != nil {
		return err
	}
	var context []byte
	if t != raftpb.ConfChangeRemoveNode {
		var err error
		if context, err = contextOf(c); err != nil {
			return err
		}
	}
	if len(context) > n.cfg.MaxRequest {
		return ErrTooLarge
	}
	request := n.nextID()
	_, err := n.await(ctx, proposal{id: request, change: &raftpb.ConfChange{Type: &t, NodeId: &id, Context: context, Id: &request}})
	return err
}

// A Step is one of several changes of the members that are made at once.
type Step struct {
	Type   raftpb.ConfChangeType `json:"type"`
	ID     uint64                `json:"id"`
	Change member.Change         `json:"change"`
}

// joint is what the log says of a change of several members beside their IDs.
type joint struct {
	Request uint64 `json:"request"`
	Steps   []Step `json:"steps"`
}

// ReconfigureJoint makes several changes of the members at once: in between, decisions need a
// majority of the old members and one of the new. It returns when the new ones are in effect. The
// errors are those of Reconfigure; one of a step is of all.
func (n *Node) ReconfigureJoint(ctx context.Context, steps []Step) error {
	request := n.nextID()
	b, err := json.Marshal(joint{request, steps})
	if err != nil {
		return err
	}
	if len(b) > n.cfg.MaxRequest {
		return ErrTooLarge
	}
	if err := n.checkAll(steps); err != nil {
		return err
	}
	cc := &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointImplicit.Enum(), Context: b, Changes: singles(steps)}
	_, err = n.await(ctx, proposal{id: request, change: cc})
	return err
}

// singles returns what raft is told of several changes.
func singles(steps []Step) []*raftpb.ConfChangeSingle {
	var out []*raftpb.ConfChangeSingle
	for _, s := range steps {
		out = append(out, &raftpb.ConfChangeSingle{Type: s.Type.Enum(), NodeId: &s.ID})
	}
	return out
}

// checkAll returns why several changes cannot be made at once, or nil.
func (n *Node) checkAll(steps []Step) error {
	after := n.members.Clone()
	for _, s := range steps {
		if err := after.Check(s.Type, s.ID, s.Change); err != nil {
			return err
		}
		after.Apply(s.Type, s.ID, s.Change)
	}
	return nil
}

func contextOf(c member.Change) ([]byte, error) { return json.Marshal(c) }

// Promotable tells a leader whether a learner has caught up with it. The errors are ErrNotLeader,
// ErrNotReady, ErrStopped and member.ErrNotFound.
func (n *Node) Promotable(ctx context.Context, id uint64) error {
	answer := make(chan error, 1)
	n.inbox.call(func() {
		s := n.raft.Status()
		if s.RaftState != raft.StateLeader {
			answer <- ErrNotLeader
			return
		}
		pr, ok := s.Progress[id]
		switch {
		case !ok:
			answer <- member.ErrNotFound
		case pr.Match*10 < s.Progress[n.cfg.ID].Match*9:
			answer <- ErrNotReady
		default:
			answer <- nil
		}
	})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stop:
		return n.why()
	}
}

// applyChange changes the members, or answers why not.
func (n *Node) applyChange(index uint64, cc *raftpb.ConfChange) error {
	var c member.Change
	if len(cc.Context) > 0 {
		if err := json.Unmarshal(cc.Context, &c); err != nil {
			return err
		}
	}
	refused := n.members.Check(cc.GetType(), cc.GetNodeId(), c)
	if refused == nil {
		n.members.Apply(cc.GetType(), cc.GetNodeId(), c)
		n.follow(cc.GetType(), cc.GetNodeId())
	} else {
		cc.NodeId = new(uint64) // raft must learn of it all the same
	}
	if err := n.configure(index, cc); err != nil {
		return err // the Node is stopped, and raft does not know of it
	}
	n.applier.changed = append(n.applier.changed, func() { n.pending.decide(cc.GetId(), &pb.EmptyResponse{}, refused) })
	return nil
}

// applyJoint changes several members at once, or ends the time in between.
func (n *Node) applyJoint(index uint64, cc *raftpb.ConfChangeV2) error {
	var j joint
	if len(cc.Context) > 0 {
		if err := json.Unmarshal(cc.Context, &j); err != nil {
			return err
		}
	}
	refused := n.checkAll(j.Steps)
	if refused == nil {
		for _, s := range j.Steps {
			if s.Type == raftpb.ConfChangeRemoveNode {
				n.members.Retire(s.ID) // it has a say until the time in between is over
				continue
			}
			n.members.Apply(s.Type, s.ID, s.Change)
			n.follow(s.Type, s.ID)
		}
		if len(j.Steps) == 0 {
			for _, id := range n.members.Finish() {
				n.follow(raftpb.ConfChangeRemoveNode, id)
			}
		}
	} else {
		cc.Transition = nil
		cc.Changes = []*raftpb.ConfChangeSingle{{NodeId: new(uint64)}}
	}
	if err := n.configure(index, cc); err != nil {
		return err
	}
	n.applier.changed = append(n.applier.changed, func() { n.pending.decide(j.Request, &pb.EmptyResponse{}, refused) })
	return nil
}

// configure has raft take a change of the members, which only the loop may do, and waits for it.
func (n *Node) configure(index uint64, cc raftpb.ConfChangeI) error {
	done := make(chan []byte, 1)
	before := n.applier.conf
	n.inbox.call(func() {
		conf := marshal(n.raft.ApplyConfChange(cc))
		if !bytes.Equal(conf, before) {
			n.storage.changed = index
		}
		done <- conf
		n.count()
		if n.members.Removed(n.cfg.ID) && n.leaving == 0 {
			n.leaving = n.cfg.ElectionTicks // the others are to learn of it first
		}
	})
	select {
	case conf := <-done:
		n.applier.mu.Lock()
		n.applier.conf = conf
		n.applier.mu.Unlock()
		// From here on a restart knows of the change. A commit alone is durable only with what is
		// saved next, and with the member that was removed the majority that knows of it may be
		// gone.
		return n.wal.Sync()
	case <-n.stop:
		return ErrStopped
	}
}

// count finds out whether this member is the only voter.
func (n *Node) count() {
	voters := n.raft.Status().Config.Voters.IDs()
	_, me := voters[n.cfg.ID]
	n.alone = me && len(voters) == 1
}
