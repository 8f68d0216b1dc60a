package node

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// run owns raft. It never waits for a disk or a peer, but for the log to take more when that is
// full.
func (n *Node) run() {
	defer n.background.Done()
	ticks := n.cfg.Ticks
	if ticks == nil {
		ticker := time.NewTicker(n.cfg.Tick)
		defer ticker.Stop()
		ticks = ticker.C
	}
	n.count()
	for {
		select {
		case <-n.stop:
			n.pending.failAll(n.why())
			n.reads.failAll(n.why())
			return
		case <-ticks:
			n.raft.Tick()
			n.reads.tick(n)
			n.tick()
			if n.leaving > 0 {
				if n.leaving--; n.leaving == 0 {
					n.fail(ErrRemoved)
				}
			}
		case <-n.inbox.signal:
		}
		messages, proposals, calls := n.inbox.take()
		for _, m := range messages {
			if m.GetType() == raftpb.MsgReadIndex && n.forgetful() {
				continue // a learner's, which asks again
			}
			n.step(m)
		}
		for _, call := range calls {
			call()
		}
		if n.alone && n.raft.BasicStatus().RaftState == raft.StateFollower {
			_ = n.raft.Campaign() // there is no other voter to wait for
		}
		n.held = n.propose(n.pending.awaited(append(n.held, proposals...)))
		n.reads.ask(n)
		for n.raft.HasReady() {
			n.ready(n.raft.Ready())
		}
	}
}

// inbox is what the loop is to take.
type inbox struct {
	mu        sync.Mutex
	messages  []*raftpb.Message
	bytes     int // of the entries in those of peers
	proposals []proposal
	calls     []func()
	signal    chan struct{}
	room      chan struct{} // closed when messages have been taken
}

func (b *inbox) init() { b.signal, b.room = make(chan struct{}, 1), make(chan struct{}) }

func (b *inbox) wake() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// step has the loop take messages of our own.
func (b *inbox) step(messages ...*raftpb.Message) {
	b.mu.Lock()
	b.messages = append(b.messages, messages...)
	b.mu.Unlock()
	b.wake()
}

// EntriesSize returns how much the data of a message's entries take, in bytes.
func EntriesSize(m *raftpb.Message) (size int) {
	for _, e := range m.Entries {
		size += len(e.Data)
	}
	return size
}

func (b *inbox) receive(ctx context.Context, stop <-chan struct{}, m *raftpb.Message) error {
	for {
		b.mu.Lock()
		if size := EntriesSize(m); len(b.messages) < maxInbox && (b.bytes == 0 || b.bytes+size <= maxInboxBytes) {
			b.messages = append(b.messages, m)
			b.bytes += size
			b.mu.Unlock()
			b.wake()
			return nil
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-stop:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// call has the loop call f. If the Node is stopped it may not be called.
func (b *inbox) call(f func()) {
	b.mu.Lock()
	b.calls = append(b.calls, f)
	b.mu.Unlock()
	b.wake()
}

func (b *inbox) propose(p proposal) {
	b.mu.Lock()
	b.proposals = append(b.proposals, p)
	b.mu.Unlock()
	b.wake()
}

func (b *inbox) take() (messages []*raftpb.Message, proposals []proposal, calls []func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, proposals, calls = b.messages, b.proposals, b.calls
	b.messages, b.bytes, b.proposals, b.calls = nil, 0, nil, nil
	if len(messages) > 0 {
		close(b.room)
		b.room = make(chan struct{})
	}
	return messages, proposals, calls
}
