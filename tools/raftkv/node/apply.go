package node

import (
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// applier applies what is committed, in order, in a goroutine of its own.
type applier struct {
	mu     sync.Mutex
	more   sync.Cond
	work   []work
	closed bool

	index, term uint64 // of the last entry applied
	conf        []byte // the conf state there
	waiting     []awaited

	// The goroutine's own.
	machine *Head // what the machine is to be given in place of its state
	// Calls that answer those who changed the members, once raft knows that the change is applied.
	changed      []func()
	since, bytes uint64 // entries applied since the newest snapshot, and their size
	sized        sized
	leaderTerm   uint64
}

// work is a message with entries, a snapshot to take the place of everything, or the demand for a
// snapshot of an index or a later one.
type work struct {
	message  *raftpb.Message
	snapshot *raftpb.Snapshot
	demand   uint64
}

// awaited is what is to be called once an index has been applied.
type awaited struct {
	index uint64
	then  func()
}

func (a *applier) init() { a.more.L = &a.mu }

// at says what the state is when the Node starts.
func (a *applier) at(index, term uint64, conf []byte) { a.index, a.term, a.conf = index, term, conf }

// push has the entries of a message applied, and then its responses delivered.
func (a *applier) push(m *raftpb.Message) { a.add(work{message: m}) }

// restore has the state replaced by a snapshot.
func (a *applier) restore(s *raftpb.Snapshot) { a.add(work{snapshot: s}) }

func (a *applier) add(w work) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.work = append(a.work, w)
	a.more.Signal()
}

func (a *applier) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.more.Signal()
}

// once calls f when index has been applied, which may be now.
func (a *applier) once(index uint64, f func()) {
	a.mu.Lock()
	if a.index < index {
		a.waiting = append(a.waiting, awaited{index, f})
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	f()
}

// reached says that the state is now at an index.
func (a *applier) reached(n *Node, index, term uint64) {
	a.mu.Lock()
	a.index, a.term = index, term
	var due []func()
	left := a.waiting[:0]
	for _, w := range a.waiting {
		if w.index <= index {
			due = append(due, w.then)
		} else {
			left = append(left, w)
		}
	}
	a.waiting = left
	a.mu.Unlock()
	n.applied.Store(index)
	for _, f := range due {
		f()
	}
}

func (a *applier) run(n *Node) {
	defer n.background.Done()
	n.handMachine()
	for {
		a.mu.Lock()
		for len(a.work) == 0 && !a.closed {
			a.more.Wait()
		}
		if a.closed {
			a.mu.Unlock()
			return
		}
		batch := a.work
		a.work = nil
		a.mu.Unlock()
		for _, w := range batch {
			select {
			case <-n.failed: // the state may lack an entry: nothing may be built on it
				return
			case <-n.stop: // the loop is gone: nothing may be applied that it has to know
				return
			default:
			}
			switch {
			case w.snapshot != nil:
				n.replace(w.snapshot)
			case w.message != nil:
				n.apply(w.message)
			case n.newest.Load() < w.demand:
				n.snapshot()
			}
		}
	}
}

// apply applies the entries of a message. Each is durable here, and committed: a majority has it.
func (n *Node) apply(m *raftpb.Message) {
	a := &n.applier
	for _, e := range m.Entries {
		if e.GetIndex() <= a.index {
			continue // raft gives each once, but the state decides
		}
		if e.GetTerm() > a.leaderTerm {
			a.leaderTerm = e.GetTerm()
			a.answer()
			n.pending.lost(e.GetTerm())
		}
		began := time.Now()
		if err := n.applyEntry(e); errors.Is(err, ErrStopped) {
			return // raft does not know of it: it is applied again after a restart
		} else if err != nil {
			n.fail(fmt.Errorf("raftkv: entry %d/%d: %w", e.GetTerm(), e.GetIndex(), err))
			return
		}
		if f := n.cfg.Observer.Applied; f != nil {
			f(time.Since(began))
		}
		a.since++
		a.bytes += memoryOf(e)
		a.reached(n, e.GetIndex(), e.GetTerm())
	}
	n.deliver(m.Responses)
	a.answer()
	if n.due() {
		n.snapshot()
	}
}

// answer answers those who changed the members. They may go on to the next change, which raft drops
// if it does not know yet that the one before was applied.
func (a *applier) answer() {
	for _, decide := range a.changed {
		decide()
	}
	a.changed = nil
}

// applyEntry applies one entry. An error says that the entry makes no sense: then no member can go
// on.
func (n *Node) applyEntry(e *raftpb.Entry) error {
	switch e.GetType() {
	case raftpb.EntryNormal:
		if len(e.Data) == 0 {
			return nil // a leader's first
		}
		var r pb.InternalRaftRequest
		if err := proto.Unmarshal(e.Data, &r); err != nil {
			return err
		}
		if n.cfg.Machine != nil {
			return n.command(e, &r)
		}
		id := r.GetHeader().GetID()
		if id == 0 {
			id = r.GetID()
		}
		response, err := n.applyRequest(&r)
		n.pending.decide(id, response, err)
		return nil
	case raftpb.EntryConfChange:
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.Data, &cc); err != nil {
			return err
		}
		return n.applyChange(e.GetIndex(), &cc)
	case raftpb.EntryConfChangeV2:
		var cc raftpb.ConfChangeV2
		if err := proto.Unmarshal(e.Data, &cc); err != nil {
			return err
		}
		return n.applyJoint(e.GetIndex(), &cc)
	}
	return fmt.Errorf("entry of unknown type %d", e.GetType())
}

