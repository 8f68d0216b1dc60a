// Package peer carries raft's messages between the members of a cluster: over one gRPC stream from each member to each
// other, and snapshots over a stream of their own, in chunks, so that a large one does not hold up the rest.
//
// Messages are lost when a stream breaks; raft expects that. They are never changed, reordered within a stream, or taken
// from a member of another cluster.
package peer

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

// A Member is what a peer's calls reach.
type Member interface {
	Receive(ctx context.Context, m *raftpb.Message) error
	ResumeSnapshot(b snap.Body) (*snap.Writer, error)
	ReceivedSnapshot(m *raftpb.Message)
	Unreachable(id uint64)
	Evicted()
	Promote(ctx context.Context, id uint64) error
}

// Limits.
const (
	maxQueue   = 4096             // messages that wait for a stream
	maxMessage = 64 << 20         // bytes of one message
	chunkSize  = 64 << 10         // bytes of a snapshot in one message
	patience   = 10 * time.Second // for a peer to take a chunk
	retryEvery = 500 * time.Millisecond
)

// Stats count what went over the wire.
type Stats struct {
	Sent, Received    atomic.Uint64 // bytes
	SendFailures      atomic.Uint64
	SnapshotsSent     atomic.Uint64
	SnapshotsFailed   atomic.Uint64
	SnapshotsReceived atomic.Uint64
	Active            atomic.Int64 // streams to peers
}

