package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
)

const (
	maxOps     = 8
	maxRequest = 64 << 10
)

// testServer is a member with its API, and a connection to it that takes no port.
type testServer struct {
	*Server
	disk *crashfs.FS
	conn *grpc.ClientConn
	kv   pb.KVClient
	cl   pb.ClusterClient
	mt   pb.MaintenanceClient
}

func self() member.Member {
	return member.Member{ID: 1, Name: "one", PeerURLs: []string{"http://127.0.0.1:1"}, ClientURLs: []string{"http://127.0.0.1:2"}}
}

// newServer starts a lone member, or with others in the list one that never has a leader.
func newServer(t testing.TB, others ...member.Member) *testServer {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := &testServer{disk: crashfs.New(), Server: &Server{Metrics: NewMetrics(), MaxTxnOps: maxOps, MaxRequest: maxRequest, Strict: true}}
	s.Transport = peer.New(7, 1, nil, 0, log)
	n, err := node.Start(node.Config{
		ID: 1, ClusterID: 7, Dir: "/member", FS: s.disk, Members: append(others, self()), Bootstrap: true, Transport: s.Transport,
		Tick: 5 * time.Millisecond, MaxRequest: maxRequest, Quota: 1 << 20, RequestTimeout: 10 * time.Second, Observer: s.Metrics.Node(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Node = n
	s.Metrics.Watch(n, s.Transport)
	g := s.NewGRPC()
	l := bufconn.Listen(1 << 20)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = g.Serve(l) // it ends with Stop
	}()
	s.conn, err = grpc.NewClient("passthrough:///member", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.conn.Close()
		g.Stop()
		<-served
		_ = n.Stop() // one whose disk was made to fail says so
		s.Transport.Close()
	})
	s.kv, s.cl, s.mt = pb.NewKVClient(s.conn), pb.NewClusterClient(s.conn), pb.NewMaintenanceClient(s.conn)
	return s
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (s *testServer) put(t testing.TB, key, value string) *pb.PutResponse {
	t.Helper()
	resp, err := s.kv.Put(within(t), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// refused checks that a call came back with an error as etcd's clients know it.
func refused(t testing.TB, what string, got, want error) {
	t.Helper()
	if w, g := status.Convert(want), status.Convert(got); w.Code() != g.Code() || w.Message() != g.Message() {
		t.Errorf("%s: %v: %q, want %v: %q", what, g.Code(), g.Message(), w.Code(), w.Message())
	}
}

// Every call of the services that are not there says so, whichever etcd adds, but for those that
// have an answer where there is nothing.
func TestWhatIsNotThereSaysSo(t *testing.T) {
	s := newServer(t)
	answered := map[string]bool{}
	for _, m := range []string{"LeaseLeases", "LeaseTimeToLive", "LeaseRevoke", "Authenticate", "AuthStatus", "AuthDisable", "UserList", "UserGet", "RoleList", "RoleGet"} {
		answered[m] = true
	}
	for _, missing := range []struct {
		service grpc.ServiceDesc
		says    string
	}{
		{pb.Lease_ServiceDesc, "raftkv has no leases"},
		{pb.Auth_ServiceDesc, "raftkv has no users"},
	} {
		check := func(method string, err error) {
			t.Helper()
			got := status.Convert(err)
			if said := got.Code() == codes.Unimplemented && strings.Contains(got.Message(), missing.says); said == answered[method] {
				t.Errorf("%s/%s: %v", missing.service.ServiceName, method, err)
			}
		}
		for _, m := range missing.service.Methods {
			check(m.MethodName, s.conn.Invoke(within(t), "/"+missing.service.ServiceName+"/"+m.MethodName, new(emptypb.Empty), new(emptypb.Empty)))
		}
		for _, d := range missing.service.Streams {
			stream, err := s.conn.NewStream(within(t), &d, "/"+missing.service.ServiceName+"/"+d.StreamName)
			if err != nil {
				t.Fatal(err)
			}
			check(d.StreamName, stream.RecvMsg(new(emptypb.Empty)))
		}
	}
	_, err := s.mt.Downgrade(within(t), &pb.DowngradeRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("Downgrade: %v", err)
	}
}

func TestAWatchIsCancelledWithAReasonAndTheNextOneToo(t *testing.T) {
	s := newServer(t)
	stream, err := pb.NewWatchClient(s.conn).Watch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, r := range []*pb.WatchRequest{
			{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}},
			{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}},
		} {
			if err := stream.Send(r); err != nil {
				t.Fatal(err)
			}
		}
		r, err := stream.Recv()
		if err != nil || !r.Created || !r.Canceled || r.CancelReason != "raftkv has no watches" || r.WatchId != -1 || r.Header.GetMemberId() != 1 {
			t.Errorf("%v, %v", r, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, %v", r, err)
	}
}

func TestALearnerAnswersWhatNeedsNoVote(t *testing.T) {
	s := newServer(t)
	s.put(t, "k", "v")
	s.Node.Members().Apply(raftpb.ConfChangeAddLearnerNode, 1, member.Change{Member: self()})
	ctx := within(t)
	for _, test := range []struct {
		what string
		call func() error
		ok   bool
	}{
		{"put", func() error { _, err := s.kv.Put(ctx, &pb.PutRequest{Key: []byte("k")}); return err }, false},
		{"a linearizable read", func() error { _, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")}); return err }, false},
		{"a serializable read", func() error {
			_, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			return err
		}, true},
		{"a stream of a read", func() error {
			return drain(s.kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true}))
		}, false},
		{"txn", func() error { _, err := s.kv.Txn(ctx, &pb.TxnRequest{}); return err }, false},
		{"compact", func() error { _, err := s.kv.Compact(ctx, &pb.CompactionRequest{Revision: 1}); return err }, false},
		{"status", func() error { _, err := s.mt.Status(ctx, &pb.StatusRequest{}); return err }, true},
		{"alarm", func() error { _, err := s.mt.Alarm(ctx, &pb.AlarmRequest{}); return err }, false},
		{"snapshot", func() error {
			return drain(s.mt.Snapshot(ctx, &pb.SnapshotRequest{}))
		}, true},
		{"the members as it knows them", func() error { _, err := s.cl.MemberList(ctx, &pb.MemberListRequest{}); return err }, true},
		{"the members now", func() error {
			_, err := s.cl.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		}, false},
	} {
		var want error
		if !test.ok {
			want = rpctypes.ErrGRPCNotSupportedForLearner
		}
		refused(t, test.what, test.call(), want)
	}
	st, err := s.mt.Status(ctx, &pb.StatusRequest{})
	if err != nil || !st.IsLearner {
		t.Errorf("it does not say that it is one: %v, %v", st, err)
	}
}

// drain reads a stream that was opened to its end.
func drain[M any](stream grpc.ServerStreamingClient[M], err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	if err == io.EOF {
		return nil
	}
	return err
}

func TestWithoutALeaderOnlyWhatIsHereIsAnswered(t *testing.T) {
	s := newServer(t, member.Member{ID: 2}, member.Member{ID: 3})
	ctx := within(t)
	mustLead := metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	here := &pb.RangeRequest{Key: []byte("k"), Serializable: true}
	_, err := s.kv.Range(ctx, here)
	refused(t, "a serializable read", err, nil)
	_, err = s.kv.Range(mustLead, here)
	refused(t, "a serializable read that wants a leader", err, rpctypes.ErrGRPCNoLeader)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = s.kv.Put(short, &pb.PutRequest{Key: []byte("k")})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("put: %v", err)
	}
	_, err = s.mt.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 2})
	refused(t, "move leader", err, rpctypes.ErrGRPCNotLeader)
	_, err = s.cl.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 2})
	refused(t, "promote", err, rpctypes.ErrGRPCNoLeader)
	st, err := s.mt.Status(ctx, &pb.StatusRequest{})
	if err != nil || st.Leader != 0 || len(st.Errors) != 1 || st.Errors[0] != "etcdserver: no leader" {
		t.Errorf("status: %v, %v", st, err)
	}
}

