package api

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

func TestMembersComeAndGoAsEtcdHasIt(t *testing.T) {
	s := newServer(t)
	ctx := within(t)
	add := func(learner bool, urls ...string) (*pb.MemberAddResponse, error) {
		return s.cl.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
	}
	for _, urls := range [][]string{nil, {""}, {"127.0.0.1:9"}, {"ftp://127.0.0.1:9"}, {"http://127.0.0.1"}, {"http://127.0.0.1:9/path"}, {"http://127.0.0.1:8", "%"}} {
		_, err := add(true, urls...)
		refused(t, "add", err, rpctypes.ErrGRPCMemberBadURLs)
	}
	_, err := add(true, self().PeerURLs...)
	refused(t, "add at a URL that is taken", err, rpctypes.ErrGRPCPeerURLExist)
	added, err := add(true, "http://127.0.0.1:9", "http://127.0.0.1:8")
	if err != nil || !added.Member.IsLearner || len(added.Members) != 2 || added.Header.ClusterId != 7 {
		t.Fatalf("%v, %v", added, err)
	}
	learner := added.Member.ID
	_, err = add(true, "http://127.0.0.1:7")
	refused(t, "another learner", err, rpctypes.ErrGRPCTooManyLearners)
	_, err = s.cl.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: learner})
	refused(t, "promote one that has nothing", err, rpctypes.ErrGRPCLearnerNotReady)
	_, err = s.cl.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 99})
	refused(t, "promote a stranger", err, rpctypes.ErrGRPCMemberNotFound)
	_, err = s.cl.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 1})
	refused(t, "promote a voter", err, rpctypes.ErrGRPCMemberNotLearner)
	_, err = s.mt.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: learner})
	refused(t, "a learner to lead", err, rpctypes.ErrGRPCBadLeaderTransferee)
	_, err = s.mt.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 99})
	refused(t, "a stranger to lead", err, rpctypes.ErrGRPCBadLeaderTransferee)

	_, err = s.cl.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: learner, PeerURLs: []string{"no"}})
	refused(t, "update to no URL", err, rpctypes.ErrGRPCMemberBadURLs)
	_, err = s.cl.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 99, PeerURLs: []string{"http://127.0.0.1:5"}})
	refused(t, "update a stranger", err, rpctypes.ErrGRPCMemberNotFound)
	_, err = s.cl.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: learner, PeerURLs: self().PeerURLs})
	refused(t, "update to a URL that is taken", err, rpctypes.ErrGRPCPeerURLExist)
	updated, err := s.cl.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: learner, PeerURLs: []string{"http://127.0.0.1:6"}})
	if err != nil || len(updated.Members) != 2 {
		t.Fatalf("%v, %v", updated, err)
	}
	list, err := s.cl.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	if err != nil || len(list.Members) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, m := range list.Members {
		if m.ID == learner && (len(m.PeerURLs) != 1 || m.PeerURLs[0] != "http://127.0.0.1:6" || !m.IsLearner || m.Name != "") {
			t.Errorf("after the update: %v", m)
		}
	}
	_, err = s.cl.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 99})
	refused(t, "remove a stranger", err, rpctypes.ErrGRPCMemberNotFound)
	if removed, err := s.cl.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: learner}); err != nil || len(removed.Members) != 1 {
		t.Errorf("%v, %v", removed, err)
	}
	_, err = s.cl.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: learner})
	refused(t, "remove again", err, rpctypes.ErrGRPCMemberNotFound)
	s.put(t, "k", "v") // the cluster goes on
}

// The members in these cases are made up, beside raft: what is refused never gets there.
func TestAChangeThatWouldCostTheQuorumIsRefused(t *testing.T) {
	ctx := within(t)
	voter := func(id uint64, name string) member.Change {
		return member.Change{Member: member.Member{ID: id, Name: name, PeerURLs: []string{"http://127.0.0.1:10" + string(rune('0'+id))}}}
	}
	fourth := []string{"http://127.0.0.1:104"}
	for _, test := range []struct {
		name   string
		names  []string // of members 2 and 3; empty if they have not started
		change func(s *testServer) error
		want   error
	}{
		{"a voter, while others have not started", []string{"", ""}, func(s *testServer) error {
			_, err := s.cl.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: fourth})
			return err
		}, rpctypes.ErrGRPCMemberNotEnoughStarted},
		{"a voter, while others are down", []string{"two", "three"}, func(s *testServer) error {
			_, err := s.cl.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: fourth})
			return err
		}, rpctypes.ErrGRPCUnhealthy},
		{"a learner, while others are down", []string{"two", "three"}, func(s *testServer) error {
			_, err := s.cl.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: fourth, IsLearner: true})
			return err
		}, rpctypes.ErrGRPCUnhealthy},
		{"to remove one that has started, while others have not", []string{"", ""}, func(s *testServer) error {
			_, err := s.cl.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 1})
			return err
		}, rpctypes.ErrGRPCMemberNotEnoughStarted},
		{"to remove one that is up, while others are down", []string{"two", "three"}, func(s *testServer) error {
			_, err := s.cl.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 1})
			return err
		}, rpctypes.ErrGRPCUnhealthy},
	} {
		s := newServer(t)
		s.put(t, "k", "v")
		s.Node.Members().SetAttributes(1, "one", nil)
		for i, name := range test.names {
			s.Node.Members().Apply(raftpb.ConfChangeAddNode, uint64(i+2), voter(uint64(i+2), name))
		}
		refused(t, test.name, test.change(s), test.want)
	}
}

