package api

import (
	"context"
	"errors"
	"io"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Watches, leases and users cannot be made. What is asked of those that there are has an answer all
// the same, which is etcd's where there are none.

// absent are the services of what cannot be made, and the answer to an attempt.
var absent = map[string]string{
	"/etcdserverpb.Lease/": "raftkv has no leases",
	"/etcdserverpb.Auth/":  "raftkv has no users: use client certificates",
}

// noWatches is why every watch is cancelled.
const noWatches = "raftkv has no watches"

// explain has the error of a method that is not there say what is not there.
func explain(method string, err error) error {
	if status.Code(err) != codes.Unimplemented {
		return err
	}
	for prefix, text := range absent {
		if strings.HasPrefix(method, prefix) {
			return status.Error(codes.Unimplemented, text)
		}
	}
	return err
}

type watch struct {
	pb.UnsafeWatchServer
	s *Server
}

// Watch cancels each watch with a reason, which clients show; one that ends with an error they
// begin anew, for ever.
func (w *watch) Watch(stream pb.Watch_WatchServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.GetCreateRequest() == nil {
			continue // there is none to cancel, or to report on
		}
		const none = -1 // as etcd calls a watch that did not begin
		answer := &pb.WatchResponse{Header: w.s.header(0), WatchId: none, Created: true, Canceled: true, CancelReason: noWatches}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

type lease struct {
	pb.UnimplementedLeaseServer
	s *Server
}

func (l *lease) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	return &pb.LeaseLeasesResponse{Header: l.s.header(0)}, nil
}

func (l *lease) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return &pb.LeaseTimeToLiveResponse{Header: l.s.header(0), ID: r.ID, TTL: -1}, nil
}

func (l *lease) LeaseRevoke(context.Context, *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	return nil, rpctypes.ErrGRPCLeaseNotFound
}

type auth struct {
	pb.UnimplementedAuthServer
	s *Server
}

func (a *auth) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return nil, rpctypes.ErrGRPCAuthNotEnabled
}

func (a *auth) AuthStatus(context.Context, *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return &pb.AuthStatusResponse{Header: a.s.header(0), AuthRevision: 1}, nil
}

func (a *auth) AuthDisable(context.Context, *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return &pb.AuthDisableResponse{Header: a.s.header(0)}, nil
}

func (a *auth) UserList(context.Context, *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return &pb.AuthUserListResponse{Header: a.s.header(0)}, nil
}

func (a *auth) UserGet(context.Context, *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

func (a *auth) RoleList(context.Context, *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return &pb.AuthRoleListResponse{Header: a.s.header(0)}, nil
}

func (a *auth) RoleGet(context.Context, *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}
