package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// absentCalls are calls about users and leases that have an answer also where there are none.
var absentCalls = map[string]func(context.Context, *grpc.ClientConn) (proto.Message, error){
	"Authenticate": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewAuthClient(c).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "x"})
	},
	"AuthStatus": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewAuthClient(c).AuthStatus(ctx, &pb.AuthStatusRequest{})
	},
	"AuthDisable": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewAuthClient(c).AuthDisable(ctx, &pb.AuthDisableRequest{})
	},
	"UserList": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewAuthClient(c).UserList(ctx, &pb.AuthUserListRequest{})
	},
	"UserGet": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewAuthClient(c).UserGet(ctx, &pb.AuthUserGetRequest{Name: "root"})
	},
	"RoleList": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewAuthClient(c).RoleList(ctx, &pb.AuthRoleListRequest{})
	},
	"RoleGet": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewAuthClient(c).RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "root"})
	},
	"LeaseLeases": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewLeaseClient(c).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	},
	"LeaseTimeToLive": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewLeaseClient(c).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
	},
	"LeaseRevoke": func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return pb.NewLeaseClient(c).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7})
	},
}

func TestOfUsersAndLeasesItSaysWhatEtcdSaysThatHasNone(t *testing.T) {
	answers := map[string]map[string]string{}
	for name, program := range map[string][]string{"etcd": {etcdTool(t, "etcd"), "--log-level", "fatal"}, "raftkv": raftkv()} {
		c := newCluster(t, program, 1, 0)
		c.start()
		c.settle()
		eventually(t, "a write", func() bool { return put(c.conn("n1"), "a", "b", time.Second) == nil })
		answers[name] = map[string]string{}
		for call, of := range absentCalls {
			ctx, cancel := context.WithTimeout(t.Context(), enough)
			answer, err := of(ctx, c.conn("n1"))
			cancel()
			text := ""
			if err == nil {
				m := answer.ProtoReflect()
				// The header differs from cluster to cluster.
				m.Clear(m.Descriptor().Fields().ByName("header"))
				text = protojson.Format(answer)
			}
			answers[name][call] = fmt.Sprintf("%v %q %s", status.Code(err), status.Convert(err).Message(), text)
		}
	}
	for _, call := range slices.Sorted(maps.Keys(absentCalls)) {
		if got, want := answers["raftkv"][call], answers["etcd"][call]; got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", call, got, want)
		}
	}
}

func TestEtcdctlSaysWhyAWatchIsCancelled(t *testing.T) {
	c := newCluster(t, raftkv(), 1, 0)
	c.start()
	c.settle()
	if out := c.ctl("", "watch", "k"); !strings.Contains(out, "raftkv has no watches") {
		t.Errorf("etcdctl says %q", out)
	}
}
