package peer

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

// A Transport sends to peers. It is a node.Transport. Its methods may be called concurrently.
type Transport struct {
	metrics       metrics
	cluster, self uint64
	tls           *tls.Config
	log           *slog.Logger
	limiter       *snap.Limiter // of snapshots

	mu     sync.Mutex
	member Member
	served chan struct{} // closed once there is one
	peers  map[uint64]*peer
	closed bool
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	asking sync.Mutex // held while peers are asked for the members of the cluster
	asked  time.Time  // when they were asked last
}

// New returns a Transport for a member of a cluster. config is for https peers. limit is how many
// bytes of a snapshot are sent a second, 0 for as many as go.
func New(cluster, self uint64, config *tls.Config, limit int64, log *slog.Logger) *Transport {
	t := &Transport{cluster: cluster, self: self, tls: config, limiter: snap.NewLimiter(limit), log: log, peers: map[uint64]*peer{}, metrics: newMetrics(self), served: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Serve says which member this is of. Only then it speaks to its peers, and asks it how its log
// stands. Serve is called once.
func (t *Transport) Serve(m Member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.member = m
	close(t.served)
}

// tell calls the member, if it is known yet.
func (t *Transport) tell(what func(Member)) {
	t.mu.Lock()
	m := t.member
	t.mu.Unlock()
	if m != nil {
		what(m)
	}
}

func (t *Transport) unreachable(id uint64) { t.tell(func(m Member) { m.Unreachable(id) }) }

// standing returns a context for a call that says how the member's log stands.
func (t *Transport) standing(ctx context.Context) context.Context {
	t.tell(func(m Member) {
		s := m.Standing()
		ctx = metadata.AppendToOutgoingContext(ctx, "last", hex(s.Last), "term", hex(s.Term), "fresh", fmt.Sprint(s.Fresh))
	})
	return ctx
}

// knows reports whether a member was met.
func (t *Transport) knows(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[id] != nil
}

// vouched asks peers for the members of the cluster until one has id among them, and has this
// member meet those it does not know. Any number of strangers may call: they are asked once in a
// while, and for one caller at a time. A caller that is refused calls again.
func (t *Transport) vouched(ctx context.Context, id uint64) bool {
	if !t.asking.TryLock() {
		return false
	}
	defer t.asking.Unlock()
	if time.Since(t.asked) < retryEvery {
		return false
	}
	defer func() { t.asked = time.Now() }()
	t.mu.Lock()
	m := t.member
	peers := slices.Collect(maps.Values(t.peers))
	t.mu.Unlock()
	for _, p := range peers {
		ctx, cancel := context.WithTimeout(ctx, patience)
		info, err := ask(ctx, p.conn)
		cancel()
		if err != nil || info.ClusterID != t.cluster || !slices.ContainsFunc(info.Members, func(m member.Member) bool { return m.ID == id }) {
			continue
		}
		m.Meet(info.Members)
		return true
	}
	return false
}

// SetPeer says where a member is.
func (t *Transport) SetPeer(id uint64, urls []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || id == t.self || len(urls) == 0 {
		return
	}
	p := t.peers[id]
	if p != nil && slices.Equal(p.urls, urls) {
		return
	}
	conn, err := dialAll(urls, t.tls)
	if err != nil {
		t.log.Error("a peer's URLs are of no use", "peer", hex(id), "error", err)
		return
	}
	if p != nil {
		p.cancel()
	}
	p = &peer{t: t, id: id, conn: conn, urls: slices.Clone(urls), signal: make(chan struct{}, 1), gone: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(metadata.AppendToOutgoingContext(t.ctx, "version", version,
		"cluster", hex(t.cluster), "from", hex(t.self), "to", hex(id)))
	t.peers[id] = p
	t.metrics.meet(id)
	t.wg.Add(1)
	go p.run()
}

// RemovePeer forgets a member, once it was sent what waits. It does not wait for that.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		close(p.gone)
		delete(t.peers, id)
	}
}

// Active returns since when the stream to a peer is open; the zero time if it is not.
func (t *Transport) Active(id uint64) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		if ns := p.active.Load(); ns != 0 {
			return time.Unix(0, ns)
		}
	}
	return time.Time{}
}

// Close ends all streams and waits for them. What is sent afterwards is lost.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	t.cancel()
	t.mu.Unlock()
	t.wg.Wait()
}

// Send queues a message. If too many wait already, it is lost.
func (t *Transport) Send(m *raftpb.Message) {
	t.mu.Lock()
	p := t.peers[m.GetTo()]
	t.mu.Unlock()
	if p != nil {
		p.send(m)
	}
}

// SendSnapshot sends a snapshot over a stream of its own.
func (t *Transport) SendSnapshot(m *raftpb.Message, open func() (*snap.Reader, error), done func(error)) {
	t.mu.Lock()
	p := t.peers[m.GetTo()]
	if p == nil || t.closed {
		t.mu.Unlock()
		done(errors.New("no such peer"))
		return
	}
	t.wg.Add(1)
	t.mu.Unlock()
	go func() {
		defer t.wg.Done()
		err := p.sendSnapshot(m, open)
		if err != nil {
			t.metrics.snapshotsFailed.WithLabelValues(hex(m.GetTo())).Inc()
		} else {
			t.metrics.snapshotsSent.WithLabelValues(hex(m.GetTo())).Inc()
		}
		done(err)
	}()
}

// Promote asks a peer, the leader, to promote a learner. An error of the request is the text of its
// error.
func (t *Transport) Promote(ctx context.Context, leader, id uint64) error {
	t.mu.Lock()
	p := t.peers[leader]
	t.mu.Unlock()
	if p == nil {
		return node.ErrNotLeader
	}
	md, _ := metadata.FromOutgoingContext(p.ctx)
	err := p.conn.Invoke(metadata.NewOutgoingContext(ctx, md), "/"+service.ServiceName+"/Promote", wrapperspb.UInt64(id), new(emptypb.Empty))
	for _, known := range []error{node.ErrNotReady, node.ErrNotLeader, node.ErrUnhealthy, member.ErrNotFound, member.ErrNotLearner} {
		if status.Convert(err).Message() == known.Error() {
			return known
		}
	}
	return err
}

// Hash asks a peer for the checksum of its state up to a revision.
func (t *Transport) Hash(ctx context.Context, id uint64, rev int64) (h mvcc.Hash, err error) {
	t.mu.Lock()
	p := t.peers[id]
	t.mu.Unlock()
	if p == nil {
		return h, errors.New("no such peer")
	}
	md, _ := metadata.FromOutgoingContext(p.ctx)
	var out wrapperspb.BytesValue
	if err := p.conn.Invoke(metadata.NewOutgoingContext(ctx, md), "/"+serviceName+"/Hash", wrapperspb.Int64(rev), &out); err != nil {
		return h, err
	}
	return h, json.Unmarshal(out.Value, &h)
}
