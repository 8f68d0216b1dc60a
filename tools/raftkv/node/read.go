package node

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
)

// ReadIndex returns once the state holds all that was decided before the call, wherever it was: a
// read of Store is then linearizable. The errors are ErrTimeout, ErrStopped and the context's.
func (n *Node) ReadIndex(ctx context.Context) error {
	if n.cfg.saboteur.staleReads {
		return nil
	}
	round := n.reads.join()
	n.inbox.wake()
	timeout := time.NewTimer(n.cfg.RequestTimeout)
	defer timeout.Stop()
	select {
	case <-round.done:
		return round.err
	case <-timeout.C:
		return ErrTimeout
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stop:
		return n.why()
	}
}

// reads are the reads that wait for raft. Those that come while it is being asked wait for the next
// question: it must be asked after they came.
type reads struct {
	mu     sync.Mutex
	next   *round // gathers
	asked  *round // raft is being asked
	first  uint64 // the number of the first question for the reads that it is asked for
	number uint64 // of the last question
	ticks  int
}

// round is the reads that one question answers.
type round struct {
	done chan struct{}
	err  error
}

// init has the numbers begin at random: an answer to a question of this member's earlier life must
// not pass for one to a question of this life.
func (r *reads) init() { r.number = rand.Uint64() }

func (r *reads) join() *round {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	return r.next
}

// ask asks raft, if there are reads and it is not being asked already. The loop calls it.
func (r *reads) ask(n *Node) {
	r.mu.Lock()
	if r.asked != nil || r.next == nil || n.forgetful() {
		r.mu.Unlock()
		return
	}
	r.asked, r.next = r.next, nil
	r.mu.Unlock()
	r.first = r.number + 1
	r.put(n)
}

// questionSize is how long the number of a question is, in bytes.
const questionSize = 8

// put asks raft under a new number. Answers to what was asked before for the same reads count as
// well; those to what was asked for others do not.
func (r *reads) put(n *Node) {
	r.number++
	r.ticks = 0
	n.raft.ReadIndex(binary.BigEndian.AppendUint64(nil, r.number))
}

// tick asks again if raft has not answered for a while, since questions can be lost.
func (r *reads) tick(n *Node) {
	if r.asked == nil {
		return
	}
	if r.ticks++; r.ticks > 2*n.cfg.HeartbeatTicks+1 && !n.forgetful() {
		r.put(n)
	}
}

// forgetful reports whether this member is the only voter and has not decided anything since it
// began to lead. Then its commit may be older than what it acknowledged before it was restarted,
// since a commit alone is not made durable; raft, which has a leader among several wait for an
// entry of its own term, has a lone one answer reads at once.
func (n *Node) forgetful() bool {
	if !n.alone {
		return false
	}
	s := n.raft.BasicStatus()
	term, err := n.storage.Term(s.GetCommit())
	return err != nil || term != s.GetTerm()
}

// again has raft asked again at the next tick: there is another leader.
func (r *reads) again() { r.ticks = 1 << 20 }

// confirmed takes an answer of raft.
func (r *reads) confirmed(n *Node, s raft.ReadState) {
	if r.asked == nil || len(s.RequestCtx) != questionSize || binary.BigEndian.Uint64(s.RequestCtx)-r.first > r.number-r.first {
		return
	}
	asked := r.asked
	r.asked = nil
	n.applier.once(s.Index, func() { close(asked.done) })
	r.ask(n)
}

func (r *reads) failAll(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, round := range []*round{r.asked, r.next} {
		if round != nil {
			round.err = err
			close(round.done)
		}
	}
	r.asked, r.next = nil, nil
}
