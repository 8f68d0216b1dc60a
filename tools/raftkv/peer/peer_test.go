package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

const (
	testCluster = 0xc1
	self        = 1
	other       = 2
	third       = 3
)

// fake is a member that has no raft: it hands what it is told to the test.
type fake struct {
	received    chan *raftpb.Message
	unreachable chan uint64
	evicted     chan struct{}
	met         chan []member.Member
	snapshots   chan *raftpb.Message
	promoted    chan uint64
	store       *snap.Store

	standing     node.Standing
	acknowledged uint64        // of everyone
	ahead        bool          // ResumeSnapshot needs nothing
	refuse       error         // of Receive and Promote
	block        chan struct{} // if not nil, Receive waits for it
	resumed      atomic.Int64  // bytes that were there when a transfer began
	attempts     atomic.Int64
}

func newFake(t testing.TB) *fake {
	store, err := snap.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &fake{received: make(chan *raftpb.Message, 4096), unreachable: make(chan uint64, 64), evicted: make(chan struct{}, 64), met: make(chan []member.Member, 64),
		snapshots: make(chan *raftpb.Message, 1), promoted: make(chan uint64, 1), store: store}
}

func (f *fake) Receive(ctx context.Context, m *raftpb.Message) error {
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.refuse != nil {
		return f.refuse
	}
	f.received <- m
	return nil
}

func (f *fake) ResumeSnapshot(b snap.Body) (*snap.Writer, error) {
	if f.ahead {
		return nil, node.ErrAhead
	}
	w, err := f.store.Resume(b)
	if err == nil {
		f.attempts.Add(1)
		f.resumed.Store(w.Size())
	}
	return w, err
}

func (f *fake) ReceivedSnapshot(m *raftpb.Message) error {
	if f.refuse == nil {
		f.snapshots <- m
	}
	return f.refuse
}

func (f *fake) Unreachable(id uint64)        { f.unreachable <- id }
func (f *fake) Meet(members []member.Member) { f.met <- members }
func (f *fake) Forgot()                      { f.evicted <- struct{}{} }
func (f *fake) Standing() node.Standing      { return f.standing }
func (f *fake) Trusts(_ context.Context, id uint64, s node.Standing) error {
	if s.Last < f.acknowledged {
		return node.ErrForgot
	}
	return nil
}
func (f *fake) Evicted() { f.evicted <- struct{}{} }

func (f *fake) Hash(_ context.Context, rev int64) (mvcc.Hash, error) {
	return mvcc.Hash{Sum: 7, Rev: rev, Compacted: 3}, f.refuse
}

func (f *fake) Promote(_ context.Context, id uint64) error {
	if f.refuse != nil {
		return f.refuse
	}
	f.promoted <- id
	return nil
}

// side is one member's end of the wire.
type side struct {
	*fake
	transport *Transport
	members   *member.Set
	address   string
	grpc      *grpc.Server
	served    chan struct{}
	cut       func() bool // if not nil, connections to it break once it is true
}

// newSide starts a member's transport and its server.
func newSide(t testing.TB, id uint64, limit int64) *side {
	t.Helper()
	s := &side{fake: newFake(t), transport: New(testCluster, id, nil, limit, slog.New(slog.DiscardHandler)), members: member.NewSet(member.Member{ID: self}, member.Member{ID: other}, member.Member{ID: third}), address: "127.0.0.1:0"}
	s.transport.Serve(s.fake)
	s.listen(t)
	t.Cleanup(func() {
		s.transport.Close()
		s.end()
	})
	return s
}

func (s *side) listen(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.grpc = (&Server{T: s.transport, Member: s.fake, Members: s.members}).NewGRPC()
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		_ = s.grpc.Serve(&cutting{l, s}) // it ends with end
	}()
}

// end stops the server, which breaks every stream to it.
func (s *side) end() {
	s.grpc.Stop()
	<-s.served
}

func (s *side) url() string { return "http://" + s.address }

// cutting is a listener whose connections break in the middle.
type cutting struct {
	net.Listener
	side *side
}

func (c *cutting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil && c.side.cut != nil {
		conn = &cutConn{Conn: conn, cut: c.side.cut}
	}
	return conn, err
}

type cutConn struct {
	net.Conn
	cut func() bool
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.cut() {
		c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Read(b)
}

func message(from, to, index uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: &from, To: &to, Index: &index}
}

// wait returns what comes from a channel. Tests that pass do not wait for long.
func wait[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatalf("still waiting for %s", what)
		panic("not reached")
	}
}

