package node

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

func TestALeaderNoticesALogThatIsShorterThanWhatItAcknowledged(t *testing.T) {
	s := newSim(t, 3, Config{})
	s.startAll()
	lead := s.leader()
	other, third := s.get(lead.id%3+1), s.get((lead.id+1)%3+1)
	_, err := lead.put(timeout(t), "k", "v")
	must(t, err)
	s.eventually("all to have acknowledged it", func() bool {
		return other.Standing().Last == lead.Standing().Last && other.Status().Applied == lead.Status().Applied
	})
	now := other.Standing()
	for _, test := range []struct {
		what string
		who  *simNode // is told
		says Standing
		want error
	}{
		{"the truth", lead, now, nil},
		{"a log without the last entry", lead, Standing{Last: now.Last - 1, Term: now.Term}, ErrForgot},
		{"no log", lead, Standing{}, ErrForgot},
		{"a log that a later leader has cut", lead, Standing{Last: now.Last - 1, Term: now.Term + 1}, nil},
		{"a log without the last entry, to a follower", third, Standing{Last: now.Last - 1, Term: now.Term}, nil},
	} {
		if err := test.who.Trusts(timeout(t), other.id, test.says); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.what, err)
		}
	}
	other.Forgot()
	<-other.Failed()
	if err := other.Err(); !errors.Is(err, ErrForgot) || !strings.Contains(err.Error(), "etcdctl member remove") {
		t.Errorf("it stops with %v", err)
	}
}

func TestAMemberThatHasIntroducedItselfIsNotTakenForANewOne(t *testing.T) {
	s := newSim(t, 3, Config{})
	s.startAll()
	lead := s.leader()
	other := s.get(lead.id%3 + 1)
	if !other.Standing().Fresh {
		t.Error("a new member does not say that it is one")
	}
	must(t, lead.Trusts(timeout(t), other.id, other.Standing()))
	other.Introducing()
	_, err := other.Propose(timeout(t), &pb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
		Member_ID: other.id, MemberAttributes: &membershippb.Attributes{Name: "other"}}})
	must(t, err)
	s.eventually("the leader to know its name", func() bool { m, _ := lead.Members().Get(other.id); return m.Name == "other" })
	must(t, lead.Trusts(timeout(t), other.id, other.Standing()))
	s.crash(other.id, crashfs.DropAll)
	again := s.start(other.id)
	if again.Standing().Fresh {
		t.Error("after a restart it says that it is new")
	}
	s.crash(other.id, crashfs.DropAll)
	s.disks[other.id], s.wiped = crashfs.New(), map[uint64]bool{other.id: true}
	wiped := s.start(other.id)
	for id := range uint64(3) {
		if n := s.get(id + 1); n != wiped {
			s.eventually("it to know the name", func() bool { m, _ := n.Members().Get(other.id); return m.Name == "other" })
			if err := n.Trusts(timeout(t), other.id, wiped.Standing()); !errors.Is(err, ErrForgot) {
				t.Errorf("member %d trusts it: %v", n.id, err)
			}
		}
	}
}

// A commit is learnt again from the leader, and a member that starts without one may have the entry
// of an introduction and not know that it is committed.
func TestAnIntroductionThatIsNotCommittedIsOne(t *testing.T) {
	s := newSim(t, 3, Config{})
	n := s.start(1)
	must(t, n.Trusts(timeout(t), 3, Standing{Fresh: true}))
	before := n.Standing()
	request := marshal(&pb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
		Member_ID: 3, MemberAttributes: &membershippb.Attributes{Name: "other"}}})
	must(t, n.Receive(timeout(t), &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(before.Term + 1),
		Index: &before.Last, LogTerm: &before.Term, Commit: &before.Last,
		Entries: []*raftpb.Entry{{Term: new(before.Term + 1), Index: new(before.Last + 1), Data: request}}}))
	s.eventually("the entry to be durable", func() bool { return n.Standing().Last == before.Last+1 })
	if m, _ := n.Members().Get(3); m.Name != "" {
		t.Fatal("it was applied")
	}
	if err := n.Trusts(timeout(t), 3, Standing{Fresh: true}); !errors.Is(err, ErrForgot) {
		t.Errorf("member 3 is trusted: %v", err)
	}
	must(t, n.Trusts(timeout(t), 2, Standing{Fresh: true}))
}

func TestALogThatIsGoneBesideSnapshotsIsNotMadeAnew(t *testing.T) {
	s := newSim(t, 1, Config{SnapshotEntries: 20, CatchUpEntries: 5})
	s.startAll()
	s.afterSnapshot()
	s.crash(1, crashfs.KeepAll)
	disk := s.disks[1]
	entries, err := disk.ReadDir(filepath.Join(simDir, "wal"))
	must(t, err)
	for _, e := range entries {
		must(t, disk.Remove(filepath.Join(simDir, "wal", e.Name())))
	}
	if _, err := s.tryStart(1); !errors.Is(err, ErrForgot) || !strings.Contains(err.Error(), filepath.Join(simDir, "wal")) {
		t.Errorf("it starts: %v", err)
	}
}
