package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/wal"
)

// A sim is a cluster in one process: real nodes and real logs, on disks that can lose power and a
// network that can lose, delay and cut.
type sim struct {
	t      testing.TB
	cfg    Config // of every node
	disks  map[uint64]*crashfs.FS
	all    []member.Member // that it began with
	voters []uint64        // that it has now
	mu     sync.Mutex
	nodes  map[uint64]*simNode
	cut    map[[2]uint64]bool // from, to
	delay  time.Duration      // of a message, at most
	links  map[[2]uint64]*link
	onSend func(from *simNode, m *raftpb.Message)
	edit   func(m *raftpb.Message)   // what the network does to a message
	ticks  map[uint64]chan time.Time // if not nil, the members' clocks
	sent   atomic.Int64              // snapshots, or parts of them
	wiped  map[uint64]bool           // the members whose disk is another one
	quiet  sync.RWMutex              // held while no client is to write
	done   chan struct{}
	wg     sync.WaitGroup
}

// simNode is one life of a member: from its start to its end.
type simNode struct {
	*Node
	id    uint64
	disk  *crashfs.FS
	alive atomic.Bool // no: the power is off, whatever the goroutines still do
	sim   *sim
	gone  sync.Map // the peers that it was told to forget
}

// link delivers what one member sends to another, in order.
type link struct{ c chan *raftpb.Message }

const simDir = "/member"

// newSim returns a cluster of n members, none of which runs yet.
func newSim(t testing.TB, n int, cfg Config) *sim {
	s := &sim{t: t, cfg: cfg, disks: map[uint64]*crashfs.FS{}, nodes: map[uint64]*simNode{}, cut: map[[2]uint64]bool{}, links: map[[2]uint64]*link{}, done: make(chan struct{})}
	for id := uint64(1); id <= uint64(n); id++ {
		s.voters = append(s.voters, id)
		s.all = append(s.all, member.Member{ID: id, PeerURLs: []string{fmt.Sprintf("http://%d:1", id)}})
		s.disks[id] = crashfs.New()
	}
	if s.cfg.Tick == 0 {
		s.cfg.Tick = 10 * time.Millisecond
	}
	if s.cfg.RequestTimeout == 0 {
		s.cfg.RequestTimeout = time.Second
	}
	s.cfg.ClusterID = 77
	s.cfg.Members, s.cfg.Bootstrap = s.all, true
	s.cfg.WAL.SegmentSize = 64 << 10
	if os.Getenv("RAFTKV_TEST_LOG") != "" {
		s.cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	t.Cleanup(s.close)
	return s
}

func (s *sim) close() {
	s.mu.Lock()
	nodes := s.nodes
	s.nodes = map[uint64]*simNode{}
	s.mu.Unlock()
	for _, n := range nodes {
		n.alive.Store(false)
		// A node whose disk was made to fail says so; the tests look at that where it matters.
		_ = n.Stop()
	}
	close(s.done)
	s.wg.Wait()
}

// start starts a member on its disk.
func (s *sim) start(id uint64) *simNode {
	s.t.Helper()
	n, err := s.tryStart(id)
	if err != nil {
		s.t.Fatalf("member %d: %v", id, err)
	}
	return n
}

func (s *sim) tryStart(id uint64) (*simNode, error) {
	n := &simNode{id: id, disk: s.disks[id], sim: s}
	cfg := s.cfg
	cfg.ID, cfg.Dir, cfg.FS, cfg.Transport = id, simDir, n.disk, n
	cfg.Bootstrap = cfg.Bootstrap && id <= uint64(len(s.all))
	if cfg.Logger != nil {
		cfg.Logger = cfg.Logger.With("node", id)
	}
	if s.ticks != nil {
		s.ticks[id] = make(chan time.Time)
		cfg.Ticks = s.ticks[id]
	}
	n.alive.Store(true)
	node, err := Start(cfg)
	if err != nil {
		return nil, err
	}
	n.Node = node
	s.greet(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[id] = n
	return n, nil
}

// greet has a member say how its log stands to all that run, before anything is sent to it.
// Whatever was done to its disk, unless it is another one it has all that it acknowledged.
func (s *sim) greet(n *simNode) {
	s.mu.Lock()
	others := slices.Collect(maps.Values(s.nodes))
	wiped := s.wiped[n.id]
	s.mu.Unlock()
	standing := n.Standing()
	for _, other := range others {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := other.Trusts(ctx, n.id, standing); errors.Is(err, ErrForgot) && !wiped {
			s.t.Errorf("member %d comes with %+v, and member %d says: %v", n.id, standing, other.id, err)
		}
		cancel()
	}
}

func (s *sim) startAll() {
	s.t.Helper()
	for _, id := range s.current() {
		s.start(id)
	}
}

// current returns the voters, whether they run or not.
func (s *sim) current() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.voters)
}