// applyRequest changes the state as a request says. It depends on the state and the request alone,
// so that all members come to the same.
func (n *Node) applyRequest(r *pb.InternalRaftRequest) (proto.Message, error) {
	full := n.alarms.active(pb.AlarmType_NOSPACE)
	if changes := r.Put != nil || r.DeleteRange != nil || r.Txn != nil || r.Compaction != nil; changes && n.alarms.active(pb.AlarmType_CORRUPT) {
		return nil, ErrCorrupt
	}
	switch {
	case r.Put != nil:
		if full {
			return nil, ErrNoSpace
		}
		return or(n.store.Put(r.Put))
	case r.DeleteRange != nil:
		return n.store.DeleteRange(r.DeleteRange), nil
	case r.Txn != nil:
		if full && writes(r.Txn) {
			return nil, ErrNoSpace
		}
		return or(n.store.Txn(r.Txn))
	case r.Range != nil:
		return or(n.store.Range(r.Range))
	case r.Compaction != nil:
		if err := n.store.Compact(r.Compaction.GetRevision()); err != nil {
			return nil, err
		}
		n.sweeper.wake()
		return &pb.CompactionResponse{Header: &pb.ResponseHeader{Revision: n.store.Rev()}}, nil
	case r.Alarm != nil:
		if err := n.unknown(r.Alarm); err != nil {
			return nil, err
		}
		return n.alarms.apply(r.Alarm), nil
	case r.ClusterMemberAttrSet != nil:
		attr := r.ClusterMemberAttrSet
		n.members.SetAttributes(attr.GetMember_ID(), attr.GetMemberAttributes().GetName(), attr.GetMemberAttributes().GetClientUrls())
		return &pb.EmptyResponse{}, nil
	}
	// parseRequest lets none of that kind through.
	return nil, errors.New("raftkv: this request is not supported")
}

// or turns a nil response of some type into none.
func or[M proto.Message](m M, err error) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

// writes reports whether a transaction may add to the state.
func writes(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if op.GetRequestPut() != nil || op.GetRequestTxn() != nil && writes(op.GetRequestTxn()) {
				return true
			}
		}
	}
	return false
}

// marshal encodes a message that has no way to fail.
func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // ours: the message was made here
	}
	return b
}