// talking sends until a message arrives, as raft does, and forgets what else is on the way.
func talking(t testing.TB, from *side, to *side, id uint64) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	const probe = 1 << 40
	for n := uint64(probe); ; n++ {
		from.transport.Send(message(from.transport.self, id, n))
		select {
		case m := <-to.received:
			for m.GetIndex() < n {
				m = wait(t, "the last probe", to.received)
			}
			return
		case <-again.C:
		case <-deadline.C:
			t.Fatal("no message arrives")
		}
	}
}

func TestMessagesArriveOnceAndInOrder(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	talking(t, a, b, other)
	const n = 2000
	for i := range uint64(n) {
		a.transport.Send(message(self, other, i))
	}
	for i := range uint64(n) {
		if m := wait(t, "a message", b.received); m.GetIndex() != i || m.GetFrom() != self {
			t.Fatalf("message %d from %d came in the place of %d", m.GetIndex(), m.GetFrom(), i)
		}
	}
	if sent, got := total(a.transport.metrics.sent), total(b.transport.metrics.received); sent == 0 || sent < got {
		t.Errorf("%v bytes were sent and %v received", sent, got)
	}
}

func TestAPeerThatGoesAwayIsNoticedThoughNothingIsSentAndFoundAgain(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	talking(t, a, b, other)
	if a.transport.Active(other).IsZero() || total(a.transport.metrics.active) != 1 {
		t.Fatal("the stream is open and does not count")
	}
	b.end()
	if id := wait(t, "the loss to be noticed", a.unreachable); id != other {
		t.Fatalf("member %d is lost", id)
	}
	if since := a.transport.Active(other); !since.IsZero() || total(a.transport.metrics.active) != 0 {
		t.Errorf("a stream to a peer that is gone is open since %v", since)
	}
	b.listen(t)
	talking(t, a, b, other)
	if a.transport.Active(other).IsZero() {
		t.Error("the new stream does not count")
	}
}

// asSelf is the metadata of a stream from self to other.
var asSelf = []string{"version", version, "cluster", "c1", "from", "1", "to", "2"}

// stream opens a stream with some metadata.
func stream(t testing.TB, url, method string, kv ...string) grpc.ClientStream {
	t.Helper()
	conn, err := Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), kv...), 20*time.Second)
	t.Cleanup(cancel)
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/raftkv.Peer/"+method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhoIsNotAMemberOfThisClusterGetsNoStream(t *testing.T) {
	b := newSide(t, other, 0)
	b.members.Apply(raftpb.ConfChangeRemoveNode, third, member.Change{})
	right := map[string]string{"version": version, "cluster": "c1", "from": "1", "to": "2"}
	for _, test := range []struct {
		name, key, value string
		code             codes.Code
		says             string
	}{
		{"another cluster", "cluster", "c2", codes.FailedPrecondition, "member of cluster c1, not of c2"},
		{"no cluster", "cluster", "", codes.FailedPrecondition, "not of 0"},
		{"another member", "to", "3", codes.FailedPrecondition, "this is member 2, not 3"},
		{"another version", "version", "2", codes.FailedPrecondition, "version 1"},
		{"no version", "version", "", codes.FailedPrecondition, "version 1"},
		{"a member that was removed", "from", "3", codes.PermissionDenied, "removed from the cluster"},
		{"a member that there is not", "from", "dead", codes.PermissionDenied, "has heard of a member dead"},
		{"no sender", "from", "", codes.PermissionDenied, "a member 0"},
		{"the member itself", "from", "2", codes.PermissionDenied, "a member 2"},
	} {
		var kv []string
		for key, value := range right {
			if key == test.key {
				value = test.value
			}
			if value != "" {
				kv = append(kv, key, value)
			}
		}
		for _, method := range []string{"Messages", "Snapshot"} {
			err := stream(t, b.url(), method, kv...).RecvMsg(new(emptypb.Empty))
			if got := status.Convert(err); got.Code() != test.code || !strings.Contains(got.Message(), test.says) {
				t.Errorf("%s: %s: %v", method, test.name, got)
			}
		}
	}
}

func TestAMemberThatWasRemovedHearsOfIt(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	b.members.Apply(raftpb.ConfChangeRemoveNode, self, member.Change{})
	a.transport.SetPeer(other, []string{b.url()})
	wait(t, "the news", a.evicted)
	if !a.transport.Active(other).IsZero() {
		t.Error("a stream that was refused is open")
	}
}

func TestAMemberWhoseLogIsShorterThanItAcknowledgedHearsOfIt(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	a.standing, b.acknowledged = node.Standing{Last: 20, Term: 1}, 20
	a.transport.SetPeer(other, []string{b.url()})
	talking(t, a, b, other)
	b.end() // nothing looks at it meanwhile
	b.acknowledged = 21
	b.listen(t)
	wait(t, "the news", a.evicted)
	if !a.transport.Active(other).IsZero() {
		t.Error("a stream that was refused is open")
	}
}

