package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func TestALogWithRequestsThatAMemberCannotDoIsRefusedByName(t *testing.T) {
	field := func(b []byte, n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	request := func(r *pb.InternalRaftRequest) []byte {
		r.Header = &pb.RequestHeader{ID: 9}
		return marshal(r)
	}
	for _, test := range []struct {
		data []byte
		says string // nothing if it is let through
	}{
		{nil, ""},
		{request(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k")}}), ""},
		{request(&pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{}}), ""},
		{request(&pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: 1, TTL: 3600}}), "lease_grant"},
		{request(&pb.InternalRaftRequest{AuthEnable: &pb.AuthEnableRequest{}}), "auth_enable"},
		{request(&pb.InternalRaftRequest{AuthUserAdd: &pb.AuthUserAddRequest{Name: "root", Options: &authpb.UserAddOptions{}}}), "auth_user_add"},
		{request(&pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}}), "cluster_version_set"},
		{field(request(&pb.InternalRaftRequest{}), 5000, "of a later etcd"), "not known"},
		// A request of etcd's old API.
		{field(field(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7), 2, "PUT"), 3, "/0/members"), "not a request"},
		{[]byte("what another program writes"), "not a request"},
	} {
		s := newSim(t, 1, Config{})
		id, cluster := uint64(1), s.cfg.ClusterID
		metadata, err := proto.Marshal(&pb.Metadata{NodeID: &id, ClusterID: &cluster})
		must(t, err)
		w, err := wal.Create(filepath.Join(simDir, "wal"), metadata, &wal.Options{FS: s.disks[1]})
		must(t, err)
		n := &Node{cfg: s.cfg}
		state, entries, err := n.begin()
		must(t, err)
		must(t, w.Save(state, append(entries, walpb.Entry{Term: 1, Index: 2, Data: test.data})))
		must(t, w.Close())
		if _, err = s.tryStart(1); test.says == "" {
			must(t, err)
		} else if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "entry 1/2") || !strings.Contains(err.Error(), simDir) {
			t.Errorf("%s: %v", test.says, err)
		}
	}
}

func TestADirectoryWithADatabaseOfEtcdsIsRefused(t *testing.T) {
	s := newSim(t, 1, Config{})
	s.start(1)
	s.crash(1, crashfs.KeepAll)
	f, err := s.disks[1].OpenFile(filepath.Join(simDir, "snap", "db"), os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	must(t, f.Close())
	if _, err := s.tryStart(1); err == nil || !strings.Contains(err.Error(), "/member/snap/db is etcd's") {
		t.Error(err)
	}
	must(t, s.disks[1].Remove(filepath.Join(simDir, "snap", "db")))
	s.start(1)

	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "snap"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "snap", "db"), nil, 0o600))
	if err := Seed(dir, 1, 77, s.all, mvcc.New().View()); err == nil || !strings.Contains(err.Error(), "is etcd's") {
		t.Errorf("what is restored: %v", err)
	}
}

func TestADirectoryIsNotStartedUnderAnotherName(t *testing.T) {
	for _, snapshot := range []uint64{10_000, 5} { // the name is in the log, or in a snapshot
		s := newSim(t, 1, Config{SnapshotEntries: snapshot, CatchUpEntries: 1})
		s.cfg.Name = "m1"
		n := s.start(1)
		_, err := n.Propose(timeout(t), &pb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
			Member_ID: 1, MemberAttributes: &membershippb.Attributes{Name: "m1", ClientUrls: []string{"http://1:2"}},
		}})
		must(t, err)
		other := member.Member{ID: 2}
		_, err = n.Propose(timeout(t), &pb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
			// It is of another, and no business of this one.
			Member_ID: other.ID, MemberAttributes: &membershippb.Attributes{Name: "m2"},
		}})
		must(t, err)
		for i := range 20 {
			_, err := n.put(timeout(t), fmt.Sprint(i), "v")
			must(t, err)
		}
		if snapshot == 5 {
			s.eventually("a snapshot", func() bool { return n.Status().Snapshot > 3 })
		}
		s.crash(1, crashfs.DropAll)
		for _, test := range []struct {
			name string
			in   bool
		}{{"m2", false}, {"m1", true}, {"", true}} {
			s.cfg.Name = test.name
			_, err := s.tryStart(1)
			if (err == nil) != test.in || err != nil && !strings.Contains(err.Error(), `"m1"`) {
				t.Errorf("as %q: %v", test.name, err)
			}
			if err == nil {
				s.crash(1, crashfs.DropAll)
			}
		}
	}
}

func TestAClockThatRaftWouldPanicOfIsRefusedBeforeAnythingIsMade(t *testing.T) {
	for _, cfg := range []Config{{HeartbeatTicks: 10}, {HeartbeatTicks: -1}, {ElectionTicks: 1}, {ElectionTicks: -1}, {Tick: -1}} {
		s := newSim(t, 1, cfg)
		if _, err := s.tryStart(1); err == nil || !strings.Contains(err.Error(), "Ticks") {
			t.Errorf("%+v: %v", cfg, err)
		}
		if _, err := s.disks[1].Stat(simDir); err == nil {
			t.Errorf("%+v: there is a directory", cfg)
		}
	}
}
