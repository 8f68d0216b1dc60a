// Package node is one member of a replicated key-value store: raft, the log that it promises by, and the state that
// the log adds up to. It speaks to its peers through a Transport and to the disk through the stele log and its snapshots.
//
// Read ready.go first. Everything that must not be forgotten goes through the two functions there, and the order of their
// lines is why the store is safe.
//
// A Node has three goroutines of its own. One owns raft, and does nothing that waits for the disk. The log's own calls back when what
// raft wanted to be remembered is durable. The third applies what is committed. A fourth writes a snapshot, now and then.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Errors of requests. Unless it says otherwise, an error leaves open whether the request takes effect.
var (
	ErrStopped     = errors.New("raftkv: the node is stopped")                               // it may have been accepted
	ErrLeaderLost  = errors.New("raftkv: the leader changed before the request was decided") // it may be decided yet
	ErrTimeout     = errors.New("raftkv: request timed out")
	ErrTooMany     = errors.New("raftkv: too many requests")                          // it takes no effect
	ErrTooLarge    = errors.New("raftkv: request is too large")                       // it takes no effect
	ErrNoSpace     = errors.New("raftkv: no space")                                   // it takes no effect
	ErrNotLeader   = errors.New("raftkv: not the leader")                             // it takes no effect
	ErrBadTransfer = errors.New("raftkv: bad leader transferee")                      // it takes no effect
	ErrNotReady    = errors.New("raftkv: the learner is not in sync with the leader") // it takes no effect
	ErrUnhealthy   = errors.New("raftkv: not enough started members")                 // it takes no effect
)

// ErrRemoved is why a Node stops whose member was removed from the cluster.
var ErrRemoved = errors.New("raftkv: this member was removed from the cluster")

// A Transport carries messages to peers. It may lose them, but it may not change them.
type Transport interface {
	// Send sends a message to m.To. It does not wait.
	Send(m *raftpb.Message)
	// SendSnapshot sends a snapshot's body, which open opens, and m after it, and calls done when the peer has both or
	// cannot be reached. It does not wait.
	SendSnapshot(m *raftpb.Message, open func() (*snap.Reader, error), done func(error))
	// SetPeer says where a member is, RemovePeer that it is gone.
	SetPeer(id uint64, urls []string)
	RemovePeer(id uint64)
}

// Config is what a Node is made of.
type Config struct {
	ID        uint64
	ClusterID uint64
	Dir       string // where its log and snapshots are
	Members   []member.Member
	Bootstrap bool // the log of a new cluster begins with Members; otherwise they are learnt from the log

	FS        fileutil.FS // nil is the operating system's
	WAL       wal.Options // FS and Logger are set by Start
	Transport Transport
	Logger    *slog.Logger
	Observer  Observer

	Tick           time.Duration    // the clock's step
	Ticks          <-chan time.Time // if not nil, the clock itself
	HeartbeatTicks int
	ElectionTicks  int
	NoPreVote      bool

	SnapshotEntries uint64 // a snapshot is made after so many entries
	SnapshotBytes   uint64 // or after so many bytes of them
	CatchUpEntries  uint64 // that stay in memory behind a snapshot, for slow followers
	KeepSnapshots   int
	MaxRequest      int   // in bytes
	Quota           int64 // of the state, in bytes
	RequestTimeout  time.Duration

	saboteur saboteur
}

// saboteur breaks a promise on purpose, so that tests can show that they notice. The zero value breaks none.
type saboteur struct {
	ackBeforeSync     bool
	applyBeforeCommit bool
	staleReads        bool
}

// An Observer is a set of functions that a Node calls as it works; each may be nil.
type Observer struct {
	Applied       func(took time.Duration) // an entry
	LeaderChanged func(leader uint64)
	Failed        func() // a proposal
	Snapshot      func(took time.Duration, err error)
}

