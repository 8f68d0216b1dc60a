// Package api is the etcd v3 API over a node: KV, Cluster and Maintenance. Watch, Lease and Auth
// answer as if there were none, and say that none can be made. It checks what comes in, asks the
// node, and turns errors into etcd's.
package api

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
)

// Limits of a request.
const (
	DefaultMaxTxnOps = 128
	requestOverhead  = 512 << 10 // what gRPC takes beside the request, in bytes
	maxStreams       = 1 << 20
	// Calls that find a goroutine with a stack that has grown already; more get one of their own.
	workers           = 256
	clientPingEvery   = 5 * time.Second // at most
	serverPingEvery   = 2 * time.Hour
	serverPingTimeout = 20 * time.Second
)

// A Server answers clients for a node.
type Server struct {
	Node       *node.Node
	Transport  *peer.Transport
	Metrics    *Metrics
	MaxTxnOps  int
	MaxRequest int  // in bytes
	Strict     bool // refuse changes of the members that would cost the quorum
	Tick       time.Duration
	Profiles   bool // HTTP serves Go's profiles of the process
}

// NewGRPC returns a gRPC server with everything registered. Without TLS: the listener has done
// that.
func (s *Server) NewGRPC() *grpc.Server {
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(s.MaxRequest+requestOverhead),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(workers),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPingEvery}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPingEvery, Timeout: serverPingTimeout}),
		grpc.ForceServerCodecV2(s.Metrics.codec()),
		grpc.ChainUnaryInterceptor(s.Metrics.grpc.UnaryServerInterceptor(), s.unary),
		grpc.ChainStreamInterceptor(s.Metrics.grpc.StreamServerInterceptor(), s.stream),
	)
	pb.RegisterKVServer(g, &kv{s: s})
	pb.RegisterClusterServer(g, &cluster{s: s})
	pb.RegisterMaintenanceServer(g, &maintenance{s: s})
	pb.RegisterWatchServer(g, &watch{s: s})
	pb.RegisterLeaseServer(g, &lease{s: s})
	pb.RegisterAuthServer(g, &auth{s: s})
	s.Metrics.grpc.InitializeMetrics(g)
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(g, h)
	go func() { // ends with the node
		<-s.Node.Stopped()
		h.Shutdown()
	}()
	return g
}

// admit returns why a call cannot be, or nil.
func (s *Server) admit(ctx context.Context, method string, request any) error {
	if err := s.Node.Err(); err != nil {
		return status.Error(codes.Unavailable, "raftkv: this node has stopped: "+err.Error())
	}
	st := s.Node.Status()
	if st.Learner {
		switch r := request.(type) {
		case *pb.StatusRequest:
		case *pb.RangeRequest:
			if !r.Serializable {
				return rpctypes.ErrGRPCNotSupportedForLearner
			}
		case *pb.MemberListRequest:
			if r.Linearizable {
				return rpctypes.ErrGRPCNotSupportedForLearner
			}
		default:
			if method != pb.Maintenance_Snapshot_FullMethodName {
				return rpctypes.ErrGRPCNotSupportedForLearner
			}
		}
	}
	if st.Leader == 0 {
		if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey); len(v) > 0 && v[0] == rpctypes.MetadataHasLeader {
			return rpctypes.ErrGRPCNoLeader
		}
	}
	return nil
}

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.admit(ctx, info.FullMethod, request); err != nil {
		return nil, err
	}
	response, err := handler(ctx, request)
	if err != nil {
		return nil, explain(info.FullMethod, translate(err))
	}
	return response, nil
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := s.admit(stream.Context(), info.FullMethod, nil); err != nil {
		return err
	}
	return explain(info.FullMethod, translate(handler(srv, stream)))
}

// translation are our errors as etcd's clients know them.
var translation = []struct{ ours, theirs error }{
	{mvcc.ErrCompacted, rpctypes.ErrGRPCCompacted},
	{mvcc.ErrFutureRev, rpctypes.ErrGRPCFutureRev},
	{mvcc.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
	{mvcc.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},
	{node.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
	{node.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
	{node.ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge},
	{node.ErrTooMany, rpctypes.ErrGRPCRequestTooManyRequests},
	{node.ErrTimeout, rpctypes.ErrGRPCTimeout},
	{node.ErrLeaderLost, rpctypes.ErrGRPCTimeoutDueToLeaderFail},
	{node.ErrNotLeader, rpctypes.ErrGRPCNotLeader},
	// etcd has no constant of this one.
	{node.ErrNoTransfer, status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")},
	{node.ErrBadTransfer, rpctypes.ErrGRPCBadLeaderTransferee},
	{node.ErrNotReady, rpctypes.ErrGRPCLearnerNotReady},
	{node.ErrBadAlarm, status.Error(codes.InvalidArgument, node.ErrBadAlarm.Error())},
	{node.ErrUnhealthy, rpctypes.ErrGRPCMemberNotEnoughStarted},
	{member.ErrRemoved, rpctypes.ErrGRPCMemberNotFound},
	{member.ErrNotFound, rpctypes.ErrGRPCMemberNotFound},
	{member.ErrExists, rpctypes.ErrGRPCMemberExist},
	{member.ErrURLExists, rpctypes.ErrGRPCPeerURLExist},
	{member.ErrNotLearner, rpctypes.ErrGRPCMemberNotLearner},
	{member.ErrLastVoter, status.Error(codes.FailedPrecondition, member.ErrLastVoter.Error())},
	{member.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
	{context.Canceled, rpctypes.ErrGRPCCanceled},
	{context.DeadlineExceeded, rpctypes.ErrGRPCDeadlineExceeded},
}

func translate(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	if errors.Is(err, node.ErrStopped) { // whatever it stopped for
		return status.Error(codes.Unavailable, err.Error())
	}
	for _, t := range translation {
		if errors.Is(err, t.ours) {
			return t.theirs
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// header returns the header of an answer; with revision 0 it is the newest.
func (s *Server) header(revision int64) *pb.ResponseHeader {
	st := s.Node.Status()
	if revision == 0 {
		revision = s.Node.Store().Rev()
	}
	return &pb.ResponseHeader{ClusterId: st.ClusterID, MemberId: st.ID, RaftTerm: st.Term, Revision: revision}
}

// fill completes the header of an answer.
func (s *Server) fill(h *pb.ResponseHeader) {
	full := s.header(h.Revision)
	h.ClusterId, h.MemberId, h.RaftTerm, h.Revision = full.ClusterId, full.MemberId, full.RaftTerm, full.Revision
}
