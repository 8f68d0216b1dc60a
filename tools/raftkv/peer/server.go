package peer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	caller "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

const serviceName = "raftkv.Peer"

// service describes what a member offers its peers.
var service = grpc.ServiceDesc{
	ServiceName: serviceName,
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Messages", Handler: serveMessages, ClientStreams: true},
		{StreamName: "Snapshot", Handler: serveSnapshot, ClientStreams: true, ServerStreams: true},
	},
	Methods: []grpc.MethodDesc{
		{MethodName: "Members", Handler: serveMembers},
		{MethodName: "Promote", Handler: servePromote},
		{MethodName: "Hash", Handler: serveHash},
		{MethodName: "Ping", Handler: servePing},
	},
}

// A Server takes what peers send.
type Server struct {
	T       *Transport
	Member  Member
	Members *member.Set
}

// NewGRPC returns a gRPC server that offers it. Without TLS: the listener has done that. A peer
// that is silent for a while is taken for lost, so that what it was about to send is not waited
// for.
func (s *Server) NewGRPC() *grpc.Server {
	g := grpc.NewServer(
		grpc.WaitForHandlers(true), // Stop waits for those that write a snapshot
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
	)
	g.RegisterService(&service, s)
	return g
}

// check returns which member calls, or why it may not.
func (s *Server) check(ctx context.Context) (from uint64, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("version"); len(v) != 1 || v[0] != version {
		return 0, status.Errorf(codes.FailedPrecondition, "this member speaks version %s to its peers, not %q", version, v)
	}
	if c := number(md, "cluster"); c != s.T.cluster {
		return 0, status.Errorf(codes.FailedPrecondition, "this is a member of cluster %x, not of %x", s.T.cluster, c)
	}
	if to := number(md, "to"); to != s.T.self {
		return 0, status.Errorf(codes.FailedPrecondition, "this is member %x, not %x", s.T.self, to)
	}
	from = number(md, "from")
	if s.Members.Removed(from) {
		return 0, status.Error(codes.PermissionDenied, node.ErrRemoved.Error())
	}
	if !s.belongs(ctx, from) {
		return 0, status.Errorf(codes.PermissionDenied, "no member that this one knows has heard of a member %x", from)
	}
	return from, nil
}

// trusts returns why a caller may not speak whose log stands as it says. One that says nothing has
// all that it ever had.
func (s *Server) trusts(ctx context.Context, from uint64) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get("last")) == 0 {
		return nil
	}
	standing := node.Standing{Last: number(md, "last"), Term: number(md, "term"), Fresh: slices.Contains(md.Get("fresh"), "true")}
	switch err := s.Member.Trusts(ctx, from, standing); {
	case errors.Is(err, node.ErrForgot):
		return status.Error(codes.PermissionDenied, node.ErrForgot.Error())
	case err != nil:
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

// number returns what a caller says under a key, 0 if that is no number.
func number(md metadata.MD, key string) uint64 {
	if v := md.Get(key); len(v) == 1 {
		n, _ := strconv.ParseUint(v[0], 16, 64)
		return n
	}
	return 0
}

// belongs reports whether a caller is another member. This one may lag and not know it, or may be
// about to learn of it from this very caller; then those that it knows are asked.
func (s *Server) belongs(ctx context.Context, id uint64) bool {
	if id == 0 || id == s.T.self {
		return false
	}
	_, ok := s.Members.Get(id)
	return ok || s.T.knows(id) || s.T.vouched(ctx, id)
}

func serveMessages(srv any, stream grpc.ServerStream) error {
	s := srv.(*Server)
	from, err := s.check(stream.Context())
	if err != nil {
		return err
	}
	if err := s.trusts(stream.Context(), from); err != nil {
		return err
	}
	if err := stream.SendHeader(nil); err != nil { // the stream is taken
		return err
	}
	received := s.T.metrics.received.WithLabelValues(hex(from))
	for {
		m := new(raftpb.Message)
		if err := stream.RecvMsg(m); err != nil {
			if err == io.EOF {
				return stream.SendMsg(new(emptypb.Empty))
			}
			s.T.metrics.receiveFailures.WithLabelValues(hex(from)).Inc()
			return err
		}
		received.Add(float64(proto.Size(m)))
		if m.GetFrom() != from && m.GetType() != raftpb.MsgProp && m.GetType() != raftpb.MsgReadIndex || m.GetTo() != s.T.self {
			return status.Errorf(codes.InvalidArgument, "a message from %x to %x on the stream from %x", m.GetFrom(), m.GetTo(), from)
		}
		if err := s.Member.Receive(stream.Context(), m); errors.Is(err, node.ErrNonsense) {
			s.T.log.Warn("a peer's stream is ended", "peer", hex(from), "at", address(stream.Context()), "error", err)
			return status.Error(codes.InvalidArgument, err.Error())
		} else if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
}

// address returns where a caller is.
func address(ctx context.Context) string {
	if p, ok := caller.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// Info is what a member tells one that joins.
type Info struct {
	ClusterID uint64 `json:"clusterID"`
	// One that has just begun may not know all of them yet.
	Members []member.Member `json:"members"`
	Removed []uint64        `json:"removed,omitempty"`
}

func serveMembers(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	s := srv.(*Server)
	if err := decode(new(emptypb.Empty)); err != nil {
		return nil, err
	}
	b, err := json.Marshal(Info{s.T.cluster, s.Members.List(), s.Members.Gone()})
	if err != nil {
		return nil, err
	}
	return wrapperspb.Bytes(b), nil
}

// servePing answers at once: the caller wants to know how long that takes.
func servePing(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	if _, err := srv.(*Server).check(ctx); err != nil {
		return nil, err
	}
	return new(emptypb.Empty), decode(new(emptypb.Empty))
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

func serveHash(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	s := srv.(*Server)
	if _, err := s.check(ctx); err != nil {
		return nil, err
	}
	var rev wrapperspb.Int64Value
	if err := decode(&rev); err != nil {
		return nil, err
	}
	h, err := s.Member.Hash(ctx, rev.Value)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	b, err := json.Marshal(h)
	return wrapperspb.Bytes(b), err
}