func TestErrorsAreWhatEtcdsClientsKnow(t *testing.T) {
	for _, test := range []struct {
		err  error
		want error
	}{
		{nil, nil},
		{fmt.Errorf("read: %w", context.Canceled), rpctypes.ErrGRPCCanceled},
		{context.DeadlineExceeded, rpctypes.ErrGRPCDeadlineExceeded},
		{node.ErrTimeout, rpctypes.ErrGRPCTimeout},
		{node.ErrLeaderLost, rpctypes.ErrGRPCTimeoutDueToLeaderFail},
		{node.ErrTooMany, rpctypes.ErrGRPCRequestTooManyRequests},
		{member.ErrRemoved, rpctypes.ErrGRPCMemberNotFound},
		{member.ErrExists, rpctypes.ErrGRPCMemberExist},
		{rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCNoLeader},
		{fmt.Errorf("%w: %w", node.ErrStopped, context.Canceled), status.Error(codes.Unavailable, node.ErrStopped.Error()+": context canceled")},
		{node.ErrStopped, status.Error(codes.Unavailable, node.ErrStopped.Error())},
		{syscall.EIO, status.Error(codes.Unknown, syscall.EIO.Error())},
	} {
		refused(t, fmt.Sprint(test.err), translate(test.err), test.want)
	}
}