func (c *Config) setDefaults() {
	if c.FS == nil {
		c.FS = fileutil.OS{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	set := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	set(&c.SnapshotEntries, 10_000)
	set(&c.SnapshotBytes, 64<<20)
	set(&c.CatchUpEntries, 5_000)
	if c.KeepSnapshots == 0 {
		c.KeepSnapshots = 2
	}
	if c.Tick == 0 {
		c.Tick = 100 * time.Millisecond
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 1
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.MaxRequest == 0 {
		c.MaxRequest = 3 << 19
	}
	if c.Quota == 0 {
		c.Quota = 2 << 30
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 5*time.Second + 2*c.election()
	}
}

func (c *Config) election() time.Duration { return time.Duration(c.ElectionTicks) * c.Tick }

// Limits on what may be under way at once.
const (
	maxPending     = 16 << 10 // proposals of ours that are not decided
	maxInbox       = 4 << 10  // messages of peers that are not taken
	maxBatch       = 1 << 20  // bytes of proposals in one message
	maxUncommitted = 256 << 20
)

// A Node is a running member. Start makes one. Its methods may be called concurrently.
type Node struct {
	cfg       Config
	log       *slog.Logger
	wal       *wal.Writer
	storage   *raft.MemoryStorage
	snapshots *snap.Store
	raft      *raft.RawNode // the loop's alone
	store     *mvcc.Store
	members   *member.Set
	ids       atomic.Uint64

	inbox   inbox
	acks    acks
	reads   reads
	pending pending
	applier applier
	alarms  alarms

	lead      atomic.Uint64
	term      atomic.Uint64
	committed atomic.Uint64
	applied   atomic.Uint64
	newest    atomic.Uint64 // the index of the newest snapshot

	snapshotting atomic.Bool
	background   sync.WaitGroup // the goroutines
	stop         chan struct{}
	stopOnce     sync.Once
	failed       chan struct{}
	failOnce     sync.Once
	failure      error
	leaving      int  // ticks until a removed member stops; the loop's
	alone        bool // this member is the only voter; the loop's
}

// Start opens what is in Config.Dir, or makes it, and joins the cluster. The errors are those of the log and the snapshots.
func Start(cfg Config) (*Node, error) {
	cfg.setDefaults()
	n := &Node{
		cfg: cfg, log: cfg.Logger, storage: raft.NewMemoryStorage(), store: mvcc.New(), members: member.NewSet(),
		stop: make(chan struct{}), failed: make(chan struct{}),
	}
	n.inbox.init()
	n.reads.init()
	n.pending.init()
	n.applier.init()
	n.ids.Store(rand.Uint64())
	if err := n.boot(); err != nil {
		if n.wal != nil {
			err = errors.Join(err, n.wal.Close())
		}
		return nil, err
	}
	n.background.Add(2)
	go n.run()
	go n.applier.run(n)
	return n, nil
}

// boot is a restart, which the first start is a case of.
func (n *Node) boot() error {
	o := n.cfg.WAL
	o.FS, o.Logger = n.cfg.FS, n.log
	dir := filepath.Join(n.cfg.Dir, "wal")
	var err error
	n.snapshots, err = snap.Open(filepath.Join(n.cfg.Dir, "snap"), &snap.Options{FS: n.cfg.FS, Logger: n.log})
	if err != nil {
		return err
	}
	n.wal, err = wal.Open(dir, &o)
	if errors.Is(err, fs.ErrNotExist) {
		var metadata []byte
		metadata, err = proto.Marshal(&pb.Metadata{NodeID: &n.cfg.ID, ClusterID: &n.cfg.ClusterID})
		if err != nil {
			return err
		}
		n.wal, err = wal.Create(dir, metadata, &o)
	}
	if err != nil {
		return err
	}
	recorded, err := wal.Snapshots(wal.Records(dir, 0, &o))
	if err != nil {
		return err
	}
	body, err := n.snapshots.NewestBody(recorded)
	if err != nil {
		return err
	}
	defer body.Close()
	from := body.Body().Record()
	l, err := wal.Replay(wal.Records(dir, from.Index, &o), from)
	if err != nil {
		return err
	}
	var metadata pb.Metadata
	if err := proto.Unmarshal(l.Metadata, &metadata); err != nil {
		return fmt.Errorf("raftkv: the log's metadata: %w", err)
	}
	if metadata.GetNodeID() != n.cfg.ID || metadata.GetClusterID() != n.cfg.ClusterID {
		return fmt.Errorf("raftkv: %s is of member %x in cluster %x, not of %x in %x", dir,
			metadata.GetNodeID(), metadata.GetClusterID(), n.cfg.ID, n.cfg.ClusterID)
	}
	if n.cfg.Bootstrap && from.Index == 0 && l.State.IsZero() {
		// Without a hard state this member has promised nothing: whatever part of its beginning a crash left, it can begin again.
		if l.State, l.Entries, err = n.begin(); err != nil {
			return err
		}
		if err := n.wal.Save(l.State, l.Entries); err != nil {
			return err
		}
	}
	if from.Index > 0 {
		if err := n.load(body); err != nil {
			return err
		}
	}
	return n.resume(from, l)
}

// begin returns what the log of a new cluster begins with: its members, committed.
func (n *Node) begin() (state walpb.HardState, entries []walpb.Entry, err error) {
	for i, m := range member.NewSet(n.cfg.Members...).List() {
		change, err := contextOf(member.Change{Member: m})
		if err != nil {
			return state, nil, err
		}
		cc := raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &m.ID, Context: change}
		data, err := proto.Marshal(&cc)
		if err != nil {
			return state, nil, err
		}
		entries = append(entries, walpb.Entry{Type: walpb.EntryConfChange, Term: 1, Index: uint64(i + 1), Data: data})
	}
	return walpb.HardState{Term: 1, Commit: uint64(len(entries))}, entries, nil
}

// resume goes on from a log.
func (n *Node) resume(from walpb.Snapshot, l *wal.Log) error {
	if from.Index > 0 {
		var cs raftpb.ConfState
		if err := proto.Unmarshal(from.ConfState, &cs); err != nil {
			return fmt.Errorf("raftkv: the conf state of snapshot %d: %w", from.Index, err)
		}
		meta := &raftpb.SnapshotMetadata{ConfState: &cs, Index: &from.Index, Term: &from.Term}
		if err := n.storage.ApplySnapshot(&raftpb.Snapshot{Metadata: meta}); err != nil {
			return err
		}
	}
	n.applier.at(from.Index, from.Term, from.ConfState)
	n.applied.Store(from.Index)
	n.newest.Store(from.Index)
	n.committed.Store(max(from.Index, l.State.Commit))
	n.term.Store(l.State.Term)
	n.acks.term, n.acks.vote = l.State.Term, l.State.Vote
	n.storage.SetHardState(&raftpb.HardState{Term: &l.State.Term, Vote: &l.State.Vote, Commit: &l.State.Commit})
	if err := n.storage.Append(toRaft(l.Entries)); err != nil {
		return err
	}
	if len(n.members.List()) == 0 {
		for _, m := range n.cfg.Members { // whom to ask and to answer until the log has told
			n.connect(m)
		}
	}
	for _, m := range n.members.List() {
		n.connect(m)
	}
	var err error
	n.raft, err = raft.NewRawNode(&raft.Config{
		ID:                        n.cfg.ID,
		ElectionTick:              n.cfg.ElectionTicks,
		HeartbeatTick:             n.cfg.HeartbeatTicks,
		Storage:                   n.storage,
		Applied:                   from.Index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             512 << 10,
		MaxCommittedSizePerReady:  8 << 20,
		MaxUncommittedEntriesSize: maxUncommitted,
		MaxInflightMsgs:           512,
		MaxInflightBytes:          64 << 20,
		CheckQuorum:               true,
		PreVote:                   !n.cfg.NoPreVote,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{n.log},
	})
	return err
}

func (n *Node) connect(m member.Member) {
	if m.ID != n.cfg.ID {
		n.cfg.Transport.SetPeer(m.ID, m.PeerURLs)
	}
}

// toRaft gives raft the entries of the log.
func toRaft(entries []walpb.Entry) []*raftpb.Entry {
	out := make([]*raftpb.Entry, len(entries))
	for i := range entries {
		e := &entries[i]
		out[i] = &raftpb.Entry{Term: &e.Term, Index: &e.Index, Type: raftpb.EntryType(e.Type).Enum(), Data: e.Data}
	}
	return out
}

// run owns raft. It never waits for a disk or a peer, but for the log to take more when that is full.
func (n *Node) run() {
	defer n.background.Done()
	ticks := n.cfg.Ticks
	if ticks == nil {
		ticker := time.NewTicker(n.cfg.Tick)
		defer ticker.Stop()
		ticks = ticker.C
	}
	n.count()
	var held []proposal // until there is a leader
	for {
		select {
		case <-n.stop:
			n.pending.failAll(n.why())
			n.reads.failAll(n.why())
			return
		case <-ticks:
			n.raft.Tick()
			n.reads.tick(n)
			if n.leaving > 0 {
				if n.leaving--; n.leaving == 0 {
					n.fail(ErrRemoved)
				}
			}
		case <-n.inbox.signal:
		}
		messages, proposals, calls := n.inbox.take()
		for _, m := range messages {
			// An error is a message that is of no use any more; that is how raft wants it.
			_ = n.raft.Step(m)
		}
		for _, call := range calls {
			call()
		}
		if n.alone && n.raft.BasicStatus().RaftState == raft.StateFollower {
			_ = n.raft.Campaign() // there is nobody to wait for
		}
		held = n.propose(append(held, proposals...))
		n.reads.ask(n)
		for n.raft.HasReady() {
			n.ready(n.raft.Ready())
		}
	}
}

// count finds out whether this member is the only voter.
func (n *Node) count() {
	voters := n.raft.Status().Config.Voters.IDs()
	_, me := voters[n.cfg.ID]
	n.alone = me && len(voters) == 1
}

// fail stops the Node, for the first reason it is given. It does not wait.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.failure = err
		n.log.Error("the node stops", "error", err)
		close(n.failed)
		// A leader that cannot write must not go on leading. Nothing needs to be written for another to take over.
		n.inbox.call(func() {
			n.handOver()
			n.halt()
		})
	})
}

