// Package node is one member of a replicated key-value store: raft, the log that it promises by,
// and the state that the log adds up to. It speaks to its peers through a Transport and to the disk
// through the stele log and its snapshots.
//
// Read ready.go first. Everything that must not be forgotten goes through the two functions there,
// and the order of their lines is why the store is safe.
//
// A Node has three goroutines of its own. One owns raft, and does nothing that waits for the disk.
// The log's own calls back when what raft wanted to be remembered is durable. The third applies
// what is committed. Two more work now and then: one writes a snapshot, and one frees what was
// compacted.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/wal"
)

// A Node is a running member. Start makes one. Its methods may be called concurrently.
type Node struct {
	cfg Config // with its defaults
	log *slog.Logger

	// What is durable, and what it adds up to.
	wal       *wal.Writer
	snapshots *snap.Store
	storage   *storage // raft's view of both, in memory: never ahead of the disk
	store     *mvcc.Store
	members   *member.Set // as of the last entry applied, as are store and alarms
	alarms    alarms

	// What goes from one goroutine to another.
	inbox   inbox   // to the loop
	applier applier // from the loop, and the state's goroutine
	sweeper sweeper // from the applier
	acks    acks    // what waits for the log
	reads   reads   // that wait for raft
	pending pending // requests that wait to be decided
	reached reached // members that the transport knows

	loop

	// Any goroutine may read these. Each only grows, but for fresh and received.
	lead      leadership
	term      atomic.Uint64 // of raft: it may not be durable yet
	committed atomic.Uint64 // the index that raft knows to be committed
	applied   atomic.Uint64 // the index of the last entry in the state
	newest    atomic.Uint64 // the index of the newest snapshot
	ids       atomic.Uint64 // the last ID of a request
	fresh     atomic.Bool   // as in Standing
	// received is the content of a snapshot that raft was given and that is not the state yet.
	received atomic.Pointer[content]

	snapshotting atomic.Bool    // a snapshot is being made in the background
	background   sync.WaitGroup // the goroutines
	stop         chan struct{}  // closed when the loop is to end
	stopOnce     sync.Once
	failed       chan struct{} // closed once failure is set
	failOnce     sync.Once
	failure      error // why the Node stopped without Stop
}

// loop is what belongs to the goroutine of run alone: once Start has returned no other reads it.
type loop struct {
	raft  *raft.RawNode
	held  []proposal // those that wait for a leader, or for room in its log
	last  uint64     // the index of the last entry that the log was given
	alone bool       // this member is the only voter

	// In ticks; 0 is none.
	leaving  int     // until a removed member stops
	demanded int     // until another snapshot may be demanded
	warned   int     // until another message that was passed over is worth a warning
	pauses   []pause // what is to be done later
}

// Start opens what is in Config.Dir, or makes it, and joins the cluster. The errors are those of
// the log and the snapshots.
func Start(cfg Config) (*Node, error) {
	cfg.setDefaults()
	// Raft would panic.
	if cfg.Tick < 0 || cfg.HeartbeatTicks < 1 || cfg.ElectionTicks <= cfg.HeartbeatTicks {
		return nil, fmt.Errorf("raftkv: Tick %v, HeartbeatTicks %d, ElectionTicks %d: the last must be more than the one before, and none negative",
			cfg.Tick, cfg.HeartbeatTicks, cfg.ElectionTicks)
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger, store: mvcc.New(), members: member.NewSet(),
		stop: make(chan struct{}), failed: make(chan struct{}),
	}
	n.storage = &storage{MemoryStorage: raft.NewMemoryStorage(), demand: n.demand}
	n.inbox.init()
	n.lead.init()
	n.reads.init()
	n.pending.init()
	n.applier.init()
	n.sweeper.init()
	n.reached.init()
	n.ids.Store(rand.Uint64())
	if err := n.boot(); err != nil {
		if n.wal != nil {
			err = errors.Join(err, n.wal.Close())
		}
		return nil, err
	}
	n.background.Add(3)
	go n.run()
	go n.applier.run(n)
	go n.sweeper.run(n)
	return n, nil
}

// Stop stops the Node and closes its log. What was acknowledged is durable already. The error is
// the log's.
func (n *Node) Stop() error {
	n.halt()
	n.applier.close()
	n.background.Wait()
	return n.wal.Close()
}

// Receive takes a message from a peer, but for one with a snapshot, which is for ReceivedSnapshot.
// It waits while the Node has enough of them, so that the peer's stream does too. The errors are
// ErrRemoved, ErrNonsense, ErrStopped and the context's.
func (n *Node) Receive(ctx context.Context, m *raftpb.Message) error {
	if n.members.Removed(m.GetFrom()) {
		return ErrRemoved
	}
	if m.GetType() == raftpb.MsgSnap {
		return nonsense(m, "a snapshot comes another way")
	}
	if err := n.admit(m); err != nil {
		return err
	}
	return n.inbox.receive(ctx, n.stop, m)
}

// Unreachable tells raft that messages to a peer are being lost.
func (n *Node) Unreachable(id uint64) {
	n.inbox.call(func() { n.raft.ReportUnreachable(id) })
}

// Evicted tells a member that a peer knows it to be removed. The member itself may not know, as the
// others no longer send to it.
func (n *Node) Evicted() { n.fail(ErrRemoved) }

// Status is what a Node knows of itself.
type Status struct {
	ID, ClusterID, Leader, Term uint64
	Committed, Applied          uint64
	Learner                     bool
	Pending                     int
	Snapshot                    uint64 // the index of the newest
}

// Status returns what the Node knows of itself.
func (n *Node) Status() Status {
	me, _ := n.members.Get(n.cfg.ID)
	return Status{
		ID: n.cfg.ID, ClusterID: n.cfg.ClusterID, Leader: n.lead.get(), Term: n.term.Load(),
		Committed: n.committed.Load(), Applied: n.applied.Load(), Learner: me.IsLearner,
		Pending: n.pending.len(), Snapshot: n.newest.Load(),
	}
}

// Store returns the state, to be read. A read is linearizable if ReadIndex returned before.
func (n *Node) Store() *mvcc.Store { return n.store }

// Hash returns the checksum of the state up to a revision, or with 0 up to all that was decided
// before the call. The errors are those of ReadIndex and of mvcc.View.Hash.
func (n *Node) Hash(ctx context.Context, rev int64) (mvcc.Hash, error) {
	if err := n.ReadIndex(ctx); err != nil {
		return mvcc.Hash{}, err
	}
	return n.store.View().Hash(rev)
}

// Members returns the members of the cluster.
func (n *Node) Members() *member.Set { return n.members }

// Quota returns how large the state may be, in bytes.
func (n *Node) Quota() int64 { return n.cfg.Quota }

// nextID returns an ID for a request. They count up from a random number, so that no two are under
// way with the same one.
func (n *Node) nextID() uint64 { return n.ids.Add(1) }