func TestStatusTellsWhereAMemberIs(t *testing.T) {
	s := withKeys(t)
	st, err := s.mt.Status(within(t), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	now := s.Node.Status()
	size := s.Node.Store().Stats()
	if st.Header.Revision != 6 || st.Leader != 1 || st.RaftTerm != now.Term || st.RaftIndex < 6 || st.RaftAppliedIndex < 6 ||
		st.DbSize != size.Size || st.DbSizeInUse != size.Size || st.DbSizeQuota != 1<<20 ||
		st.IsLearner || len(st.Errors) != 0 || st.Version == "" || st.StorageVersion == "" {
		t.Errorf("%v", st)
	}
}

func TestHashesAreOfTheRevisionsThatAreThere(t *testing.T) {
	s := withKeys(t)
	ctx := within(t)
	hash := func(rev int64) (*pb.HashKVResponse, error) { return s.mt.HashKV(ctx, &pb.HashKVRequest{Revision: rev}) }
	newest, err := hash(0)
	if err != nil || newest.HashRevision != 6 || newest.CompactRevision != 4 {
		t.Fatalf("%v, %v", newest, err)
	}
	same, err := hash(6)
	if err != nil || same.Hash != newest.Hash {
		t.Errorf("%v, %v", same, err)
	}
	if older, err := hash(5); err != nil || older.Hash == newest.Hash || older.HashRevision != 5 || older.Header.Revision != 6 {
		t.Errorf("%v, %v", older, err)
	}
	_, err = hash(3)
	refused(t, "compacted", err, rpctypes.ErrGRPCCompacted)
	_, err = hash(7)
	refused(t, "future", err, rpctypes.ErrGRPCFutureRev)
	whole, err := s.mt.Hash(ctx, &pb.HashRequest{})
	if err != nil || whole.Hash != newest.Hash || whole.Header.Revision != 6 {
		t.Errorf("%v, %v", whole, err)
	}
	if _, err := s.mt.Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
		t.Errorf("defragment, which has nothing to do: %v", err)
	}
}

func TestAnAlarmStopsWritesUntilItIsTakenBack(t *testing.T) {
	s := newServer(t)
	ctx := within(t)
	s.put(t, "k", "v")
	alarm := func(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) []*pb.AlarmMember {
		t.Helper()
		resp, err := s.mt.Alarm(ctx, &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Alarms
	}
	if list := alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE); len(list) != 0 {
		t.Fatalf("%v", list)
	}
	alarm(pb.AlarmRequest_ACTIVATE, 1, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_ACTIVATE, 1, pb.AlarmType_NOSPACE) // once is enough
	if list := alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE); len(list) != 1 || list[0].MemberID != 1 || list[0].Alarm != pb.AlarmType_NOSPACE {
		t.Errorf("%v", list)
	}
	st, err := s.mt.Status(ctx, &pb.StatusRequest{})
	if err != nil || len(st.Errors) != 1 {
		t.Errorf("status: %v, %v", st, err)
	}
	_, err = s.kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
	refused(t, "put", err, rpctypes.ErrGRPCNoSpace)
	_, err = s.kv.Txn(ctx, &pb.TxnRequest{Failure: ops(opTxn(&pb.TxnRequest{Success: ops(opPut("k"))}))})
	refused(t, "a transaction that may write", err, rpctypes.ErrGRPCNoSpace)
	_, err = s.kv.Txn(ctx, &pb.TxnRequest{Success: ops(opDelete("k", ""), opRange("k", 0))})
	refused(t, "a transaction that deletes", err, nil)
	_, err = s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("k")})
	refused(t, "delete", err, nil)
	_, err = s.kv.Compact(ctx, &pb.CompactionRequest{Revision: 2})
	refused(t, "compact", err, nil)
	if list := alarm(pb.AlarmRequest_DEACTIVATE, 1, pb.AlarmType_NOSPACE); len(list) != 1 {
		t.Errorf("%v", list)
	}
	if list := alarm(pb.AlarmRequest_DEACTIVATE, 1, pb.AlarmType_NOSPACE); len(list) != 0 {
		t.Errorf("taken back twice: %v", list)
	}
	s.put(t, "k", "v")
}

func TestAStateThatIsFullRaisesTheAlarm(t *testing.T) {
	s := newServer(t)
	var err error
	for range 100 {
		if _, err = s.kv.Put(within(t), &pb.PutRequest{Key: []byte("k"), Value: make([]byte, maxRequest/2)}); err != nil {
			break
		}
	}
	refused(t, "the write that does not fit", err, rpctypes.ErrGRPCNoSpace)
	if a := s.Node.Alarms(); len(a) != 1 || a[0].MemberID != 1 {
		t.Errorf("alarms: %v", a)
	}
	if size := s.Node.Store().Stats().Size; size > s.Node.Quota() {
		t.Errorf("%d bytes are kept, of %d that may", size, s.Node.Quota())
	}
}

func TestASavedSnapshotIsWholeAndSaysSo(t *testing.T) {
	s := withKeys(t)
	stream, err := s.mt.Snapshot(within(t), &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var all, last []byte
	for {
		piece, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all, last = append(all, last...), piece.Blob
		if piece.Version == "" {
			t.Error("a piece without the version of what it is of")
		}
	}
	if len(all) == 0 || len(all)%512 != 0 {
		t.Errorf("%d bytes before the checksum, which are no whole sectors", len(all))
	}
	if sum := sha256.Sum256(all); !bytes.Equal(sum[:], last) {
		t.Errorf("it ends with %x, and its SHA-256 is %x", last, sum)
	}
	head, view, err := node.ReadState(bytes.NewReader(all))
	if err != nil || head.ClusterID != 7 || view.Rev() != 6 {
		t.Errorf("%+v, %v", head, err)
	}
}