func (n *Node) halt() { n.stopOnce.Do(func() { close(n.stop) }) }

// why returns what requests are told that find the Node stopped.
func (n *Node) why() error {
	select {
	case <-n.failed:
		return fmt.Errorf("%w: %w", ErrStopped, n.failure)
	default:
		return ErrStopped
	}
}

// handOver asks the voter that has most of the log to lead. The loop calls it.
func (n *Node) handOver() bool {
	if n.raft.BasicStatus().RaftState != raft.StateLeader {
		return false
	}
	var to, match uint64
	n.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id != n.cfg.ID && !pr.IsLearner && pr.RecentActive && (to == 0 || pr.Match > match) {
			to, match = id, pr.Match
		}
	})
	if to == 0 {
		return false
	}
	n.raft.TransferLeader(to)
	for n.raft.HasReady() {
		n.ready(n.raft.Ready())
	}
	return true
}

// Failed is closed when the Node has stopped by itself; Err says why.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err returns why the Node stopped by itself, or nil.
func (n *Node) Err() error {
	select {
	case <-n.failed:
		return n.failure
	default:
		return nil
	}
}

// Retire makes another member the leader, if this one is, and returns once it is, or ctx is done, or nobody can be.
func (n *Node) Retire(ctx context.Context) {
	moving := make(chan bool, 1)
	n.inbox.call(func() { moving <- n.handOver() })
	select {
	case yes := <-moving:
		if !yes {
			return
		}
	case <-n.stop:
		return
	case <-ctx.Done():
		return
	}
	wait := time.NewTicker(n.cfg.Tick / 4)
	defer wait.Stop()
	for n.lead.Load() == n.cfg.ID || n.lead.Load() == raft.None {
		select {
		case <-wait.C:
		case <-n.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Stop stops the Node and closes its log. What was acknowledged is durable already. The error is the log's.
func (n *Node) Stop() error {
	n.halt()
	n.applier.close()
	n.background.Wait()
	return n.wal.Close()
}

// Receive takes a message from a peer. It waits while the Node has enough of them, so that the peer's stream does too.
func (n *Node) Receive(ctx context.Context, m *raftpb.Message) error {
	if n.members.Removed(m.GetFrom()) {
		return ErrRemoved
	}
	return n.inbox.receive(ctx, n.stop, m)
}

// Unreachable tells raft that messages to a peer are being lost.
func (n *Node) Unreachable(id uint64) {
	n.inbox.call(func() { n.raft.ReportUnreachable(id) })
}

// Evicted tells a member that a peer knows it to be removed. It may not have heard of it itself, as nobody sends to it any more.
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
		ID: n.cfg.ID, ClusterID: n.cfg.ClusterID, Leader: n.lead.Load(), Term: n.term.Load(),
		Committed: n.committed.Load(), Applied: n.applied.Load(), Learner: me.IsLearner,
		Pending: n.pending.len(), Snapshot: n.newest.Load(),
	}
}

// Store returns the state, to be read. A read is linearizable if ReadIndex returned before.
func (n *Node) Store() *mvcc.Store { return n.store }

// Members returns who belongs to the cluster.
func (n *Node) Members() *member.Set { return n.members }

// Quota returns how large the state may be, in bytes.
func (n *Node) Quota() int64 { return n.cfg.Quota }

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

// behind has messages wait for all that the log was given, and returns those that need not wait.
func (a *acks) behind(messages []*raftpb.Message) []*raftpb.Message {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil || a.last.durable {
		return messages
	}
	a.last.after = append(a.last.after, messages...)
	return nil
}

// inbox is what the loop is to take.
type inbox struct {
	mu        sync.Mutex
	messages  []*raftpb.Message
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

func (b *inbox) receive(ctx context.Context, stop <-chan struct{}, m *raftpb.Message) error {
	for {
		b.mu.Lock()
		if len(b.messages) < maxInbox {
			b.messages = append(b.messages, m)
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
	b.messages, b.proposals, b.calls = nil, nil, nil
	if len(messages) > 0 {
		close(b.room)
		b.room = make(chan struct{})
	}
	return messages, proposals, calls
}

// nextID returns an ID for a request. They count up from a random number, so that no two are under way with the same one.
func (n *Node) nextID() uint64 { return n.ids.Add(1) }

// raftLogger gives raft's messages to slog. What raft calls a panic is one.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) Debug(v ...any)                 { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l raftLogger) Info(v ...any)                  { l.log.Info(fmt.Sprint(v...)) }
func (l raftLogger) Infof(format string, v ...any) {
	if strings.HasPrefix(format, "entry at index %d missing from unstable log") {
		// Two writes were under way and the second one's answer came first: the rule, with AsyncStorageWrites.
		l.Debugf(format, v...)
		return
	}
	l.log.Info(fmt.Sprintf(format, v...))
}
func (l raftLogger) Warning(v ...any)                 { l.log.Warn(fmt.Sprint(v...)) }
func (l raftLogger) Warningf(format string, v ...any) { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l raftLogger) Error(v ...any)                   { l.log.Error(fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any)   { l.log.Error(fmt.Sprintf(format, v...)) }
func (l raftLogger) Fatal(v ...any)                   { l.Panic(v...) }
func (l raftLogger) Fatalf(format string, v ...any)   { l.Panicf(format, v...) }
func (l raftLogger) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