func TestNothingIsSaidBeforeItIsKnownHowTheLogStands(t *testing.T) {
	b := newSide(t, other, 0)
	b.acknowledged = 20
	a := New(testCluster, self, nil, 0, slog.New(slog.DiscardHandler))
	defer a.Close()
	a.SetPeer(other, []string{b.url()})
	a.Send(message(self, other, 1))
	member := newFake(t)
	member.standing.Last = 19
	a.Serve(member)
	wait(t, "the news", member.evicted)
	select {
	case <-b.received:
		t.Error("a message arrived")
	default:
	}
}

// Other refusals, even of the same code, are not the cluster's word.
func TestWhoIsTurnedAwayForAnotherReasonIsNotEvicted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.PermissionDenied, "forbidden") }))
	go func() { _ = g.Serve(l) }()
	defer g.Stop()
	a := newSide(t, self, 0)
	a.transport.SetPeer(other, []string{"http://" + l.Addr().String()})
	wait(t, "the refusal", a.unreachable)
	wait(t, "the next", a.unreachable)
	select {
	case <-a.evicted:
		t.Error("a stranger has a member believe that it was removed")
	default:
	}
}

func TestAMessageInAnothersNameEndsTheStream(t *testing.T) {
	b := newSide(t, other, 0)
	for _, test := range []struct {
		m    *raftpb.Message
		good bool
	}{
		{message(self, other, 1), true},
		{message(third, other, 1), false},
		{message(self, third, 1), false},
		// A proposal that is passed on.
		{&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(third)), To: new(uint64(other))}, true},
	} {
		s := stream(t, b.url(), "Messages", asSelf...)
		if err := errors.Join(s.SendMsg(test.m), s.CloseSend()); err != nil {
			t.Fatal(err)
		}
		got := status.Code(s.RecvMsg(new(emptypb.Empty)))
		if want := map[bool]codes.Code{true: codes.OK, false: codes.InvalidArgument}[test.good]; got != want {
			t.Errorf("a message from %d to %d: %v, want %v", test.m.GetFrom(), test.m.GetTo(), got, want)
		}
		if test.good {
			wait(t, "the message", b.received)
		}
	}
}

// A member that lags may be led by one that it does not know yet.
func TestAMemberThatIsNotKnownYetIsAskedFor(t *testing.T) {
	a, b, c := newSide(t, self, 0), newSide(t, other, 0), newSide(t, third, 0)
	b.members.Replace(member.NewSet(member.Member{ID: self}, member.Member{ID: other}))
	b.transport.SetPeer(self, []string{a.url()})
	a.members.Replace(member.NewSet(member.Member{ID: self}, member.Member{ID: other}))
	c.transport.SetPeer(other, []string{b.url()})
	wait(t, "the refusal", c.unreachable) // as a has not heard of it either
	a.members.Apply(raftpb.ConfChangeAddNode, third, member.Change{Member: member.Member{PeerURLs: []string{c.url()}}})
	talking(t, c, b, other)
	met := wait(t, "the meeting", b.met)
	if !slices.ContainsFunc(met, func(m member.Member) bool { return m.ID == third && slices.Equal(m.PeerURLs, []string{c.url()}) }) {
		t.Errorf("it meets %v", met)
	}
}

