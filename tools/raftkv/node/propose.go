package node

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// proposal is a request on its way into the log.
type proposal struct {
	id     uint64
	data   []byte
	change raftpb.ConfChangeI // instead of data
}

// Propose has a request written in the log and applied, and returns the answer, which is of the type that belongs
// to the request. The request is decided and durable then. If the error is one of the request itself, mvcc's or ErrNoSpace, it was decided
// that it takes no effect. With ErrTooMany and ErrTooLarge it was not even proposed. With any other error it may take effect, now or later, or never.
func (n *Node) Propose(ctx context.Context, r *pb.InternalRaftRequest) (proto.Message, error) {
	if err := n.spacious(r); err != nil {
		return nil, err
	}
	id := n.nextID()
	r.Header = &pb.RequestHeader{ID: id}
	data, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(data) > n.cfg.MaxRequest {
		return nil, ErrTooLarge
	}
	return n.await(ctx, proposal{id: id, data: data})
}

// await proposes something and waits until it is decided.
func (n *Node) await(ctx context.Context, p proposal) (proto.Message, error) {
	w, err := n.pending.add(p.id)
	if err != nil {
		return nil, err
	}
	n.inbox.propose(p)
	timeout := time.NewTimer(n.cfg.RequestTimeout)
	defer timeout.Stop()
	select {
	case out := <-w.out:
		err = out.err
		if err == nil {
			return out.response, nil
		}
	case <-timeout.C:
		err = ErrTimeout
	case <-ctx.Done():
		err = ctx.Err()
	case <-n.stop:
		err = n.why()
	}
	n.pending.drop(p.id)
	if f := n.cfg.Observer.Failed; f != nil && !errors.Is(err, ErrNoSpace) {
		f()
	}
	return nil, err
}

// propose gives raft what it takes, and returns what has to wait for a leader, or for room in its log.
func (n *Node) propose(proposals []proposal) (held []proposal) {
	status := n.raft.BasicStatus()
	if len(proposals) == 0 || status.Lead == raft.None {
		return proposals
	}
	term := status.GetTerm()
	for len(proposals) > 0 {
		var m raftpb.Message
		size, count := 0, 0
		for _, p := range proposals {
			if p.change != nil && count > 0 || size > maxBatch {
				break
			}
			count++
			if !n.pending.proposed(p.id, term) {
				continue // whoever asked has gone: better not to do it at all
			}
			if p.change != nil {
				if err := n.raft.ProposeConfChange(p.change); errors.Is(err, raft.ErrProposalDropped) {
					return proposals
				}
				break
			}
			m.Entries = append(m.Entries, &raftpb.Entry{Data: p.data})
			size += len(p.data)
		}
		if len(m.Entries) > 0 {
			m.Type, m.From = raftpb.MsgProp.Enum(), &n.cfg.ID
			if err := n.raft.Step(&m); errors.Is(err, raft.ErrProposalDropped) {
				return proposals
			}
		}
		proposals = proposals[count:]
	}
	return nil
}

// Reconfigure makes one change of the members and returns when it is in effect. The errors are member's, and those of Propose.
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

// ReconfigureJoint makes several changes of the members at once: in between, decisions need a majority of the old members and
// one of the new. It returns when the new ones are in effect. The errors are those of Reconfigure; one of a step is of all.
func (n *Node) ReconfigureJoint(ctx context.Context, steps []Step) error {
	request := n.nextID()
	b, err := json.Marshal(joint{request, steps})
	if err != nil {
		return err
	}
	cc := &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointImplicit.Enum(), Context: b}
	for _, s := range steps {
		if err := n.members.Check(s.Type, s.ID, s.Change); err != nil {
			return err
		}
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: &s.Type, NodeId: &s.ID})
	}
	_, err = n.await(ctx, proposal{id: request, change: cc})
	return err
}

func contextOf(c member.Change) ([]byte, error) { return json.Marshal(c) }

// MoveLeader makes another member the leader. The errors are ErrNotLeader, ErrBadTransfer and ErrTimeout.
func (n *Node) MoveLeader(ctx context.Context, to uint64) error {
	if n.lead.Load() != n.cfg.ID {
		return ErrNotLeader
	}
	if m, ok := n.members.Get(to); !ok || m.IsLearner {
		return ErrBadTransfer
	}
	n.inbox.call(func() { n.raft.TransferLeader(to) })
	timeout := time.NewTimer(n.cfg.election())
	defer timeout.Stop()
	poll := time.NewTicker(n.cfg.Tick / 4)
	defer poll.Stop()
	for n.lead.Load() != to {
		select {
		case <-poll.C:
		case <-timeout.C:
			return ErrTimeout
		case <-ctx.Done():
			return ctx.Err()
		case <-n.stop:
			return n.why()
		}
	}
	return nil
}

// Promotable tells a leader whether a learner has caught up with it. The errors are ErrNotLeader, ErrNotReady, ErrStopped and
// member.ErrNotFound.
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

// leads takes note of who leads.
func (n *Node) leads(id uint64) {
	if n.lead.Swap(id) == id {
		return
	}
	if f := n.cfg.Observer.LeaderChanged; f != nil {
		f(id)
	}
	n.reads.again()
}

// pending are the requests of this member that are not decided.
type pending struct {
	mu      sync.Mutex
	waiting map[uint64]*waiter
}

type waiter struct {
	out  chan outcome // takes one
	term uint64       // in which it was proposed, 0 if it was not
}

type outcome struct {
	response proto.Message
	err      error
}

func (p *pending) init() { p.waiting = map[uint64]*waiter{} }

func (p *pending) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

func (p *pending) add(id uint64) (*waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) >= maxPending {
		return nil, ErrTooMany
	}
	w := &waiter{out: make(chan outcome, 1)}
	p.waiting[id] = w
	return w, nil
}

func (p *pending) drop(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
}

// proposed notes in which term a request is proposed, and tells whether anyone still waits for it.
func (p *pending) proposed(id, term uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	if w != nil {
		w.term = term
	}
	return w != nil
}

// decide answers a request, if it is ours.
func (p *pending) decide(id uint64, response proto.Message, err error) {
	p.mu.Lock()
	w := p.waiting[id]
	delete(p.waiting, id)
	p.mu.Unlock()
	if w != nil {
		w.out <- outcome{response, err}
	}
}

// lost answers the requests that were proposed to leaders before this term: those that are not decided by now will
// not be, unless they are still on the way.
func (p *pending) lost(term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, w := range p.waiting {
		if w.term != 0 && w.term < term {
			delete(p.waiting, id)
			w.out <- outcome{nil, ErrLeaderLost}
		}
	}
}

func (p *pending) failAll(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, w := range p.waiting {
		delete(p.waiting, id)
		w.out <- outcome{nil, err}
	}
}
