package node

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Limits on what may be under way at once.
const (
	maxPending     = 16 << 10 // proposals of ours that are not decided
	maxInbox       = 4 << 10  // messages of peers that are not taken
	maxBatch       = 1 << 20  // bytes of proposals in one message
	maxUncommitted = 256 << 20
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