func TestAStreamOfWhatNoMemberSendsEnds(t *testing.T) {
	b := newSide(t, other, 0)
	b.refuse = fmt.Errorf("%w: a joke", node.ErrNonsense)
	s := stream(t, b.url(), "Messages", asSelf...)
	if err := s.SendMsg(message(self, other, 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(emptypb.Empty)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "a joke") {
		t.Errorf("%v", err)
	}
}

func TestAPeerThatTakesNothingHoldsUpNobodyElse(t *testing.T) {
	a, slow, fast := newSide(t, self, 0), newSide(t, other, 0), newSide(t, third, 0)
	slow.block = make(chan struct{})
	a.transport.SetPeer(other, []string{slow.url()})
	a.transport.SetPeer(third, []string{fast.url()})
	talking(t, a, fast, third)
	big := make([]byte, 64<<10)
	for i := range uint64(2 * maxQueue) { // more than the queue and every window take
		m := message(self, other, i)
		m.Entries = []*raftpb.Entry{{Data: big}}
		a.transport.Send(m)
	}
	for i := range uint64(100) {
		a.transport.Send(message(self, third, i))
		if m := wait(t, "a message to the other peer", fast.received); m.GetIndex() != i {
			t.Fatalf("message %d came in the place of %d", m.GetIndex(), i)
		}
	}
	p := a.transport.peers[other]
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > maxQueue {
		t.Errorf("%d messages wait, of %d that may", len(p.queue), maxQueue)
	}
	if bytes := len(p.queue) * len(big); bytes > maxQueued {
		t.Errorf("%d bytes wait, of %d that may", bytes, maxQueued)
	}
}

func TestAMemberThatLeavesIsToldWhatWaits(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	talking(t, a, b, other)
	b.block = make(chan struct{})
	p := a.transport.peers[other]
	const n = 1000
	for i := range uint64(n) { // more than a window takes, so that some of it waits
		m := message(self, other, i)
		m.Entries = []*raftpb.Entry{{Data: make([]byte, 8<<10)}}
		a.transport.Send(m)
	}
	a.transport.RemovePeer(other)
	select {
	case <-p.signal: // that it leaves is all the stream hears
	default:
	}
	a.transport.Send(message(self, other, n)) // to a member that is not there
	close(b.block)
	for i := range uint64(n) {
		if m := wait(t, "a message", b.received); m.GetIndex() != i {
			t.Fatalf("message %d came in the place of %d", m.GetIndex(), i)
		}
	}
	a.transport.wg.Wait() // the stream has ended on its own
	select {
	case m := <-b.received:
		t.Errorf("message %d was sent to a stranger", m.GetIndex())
	default:
	}
	if !a.transport.Active(other).IsZero() {
		t.Error("its stream is open")
	}
}

func TestAPeerThatMovesIsFoundAtItsNewURL(t *testing.T) {
	a, b, c := newSide(t, self, 0), newSide(t, other, 0), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	talking(t, a, b, other)
	a.transport.SetPeer(other, []string{c.url()})
	talking(t, a, c, other)
	b.end() // its end is no loss
	talking(t, a, c, other)
	select {
	case id := <-a.unreachable:
		t.Errorf("member %d is said to be lost", id)
	default:
	}
}

func TestAMemberTellsWhoBelongsToItsCluster(t *testing.T) {
	b := newSide(t, other, 0)
	want := member.Member{ID: 7, Name: "seven", PeerURLs: []string{"http://127.0.0.1:7"}}
	b.members.Apply(raftpb.ConfChangeAddNode, want.ID, member.Change{Member: want})
	b.members.Apply(raftpb.ConfChangeRemoveNode, 8, member.Change{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	info, err := Ask(ctx, b.url(), nil)
	if err != nil || !slices.Equal(info.Removed, []uint64{8}) || info.ClusterID != testCluster || len(info.Members) != 4 || fmt.Sprint(info.Members[3]) != fmt.Sprint(want) {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := Ask(ctx, "https://"+b.address, nil); err == nil {
		t.Error("https without a certificate")
	}
}

func TestAPeerIsAskedWhatItHolds(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := a.transport.Hash(ctx, other, 9); err == nil {
		t.Error("a peer that is not known answers")
	}
	a.transport.SetPeer(other, []string{b.url()})
	if h, err := a.transport.Hash(ctx, other, 9); err != nil || h != (mvcc.Hash{Sum: 7, Rev: 9, Compacted: 3}) {
		t.Errorf("%+v, %v", h, err)
	}
	b.refuse = mvcc.ErrCompacted
	if _, err := a.transport.Hash(ctx, other, 9); status.Convert(err).Message() != mvcc.ErrCompacted.Error() {
		t.Errorf("%v", err)
	}
}

func TestAnAnswerToAPromotionIsTheLeadersOwn(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := a.transport.Promote(ctx, other, third); !errors.Is(err, node.ErrNotLeader) {
		t.Errorf("of a peer that is not known: %v", err)
	}
	a.transport.SetPeer(other, []string{b.url()})
	if err := a.transport.Promote(ctx, other, third); err != nil {
		t.Fatal(err)
	}
	if id := wait(t, "the promotion", b.promoted); id != third {
		t.Errorf("member %d was promoted", id)
	}
	for _, refusal := range []error{node.ErrNotReady, node.ErrNotLeader, node.ErrUnhealthy, member.ErrNotFound, member.ErrNotLearner} {
		b.refuse = refusal
		if err := a.transport.Promote(ctx, other, third); !errors.Is(err, refusal) {
			t.Errorf("%v came as %v", refusal, err)
		}
	}
	// Who is of another cluster has nothing to say here.
	stranger := New(testCluster+1, self, nil, 0, slog.New(slog.DiscardHandler))
	defer stranger.Close()
	stranger.SetPeer(other, []string{b.url()})
	b.refuse = nil
	if err := stranger.Promote(ctx, other, third); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("of another cluster: %v", err)
	}
}