func TestANodeThatFailedSaysWhy(t *testing.T) {
	s := newServer(t)
	s.put(t, "k", "v")
	h := grpc_health_v1.NewHealthClient(s.conn)
	healthy, err := h.Check(within(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || healthy.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("before: %v, %v", healthy, err)
	}
	watch, err := h.Watch(within(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	s.disk.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpWrite || op.Kind == crashfs.OpSyncData {
			return syscall.EIO
		}
		return nil
	})
	_, err = s.kv.Put(within(t), &pb.PutRequest{Key: []byte("k")})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), syscall.EIO.Error()) {
		t.Errorf("the write that failed: %v", err)
	}
	_, err = s.kv.Range(within(t), &pb.RangeRequest{Key: []byte("k"), Serializable: true})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), syscall.EIO.Error()) {
		t.Errorf("a read after it: %v", err)
	}
	if now, err := watch.Recv(); err != nil || now.Status != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("its health: %v, %v", now, err)
	}
	for _, path := range []string{"/livez", "/readyz", "/health"} {
		if code, body := s.get(path); code != 503 || !strings.Contains(body, syscall.EIO.Error()) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func (s *testServer) get(path string) (code int, body string) {
	w := httptest.NewRecorder()
	s.HTTP().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestOverHTTPAMemberTellsOfItsHealthAndFigures(t *testing.T) {
	s := newServer(t)
	s.put(t, "k", "v")
	for path, says := range map[string]string{
		"/livez": "ok", "/readyz": "ok", "/health": `"health":"true"`, "/version": `"etcdcluster":"3.7.0","storage":"3.7.0"`, "/metrics": "etcd_server_has_leader 1",
	} {
		if code, body := s.get(path); code != 200 || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	full := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}
	if _, err := s.mt.Alarm(within(t), full); err != nil {
		t.Fatal(err)
	}
	if code, body := s.get("/health"); code != 503 || !strings.Contains(body, "NOSPACE") {
		t.Errorf("with an alarm: %d %s", code, body)
	}
	if code, _ := s.get("/livez"); code != 200 {
		t.Errorf("with an alarm it is said to be dead: %d", code)
	}
	_, body := s.get("/metrics")
	for _, series := range []string{
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1`,
		"etcd_server_health_success 1", "etcd_server_health_failures 1", `etcd_server_healthcheck{name="linearizable_read",type="readyz"} 1`,
		`etcd_server_healthchecks_total{name="serializable_read",status="success",type="livez"} 2`,
	} {
		if !strings.Contains(body, series+"\n") {
			t.Errorf("there is no %s", series)
		}
	}
}
