package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Limits on what may be under way at once.
const (
	// Proposals of ours that are not decided, or that raft has not taken yet although their callers
	// have gone.
	maxPending = 16 << 10
	maxWaiting = 256 << 20 // bytes of them
	maxInbox   = 4 << 10   // messages of peers that are not taken
	// Bytes of their entries, unless it is one message: what peers forward is theirs to choose.
	maxInboxBytes  = 64 << 20
	maxBatch       = 1 << 20 // bytes of proposals in one message
	maxUncommitted = 256 << 20
)

// proposal is a request on its way into the log.
type proposal struct {
	id     uint64
	data   []byte
	change raftpb.ConfChangeI // instead of data
}

// size returns how much room it takes until it is decided, in bytes.
func (p *proposal) size() int {
	switch c := p.change.(type) {
	case *raftpb.ConfChange:
		return len(c.Context)
	case *raftpb.ConfChangeV2:
		return len(c.Context)
	}
	return len(p.data)
}

// Propose has a request written in the log and applied, and returns the answer, which is of the
// type that belongs to the request. The request is decided and durable then. If the error is one of
// the request itself, mvcc's or ErrNoSpace, it was decided that it takes no effect. With ErrTooMany
// and ErrTooLarge it was not even proposed. With any other error it may take effect, now or later,
// or never.
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
	select {
	case <-n.stop:
		return nil, n.why()
	default:
	}
	w, err := n.pending.add(p.id, p.size())
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

// propose gives raft what it takes, and returns what has to wait for a leader, or for room in its
// log.
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
				continue // its caller has gone: better not to do it at all
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
		n.pending.taken(proposals[:count])
		proposals = proposals[count:]
	}
	return nil
}

// pending are the requests of this member that are not decided, and those whose callers have gone
// before raft took them: both take memory.
type pending struct {
	mu      sync.Mutex
	waiting map[uint64]*waiter
	bytes   int // of all of them
	most    int // bytes
}

type waiter struct {
	out    chan outcome // takes one
	size   int
	term   uint64 // in which it was proposed, 0 if it was not
	queued bool   // raft has not taken it
	gone   bool   // its caller no longer waits: it is only here because it is queued
}

type outcome struct {
	response proto.Message
	err      error
}

func (p *pending) init() { p.waiting, p.most = map[uint64]*waiter{}, maxWaiting }

func (p *pending) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

// add makes room for a request that is about to be queued. The error is ErrTooMany.
func (p *pending) add(id uint64, size int) (*waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) >= maxPending || p.bytes+size > p.most {
		return nil, ErrTooMany
	}
	w := &waiter{out: make(chan outcome, 1), size: size, queued: true}
	p.waiting[id] = w
	p.bytes += size
	return w, nil
}

// drop says that the caller of a request no longer waits.
func (p *pending) drop(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.waiting[id]; w != nil {
		p.leave(id, w)
	}
}

// leave notes that the caller of a request does not wait, and forgets it unless it is queued.
func (p *pending) leave(id uint64, w *waiter) {
	w.gone = true
	if !w.queued {
		p.forget(id, w)
	}
}

func (p *pending) forget(id uint64, w *waiter) {
	delete(p.waiting, id)
	p.bytes -= w.size
}

// proposed notes in which term a request is proposed, and reports whether its caller still waits.
func (p *pending) proposed(id, term uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	if w == nil || w.gone {
		return false
	}
	w.term = term
	return true
}

// taken says that requests are no longer queued.
func (p *pending) taken(proposals []proposal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range proposals {
		if w := p.waiting[q.id]; w != nil {
			if w.queued = false; w.gone {
				p.forget(q.id, w)
			}
		}
	}
}

// awaited returns those of the queued requests whose callers wait, and forgets the others.
func (p *pending) awaited(queued []proposal) []proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(queued, func(q proposal) bool {
		w := p.waiting[q.id]
		if w != nil && w.gone {
			p.forget(q.id, w)
		}
		return w == nil || w.gone
	})
}

// decide answers a request, if it is ours.
func (p *pending) decide(id uint64, response proto.Message, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.waiting[id]; w != nil && !w.gone {
		p.leave(id, w)
		w.out <- outcome{response, err}
	}
}

// lost answers the requests that were proposed to leaders before this term: those that are not
// decided by now will not be, unless they are still on the way.
func (p *pending) lost(term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, w := range p.waiting {
		if w.term != 0 && w.term < term && !w.gone {
			p.leave(id, w)
			w.out <- outcome{nil, ErrLeaderLost}
		}
	}
}

// failAll answers all requests, when no more will be taken.
func (p *pending) failAll(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, w := range p.waiting {
		p.forget(id, w)
		if !w.gone {
			w.out <- outcome{nil, err}
		}
	}
}