// crash turns a member's power off. What its disk holds is chosen.
func (s *sim) crash(id uint64, choose crashfs.Chooser) {
	s.mu.Lock()
	n := s.nodes[id]
	delete(s.nodes, id)
	s.mu.Unlock()
	if n == nil {
		return
	}
	n.alive.Store(false) // from here on nothing it says is heard
	s.disks[id] = n.disk.Crash(choose)
	_ = n.Stop() // on a disk that no one will look at
}

func (s *sim) get(id uint64) *simNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[id]
}

// partition cuts the network between two groups; with none it heals it.
func (s *sim) partition(a ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = map[[2]uint64]bool{}
	in := map[uint64]bool{}
	for _, id := range a {
		in[id] = true
	}
	for from := range s.disks {
		for to := range s.disks {
			s.cut[[2]uint64{from, to}] = len(a) > 0 && in[from] != in[to]
		}
	}
}

// leader waits for a leader that the rest follow.
func (s *sim) leader() *simNode {
	s.t.Helper()
	var found *simNode
	s.eventually("a leader", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, n := range s.nodes {
			if st := n.Status(); st.Leader == n.id && n.Err() == nil {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// eventually waits for a condition.
func (s *sim) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			s.t.Fatalf("still waiting for %s", what)
		}
		time.Sleep(2 * time.Millisecond) // a poll: what is waited for is the condition
	}
}

// Send is part of Transport: a copy goes to the other member, unless it is lost.
func (n *simNode) Send(m *raftpb.Message) {
	if !n.alive.Load() {
		return
	}
	s := n.sim
	if s.onSend != nil {
		s.onSend(n, m)
	}
	m = proto.Clone(m).(*raftpb.Message)
	key := [2]uint64{n.id, m.GetTo()}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return
	default:
	}
	if s.edit != nil {
		s.edit(m)
	}
	l := s.links[key]
	if l == nil {
		l = &link{c: make(chan *raftpb.Message, 1024)}
		s.links[key] = l
		s.wg.Add(1)
		go s.carry(key, l)
	}
	select {
	case l.c <- m:
	default: // lost
	}
}

func (s *sim) carry(key [2]uint64, l *link) {
	defer s.wg.Done()
	for {
		var m *raftpb.Message
		select {
		case m = <-l.c:
		case <-s.done:
			return
		}
		s.mu.Lock()
		to, cut, delay := s.nodes[key[1]], s.cut[key], s.delay
		s.mu.Unlock()
		if delay > 0 {
			time.Sleep(rand.N(delay)) // the network's own slowness is what is simulated here
		}
		if to == nil || cut {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		// It is lost if it is not taken. Who is told that it was removed has not heard of that: the
		// transport does the same.
		if err := to.Receive(ctx, m); errors.Is(err, ErrRemoved) {
			if from := s.get(key[0]); from != nil {
				from.Evicted()
			}
		}
		cancel()
	}
}

// SendSnapshot is part of Transport.
func (n *simNode) SendSnapshot(m *raftpb.Message, open func() (*snap.Reader, error), done func(error)) {
	s := n.sim
	s.mu.Lock()
	to, cut := s.nodes[m.GetTo()], s.cut[[2]uint64{n.id, m.GetTo()}]
	s.mu.Unlock()
	if to == nil || cut || !n.alive.Load() {
		go done(errors.New("not there"))
		return
	}
	m = proto.Clone(m).(*raftpb.Message)
	s.sent.Add(1)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		done(func() error {
			r, err := open()
			if err != nil {
				return err
			}
			defer r.Close()
			w, err := to.ResumeSnapshot(r.Body())
			if errors.Is(err, ErrAhead) {
				return to.ReceivedSnapshot(m)
			} else if err != nil {
				return err
			}
			defer w.Close()
			if _, err := r.Seek(w.Size(), io.SeekStart); err != nil {
				return err
			}
			if _, err := io.Copy(w, r); err != nil {
				return err
			}
			if err := w.Commit(); err != nil {
				return err
			}
			return to.ReceivedSnapshot(m)
		}())
	}()
}