// A Transport sends to peers. It is a node.Transport. Its methods may be called concurrently.
type Transport struct {
	Stats Stats

	cluster, self uint64
	tls           *tls.Config
	log           *slog.Logger
	limiter       *snap.Limiter // of snapshots

	mu     sync.Mutex
	member Member
	peers  map[uint64]*peer
	closed bool
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a Transport for a member of a cluster. config is for https peers. limit is how many bytes of a snapshot are sent a second,
// 0 for as many as go.
func New(cluster, self uint64, config *tls.Config, limit int64, log *slog.Logger) *Transport {
	t := &Transport{cluster: cluster, self: self, tls: config, limiter: snap.NewLimiter(limit), log: log, peers: map[uint64]*peer{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Serve says whom failures are to be told to, before the first one.
func (t *Transport) Serve(m Member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.member = m
}

func (t *Transport) evicted() {
	t.mu.Lock()
	m := t.member
	t.mu.Unlock()
	if m != nil {
		m.Evicted()
	}
}

func (t *Transport) unreachable(id uint64) {
	t.mu.Lock()
	m := t.member
	t.mu.Unlock()
	if m != nil {
		m.Unreachable(id)
	}
}

// peer is one other member, as far as sending goes.
type peer struct {
	t      *Transport
	id     uint64
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	conn   *grpc.ClientConn
	urls   []string
	queue  []*raftpb.Message
	signal chan struct{}
	active atomic.Int64 // since when a stream is open, in Unix nanoseconds; 0 if none is
}

// SetPeer says where a member is.
func (t *Transport) SetPeer(id uint64, urls []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || id == t.self || len(urls) == 0 {
		return
	}
	p := t.peers[id]
	if p != nil && fmt.Sprint(p.urls) == fmt.Sprint(urls) {
		return
	}
	conn, err := Dial(urls[0], t.tls)
	if err != nil {
		t.log.Error("a peer's URL is of no use", "peer", id, "url", urls[0], "error", err)
		return
	}
	if p != nil {
		p.close()
	}
	p = &peer{t: t, id: id, conn: conn, urls: urls, signal: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(metadata.AppendToOutgoingContext(t.ctx,
		"cluster", strconv.FormatUint(t.cluster, 16), "from", strconv.FormatUint(t.self, 16), "to", strconv.FormatUint(id, 16)))
	t.peers[id] = p
	t.wg.Add(1)
	go p.run()
}

// RemovePeer forgets a member, once it was sent what waits.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	p := t.peers[id]
	delete(t.peers, id)
	t.mu.Unlock()
	if p != nil {
		time.AfterFunc(time.Second, p.close)
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

// Close ends all streams and waits for them.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	t.cancel()
	for _, p := range t.peers {
		p.close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

// Send queues a message. If too many wait already, it is lost.
func (t *Transport) Send(m *raftpb.Message) {
	t.mu.Lock()
	p := t.peers[m.GetTo()]
	t.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	if len(p.queue) < maxQueue {
		p.queue = append(p.queue, m)
	}
	p.mu.Unlock()
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// Dial returns a connection to a peer or client URL. It connects when it is used.
func Dial(address string, config *tls.Config) (*grpc.ClientConn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	secure := insecure.NewCredentials()
	if u.Scheme == "https" {
		if config == nil {
			return nil, errors.New("https without a certificate")
		}
		secure = credentials.NewTLS(config)
	}
	return grpc.NewClient("passthrough:///"+u.Host,
		grpc.WithTransportCredentials(secure),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(4<<20),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
}

func (p *peer) close() {
	p.cancel()
	p.conn.Close()
}

// run sends what is queued.
func (p *peer) run() {
	defer p.t.wg.Done()
	var stream grpc.ClientStream
	down := false
	drop := func(err error) {
		p.active.Store(0)
		if stream != nil {
			if why := stream.RecvMsg(new(emptypb.Empty)); why != nil {
				err = why // the other side's reason
			}
			if status.Code(err) == codes.PermissionDenied {
				p.t.evicted()
			}
		}
		if stream != nil {
			p.t.Stats.Active.Add(-1)
		}
		stream = nil
		p.t.Stats.SendFailures.Add(1)
		p.t.unreachable(p.id)
		if !down && p.ctx.Err() == nil {
			p.t.log.Warn("lost a peer", "peer", fmt.Sprintf("%x", p.id), "error", err)
		}
		down = true
	}
	// A stream is kept open also when there is nothing to say: it is how a member knows whom it can reach.
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		select {
		case <-p.ctx.Done():
			if stream != nil {
				_ = stream.CloseSend()
				p.t.Stats.Active.Add(-1)
			}
			return
		case <-retry.C:
			if stream != nil {
				if stream.Context().Err() != nil {
					drop(stream.Context().Err())
				}
				continue
			}
		case <-p.signal:
		}
		p.mu.Lock()
		queue := p.queue
		p.queue = nil
		p.mu.Unlock()
		if stream == nil {
			s, err := p.conn.NewStream(p.ctx, &service.Streams[0], "/"+service.ServiceName+"/Messages")
			if err != nil {
				drop(err) // and with it what was queued
				continue
			}
			stream, down = s, false
			p.t.Stats.Active.Add(1)
			p.active.Store(time.Now().UnixNano())
		}
		for _, m := range queue {
			if err := stream.SendMsg(m); err != nil {
				drop(err)
				break
			}
			p.t.Stats.Sent.Add(uint64(proto.Size(m)))
		}
	}
}

// SendSnapshot sends a snapshot over a stream of its own.
func (t *Transport) SendSnapshot(m *raftpb.Message, open func() (*snap.Reader, error), done func(error)) {
	t.mu.Lock()
	p := t.peers[m.GetTo()]
	if p == nil || t.closed {
		t.mu.Unlock()
		go done(errors.New("no such peer"))
		return
	}
	t.wg.Add(1)
	t.mu.Unlock()
	go func() {
		defer t.wg.Done()
		err := p.sendSnapshot(m, open)
		if err != nil {
			t.Stats.SnapshotsFailed.Add(1)
		} else {
			t.Stats.SnapshotsSent.Add(1)
		}
		done(err)
	}()
}

// A transfer goes so: the sender says which body it is of, how large and with which checksum; the receiver answers from where on he
// wants it; the sender sends that in chunks, each behind its CRC-32, and ends; the receiver answers when it is durable.

// offer is what a transfer begins with.
type offer struct {
	Message   []byte `json:"message"`
	Index     uint64 `json:"index"`
	Term      uint64 `json:"term"`
	ConfState []byte `json:"confState"`
	ID        []byte `json:"id"`
	Size      int64  `json:"size"`
	Sum       uint32 `json:"sum"`
}

func (p *peer) sendSnapshot(m *raftpb.Message, open func() (*snap.Reader, error)) error {
	body, err := open()
	if err != nil {
		return err
	}
	defer body.Close()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	watchdog := time.AfterFunc(patience, cancel)
	defer watchdog.Stop()
	stream, err := p.conn.NewStream(ctx, &service.Streams[1], "/"+service.ServiceName+"/Snapshot")
	if err != nil {
		return err
	}
	message, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	of := body.Body()
	first, err := json.Marshal(offer{message, of.Index, of.Term, of.ConfState, of.ID[:], body.Size(), body.Sum()})
	if err != nil {
		return err
	}
	send := func(b []byte) error {
		watchdog.Reset(patience)
		return stream.SendMsg(wrapperspb.Bytes(b))
	}
	if err := send(first); err != nil {
		return refused(stream, err)
	}
	var from wrapperspb.UInt64Value
	if err := stream.RecvMsg(&from); err != nil {
		return err
	}
	if _, err := body.Seek(int64(from.Value), io.SeekStart); err != nil {
		return err
	}
	for {
		chunk := make([]byte, 4+chunkSize)
		n, err := io.ReadFull(body, chunk[4:])
		if err == io.EOF {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err // of the disk: it is not sent
		}
		watchdog.Stop() // to wait for the limit is no failure
		if err := p.t.limiter.Wait(ctx, n); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(chunk, crc32.ChecksumIEEE(chunk[4:4+n]))
		if err := send(chunk[:4+n]); err != nil {
			return refused(stream, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	watchdog.Reset(6 * patience) // the peer writes and syncs
	return stream.RecvMsg(new(wrapperspb.UInt64Value))
}

// refused returns why the other side ended a stream.
func refused(stream grpc.ClientStream, err error) error {
	if errors.Is(err, io.EOF) {
		return stream.RecvMsg(new(wrapperspb.UInt64Value))
	}
	return err
}

// service describes what a member offers its peers.
var service = grpc.ServiceDesc{
	ServiceName: "raftkv.Peer",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Messages", Handler: serveMessages, ClientStreams: true},
		{StreamName: "Snapshot", Handler: serveSnapshot, ClientStreams: true, ServerStreams: true},
	},
	Methods: []grpc.MethodDesc{
		{MethodName: "Members", Handler: serveMembers},
		{MethodName: "Promote", Handler: servePromote},
	},
}

// A Server takes what peers send.
type Server struct {
	T       *Transport
	Member  Member
	Members *member.Set
}

// Register has a gRPC server offer it.
func (s *Server) Register(g *grpc.Server) { g.RegisterService(&service, s) }

// check returns who calls, or why he may not.
func (s *Server) check(ctx context.Context) (from uint64, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	number := func(key string) uint64 {
		if v := md.Get(key); len(v) == 1 {
			n, _ := strconv.ParseUint(v[0], 16, 64)
			return n
		}
		return 0
	}
	if c := number("cluster"); c != s.T.cluster {
		return 0, status.Errorf(codes.FailedPrecondition, "this is a member of cluster %x, not of %x", s.T.cluster, c)
	}
	if to := number("to"); to != s.T.self {
		return 0, status.Errorf(codes.FailedPrecondition, "this is member %x, not %x", s.T.self, to)
	}
	from = number("from")
	if s.Members.Removed(from) {
		return 0, status.Errorf(codes.PermissionDenied, "member %x was removed from the cluster", from)
	}
	return from, nil
}

func serveMessages(srv any, stream grpc.ServerStream) error {
	s := srv.(*Server)
	from, err := s.check(stream.Context())
	if err != nil {
		return err
	}
	for {
		m := new(raftpb.Message)
		if err := stream.RecvMsg(m); err != nil {
			if err == io.EOF {
				return stream.SendMsg(new(emptypb.Empty))
			}
			return err
		}
		s.T.Stats.Received.Add(uint64(proto.Size(m)))
		if m.GetFrom() != from && m.GetType() != raftpb.MsgProp && m.GetType() != raftpb.MsgReadIndex || m.GetTo() != s.T.self {
			return status.Errorf(codes.InvalidArgument, "a message from %x to %x on the stream from %x", m.GetFrom(), m.GetTo(), from)
		}
		if err := s.Member.Receive(stream.Context(), m); err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
}

func serveSnapshot(srv any, stream grpc.ServerStream) error {
	s := srv.(*Server)
	if _, err := s.check(stream.Context()); err != nil {
		return err
	}
	var first wrapperspb.BytesValue
	if err := stream.RecvMsg(&first); err != nil {
		return err
	}
	var o offer
	m := new(raftpb.Message)
	if err := errors.Join(json.Unmarshal(first.Value, &o), proto.Unmarshal(o.Message, m)); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	meta := m.GetSnapshot().GetMetadata()
	if m.GetType() != raftpb.MsgSnap || meta.GetIndex() != o.Index || meta.GetTerm() != o.Term || len(o.ID) != 16 {
		return status.Error(codes.InvalidArgument, "the message and the body are not of the same snapshot")
	}
	if err := s.take(stream, o); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	s.T.Stats.SnapshotsReceived.Add(1)
	s.Member.ReceivedSnapshot(m)
	return stream.SendMsg(wrapperspb.UInt64(uint64(o.Size)))
}

// take receives a body, from where an earlier attempt got to, and makes it durable.
func (s *Server) take(stream grpc.ServerStream, o offer) error {
	w, err := s.Member.ResumeSnapshot(snap.Body{Index: o.Index, Term: o.Term, ConfState: o.ConfState, ID: [16]byte(o.ID)})
	if err != nil {
		return err
	}
	defer w.Close() // what came so far stays for the next attempt
	if err := stream.SendMsg(wrapperspb.UInt64(uint64(w.Size()))); err != nil {
		return err
	}
	for {
		var chunk wrapperspb.BytesValue
		if err := stream.RecvMsg(&chunk); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		v := chunk.Value
		if len(v) < 4 || binary.LittleEndian.Uint32(v) != crc32.ChecksumIEEE(v[4:]) {
			return errors.New("a chunk of a snapshot came damaged")
		}
		s.T.Stats.Received.Add(uint64(len(v)))
		if _, err := w.Write(v[4:]); err != nil {
			return err
		}
	}
	if w.Size() != o.Size || w.Sum() != o.Sum {
		err := fmt.Errorf("a snapshot of %d bytes with checksum %08x came as %d with %08x", o.Size, o.Sum, w.Size(), w.Sum())
		if w.Size() >= o.Size {
			return errors.Join(err, w.Discard())
		}
		return err
	}
	return w.Commit()
}

// Info is what a member tells one that joins.
type Info struct {
	ClusterID uint64          `json:"clusterID"`
	Members   []member.Member `json:"members"`
}

func serveMembers(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	s := srv.(*Server)
	if err := decode(new(emptypb.Empty)); err != nil {
		return nil, err
	}
	b, err := json.Marshal(Info{s.T.cluster, s.Members.List()})
	if err != nil {
		return nil, err
	}
	return wrapperspb.Bytes(b), nil
}

// Ask asks a member who belongs to its cluster.
func Ask(ctx context.Context, address string, config *tls.Config) (Info, error) {
	var info Info
	conn, err := Dial(address, config)
	if err != nil {
		return info, err
	}
	defer conn.Close()
	var out wrapperspb.BytesValue
	if err := conn.Invoke(ctx, "/"+service.ServiceName+"/Members", new(emptypb.Empty), &out); err != nil {
		return info, err
	}
	return info, json.Unmarshal(out.Value, &info)
}

func servePromote(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	s := srv.(*Server)
	if _, err := s.check(ctx); err != nil {
		return nil, err
	}
	var id wrapperspb.UInt64Value
	if err := decode(&id); err != nil {
		return nil, err
	}
	if err := s.Member.Promote(ctx, id.Value); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return new(emptypb.Empty), nil
}

// Promote asks a peer, the leader, to promote a learner. An error of the request is the text of its error.
func (t *Transport) Promote(ctx context.Context, leader, id uint64) error {
	t.mu.Lock()
	p := t.peers[leader]
	t.mu.Unlock()
	if p == nil {
		return node.ErrNotLeader
	}
	md, _ := metadata.FromOutgoingContext(p.ctx)
	err := p.conn.Invoke(metadata.NewOutgoingContext(ctx, md), "/"+service.ServiceName+"/Promote", wrapperspb.UInt64(id), new(emptypb.Empty))
	for _, known := range []error{node.ErrNotReady, node.ErrNotLeader, member.ErrNotFound, member.ErrNotLearner} {
		if status.Convert(err).Message() == known.Error() {
			return known
		}
	}
	return err
}