func (n *simNode) SetPeer(uint64, []string) {}
func (n *simNode) RemovePeer(id uint64)     { n.gone.Store(id, true) }

// errUnheard is of an answer that no client heard, because the power was off by then.
var errUnheard = errors.New("the node lost power")

func (n *simNode) put(ctx context.Context, key, value string) (int64, error) {
	out, err := n.Propose(ctx, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}})
	if !n.alive.Load() {
		return 0, errUnheard
	}
	if err != nil {
		return 0, err
	}
	return out.(*pb.PutResponse).Header.Revision, nil
}

// cas writes value if the key has another one now, and reports whether it had.
func (n *simNode) cas(ctx context.Context, key, old, value string) (bool, error) {
	out, err := n.Propose(ctx, &pb.InternalRaftRequest{Txn: &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte(old)}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}},
	}})
	if !n.alive.Load() {
		return false, errUnheard
	}
	if err != nil {
		return false, err
	}
	return out.(*pb.TxnResponse).Succeeded, nil
}

func (n *simNode) read(ctx context.Context, key string) (string, error) {
	if err := n.ReadIndex(ctx); err != nil {
		return "", err
	}
	resp, err := n.Store().Range(&pb.RangeRequest{Key: []byte(key)})
	if !n.alive.Load() {
		return "", errUnheard
	}
	if err != nil || len(resp.Kvs) == 0 {
		return "", err
	}
	return string(resp.Kvs[0].Value), nil
}

// promised reads the log on a disk: what a member that starts from it would remember.
func promised(t testing.TB, disk *crashfs.FS) *wal.Log {
	t.Helper()
	o := &wal.Options{FS: disk}
	dir := filepath.Join(simDir, "wal")
	w, err := wal.Open(dir, o)
	if err != nil {
		t.Fatalf("after a crash: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	snapshots, err := wal.Snapshots(wal.Records(dir, 0, o))
	if err != nil {
		t.Fatal(err)
	}
	newest, _ := wal.Newest(snapshots)
	l, err := wal.Replay(wal.Records(dir, 0, o), newest)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// agree checks that all members that run have the same state, once they have caught up.
func (s *sim) agree() {
	s.t.Helper()
	lead := s.leader()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.eventually("a last write", func() bool {
		lead = s.leader()
		_, err := lead.put(ctx, "last", "write")
		return err == nil
	})
	s.eventually("all members to have it", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, n := range s.nodes {
			if _, is := lead.Members().Get(n.id); is && n.Status().Applied < lead.Status().Applied {
				return false
			}
		}
		return true
	})
	want, err := lead.Store().View().Hash(0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if _, is := lead.Members().Get(n.id); !is {
			continue // it was removed, and need not have heard of it
		}
		got, err := n.Store().View().Hash(want.Rev)
		if err != nil || got.Sum != want.Sum {
			s.t.Errorf("member %d has hash %08x at revision %d, and the leader %08x (%v)", n.id, got.Sum, want.Rev, want.Sum, err)
		}
	}
}
