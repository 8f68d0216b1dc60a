package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/tools/raftkv/member"
)

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestALoneMemberKeepsWhatItAcknowledgedThroughEveryPowerCut(t *testing.T) {
	s := newSim(t, 1, Config{SnapshotEntries: 40, CatchUpEntries: 10})
	rng := rand.New(rand.NewPCG(1, 1))
	acknowledged := 0
	for life := range 20 {
		n := s.start(1)
		s.leader()
		for i := range acknowledged {
			if got, err := n.read(timeout(t), fmt.Sprint(i)); err != nil || got != "v" {
				t.Fatalf("life %d: write %d of %d: %q, %v", life, i, acknowledged, got, err)
			}
		}
		for range 17 {
			if _, err := n.put(timeout(t), fmt.Sprint(acknowledged), "v"); err != nil {
				t.Fatal(err)
			}
			acknowledged++
		}
		s.crash(1, []crashfs.Chooser{crashfs.DropAll, crashfs.Random(rng), crashfs.Garbage(rng)}[life%3])
	}
}

// After a power cut the commit on the disk is older than what was acknowledged, and a lone member
// knows it only once it has decided something again.
func TestALoneMemberThatWasRestartedReadsNothingOlderThanItAcknowledged(t *testing.T) {
	s := newSim(t, 1, Config{})
	n := s.start(1)
	for i := range 3 {
		if _, err := n.put(timeout(t), "k", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	s.crash(1, crashfs.DropAll)
	// From the moment it leads, its disk hangs.
	leads, release := make(chan struct{}), make(chan struct{})
	disk := s.disks[1]
	s.cfg.Observer.LeaderChanged = func(leader uint64) {
		if leader == 1 {
			disk.SetFault(func(op crashfs.Op) error {
				if op.Kind == crashfs.OpSyncData {
					<-release
				}
				return nil
			})
			close(leads)
		}
	}
	n = s.start(1)
	select {
	case <-leads:
	case <-timeout(t).Done():
		t.Fatal("it does not lead")
	}
	short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if got, err := n.read(short, "k"); err == nil {
		t.Errorf("it reads %q before it can know", got)
	}
	close(release)
	if got, err := n.read(timeout(t), "k"); err != nil || got != "2" {
		t.Errorf("it reads %q (%v), and acknowledged 2", got, err)
	}
}

// No message that promises something leaves before the disk keeps the promise: at each one the
// power is cut, with all lost that may be, and the log is asked.
func TestNoPromiseIsMadeBeforeItIsKept(t *testing.T) {
	checkPromises(t, saboteur{}, func(complaints int64, votes, appends int64) {
		if complaints != 0 || votes == 0 || appends < 20 {
			t.Errorf("%d promises were not kept, of %d votes and %d appends", complaints, votes, appends)
		}
	})
}

func TestAPromiseBeforeTheSyncIsCaught(t *testing.T) {
	checkPromises(t, saboteur{ackBeforeSync: true}, func(complaints int64, votes, appends int64) {
		if complaints == 0 {
			t.Errorf("an acknowledgement before the sync went unnoticed, among %d votes and %d appends", votes, appends)
		}
	})
}

func checkPromises(t *testing.T, sab saboteur, verdict func(complaints, votes, appends int64)) {
	s := newSim(t, 3, Config{saboteur: sab, Tick: 40 * time.Millisecond, RequestTimeout: 10 * time.Second})
	var complaints, votes, appends atomic.Int64
	s.onSend = func(n *simNode, m *raftpb.Message) {
		switch m.GetType() {
		case raftpb.MsgVoteResp:
			if m.GetReject() {
				return
			}
			votes.Add(1)
			l := promised(t, n.disk.Crash(crashfs.DropAll))
			// It may have gone on to a later term since; never back to an earlier one.
			if l.State.Term < m.GetTerm() || l.State.Term == m.GetTerm() && l.State.Vote != m.GetTo() {
				complaints.Add(1)
			}
		case raftpb.MsgAppResp:
			if m.GetReject() {
				return
			}
			appends.Add(1)
			l := promised(t, n.disk.Crash(crashfs.DropAll))
			last := l.Snapshot.Index + uint64(len(l.Entries))
			if last < m.GetIndex() && l.State.Term == m.GetTerm() || l.State.Term < m.GetTerm() {
				complaints.Add(1)
			}
		}
	}
	s.startAll()
	n := s.leader()
	for i := range 30 {
		s.eventually("a write", func() bool { _, err := n.put(timeout(t), "k", fmt.Sprint(i)); n = s.leader(); return err == nil })
	}
	// And an election that is asked for, so that there are votes of more than one term.
	s.eventually("another leader", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // raft gives up sooner
		defer cancel()
		lead := s.leader()
		return lead.MoveLeader(ctx, lead.id%3+1) == nil
	})
	verdict(complaints.Load(), votes.Load(), appends.Load())
}

// As etcd, which has no time of its own for it: how long to wait is the client's affair.
func TestAHandoverIsWaitedForAsLongAsTheClientWaits(t *testing.T) {
	s := newSim(t, 3, Config{})
	s.startAll()
	lead := s.leader()
	to := lead.id%3 + 1
	s.partition(to)
	patience := 3 * lead.cfg.election()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	if err := lead.MoveLeader(ctx, to); !errors.Is(err, ErrNoTransfer) {
		t.Errorf("to one that cannot be reached: %v", err)
	}
	if took := time.Since(began); took < patience {
		t.Errorf("it was given up after %v of %v", took, patience)
	}
}

func TestAFollowerFarBehindGetsASnapshotAndTheSameState(t *testing.T) {
	s := newSim(t, 3, Config{SnapshotEntries: 50, CatchUpEntries: 5})
	s.startAll()
	lagging := s.leader().id%3 + 1
	s.crash(lagging, crashfs.KeepAll)
	for i := range 300 {
		if _, err := s.leader().put(timeout(t), fmt.Sprint("k", i%40), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	n := s.start(lagging)
	s.eventually("the follower to have a snapshot", func() bool { return n.Status().Snapshot > 200 })
	s.agree()
	// What it got is on its disk: it does not need the others to start again.
	s.crash(lagging, crashfs.DropAll)
	again := s.start(lagging)
	if got := again.Status().Applied; got < 200 {
		t.Errorf("after a power cut it starts at index %d", got)
	}
	s.agree()
}

func TestWhoWasRemovedBeforeASnapshotIsNoPeerBehindIt(t *testing.T) {
	s := newSim(t, 4, Config{SnapshotEntries: 50, CatchUpEntries: 5})
	s.startAll()
	lead := s.leader()
	lagging, gone := lead.id%4+1, (lead.id+1)%4+1
	s.eventually("the follower to have begun", func() bool { return len(s.get(lagging).Members().List()) == 4 })
	s.crash(lagging, crashfs.KeepAll)
	must(t, lead.Reconfigure(timeout(t), raftpb.ConfChangeRemoveNode, gone, member.Change{}))
	for i := range 300 {
		if _, err := s.leader().put(timeout(t), "k", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	n := s.start(lagging)
	s.eventually("the follower to have a snapshot", func() bool { return n.Status().Snapshot > 200 && n.Status().Applied > 200 })
	for id := uint64(1); id <= 4; id++ {
		if _, forgot := n.gone.Load(id); forgot != (id == gone) {
			t.Errorf("member %d: forgotten: %v, removed: %v", id, forgot, id == gone)
		}
	}
}

func TestANodeWhoseDiskFailsStopsAndTheOthersGoOn(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		t.Run(errno.Error(), func(t *testing.T) {
			s := newSim(t, 3, Config{})
			s.startAll()
			bad := s.leader()
			bad.disk.SetFault(func(op crashfs.Op) error {
				if op.Kind == crashfs.OpWrite || op.Kind == crashfs.OpSyncData {
					return errno
				}
				return nil
			})
			_, err := bad.put(timeout(t), "a", "1")
			if err == nil {
				t.Fatal("a leader acknowledged without a disk, before anyone else could have")
			}
			select {
			case <-bad.Failed():
			case <-timeout(t).Done():
				t.Fatal("it did not stop")
			}
			if !strings.Contains(bad.Err().Error(), errno.Error()) {
				t.Errorf("it says %q, and not why", bad.Err())
			}
			if _, err := bad.put(timeout(t), "a", "2"); err == nil {
				t.Error("it goes on serving")
			}
			s.eventually("another leader that takes writes", func() bool {
				for id := uint64(1); id <= 3; id++ {
					if n := s.get(id); n != bad {
						ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
						_, err := n.put(ctx, "a", "3")
						cancel()
						if err == nil {
							return true
						}
					}
				}
				return false
			})
			s.crash(bad.id, crashfs.DropAll)
			s.start(bad.id)
			s.agree()
		})
	}
}

func TestMembersAreAddedPromotedAndRemovedWhileWritesGoOn(t *testing.T) {
	s := newSim(t, 3, Config{SnapshotEntries: 50, CatchUpEntries: 5})
	s.startAll()
	lead := s.leader()
	stop := make(chan struct{})
	var writer sync.WaitGroup
	var written atomic.Int64
	writer.Add(1)
	go func() {
		defer writer.Done()
		for {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			if n := s.get(uint64(written.Load()%3 + 1)); n != nil {
				if _, err := n.put(ctx, "k", "v"); err == nil {
					written.Add(1)
				}
			}
			cancel()
		}
	}()
	s.eventually("a snapshot", func() bool { return written.Load() > 120 })
	fourth := member.Member{ID: 4, PeerURLs: []string{"http://4:1"}, IsLearner: true}
	must(t, lead.Reconfigure(timeout(t), raftpb.ConfChangeAddLearnerNode, 4, member.Change{Member: fourth}))
	s.disks[4] = crashfs.New()
	s.cfg.Bootstrap, s.cfg.Members = false, append(s.all, fourth)
	s.start(4)
	s.eventually("the learner to be ready", func() bool { return s.leader().Promotable(timeout(t), 4) == nil })
	must(t, s.leader().Reconfigure(timeout(t), raftpb.ConfChangeAddNode, 4, member.Change{Member: member.Member{ID: 4}, IsPromote: true}))
	gone := s.leader().id%3 + 1
	removed := s.get(gone)
	must(t, s.leader().Reconfigure(timeout(t), raftpb.ConfChangeRemoveNode, gone, member.Change{}))
	select {
	case <-removed.Failed():
	case <-timeout(t).Done():
		t.Error("the removed member goes on")
	}
	close(stop)
	writer.Wait()
	s.crash(gone, crashfs.KeepAll)
	s.agree()
	if got := len(s.leader().Members().List()); got != 3 {
		t.Errorf("%d members", got)
	}
	if err := s.leader().Reconfigure(timeout(t), raftpb.ConfChangeAddNode, gone, member.Change{Member: member.Member{ID: gone}}); err != member.ErrRemoved {
		t.Errorf("to add a removed member again: %v", err)
	}
}

func TestTwoMembersAreExchangedAtOnceThroughAJointConfiguration(t *testing.T) {
	s := newSim(t, 3, Config{})
	s.startAll()
	lead := s.leader()
	if _, err := lead.put(timeout(t), "a", "1"); err != nil {
		t.Fatal(err)
	}
	var steps []Step
	s.cfg.Bootstrap, s.cfg.Members = false, append([]member.Member(nil), s.all...)
	for id := uint64(4); id <= 5; id++ {
		m := member.Member{ID: id, PeerURLs: []string{fmt.Sprintf("http://%d:1", id)}}
		steps = append(steps, Step{raftpb.ConfChangeAddNode, id, member.Change{Member: m}})
		s.cfg.Members = append(s.cfg.Members, m)
		s.disks[id] = crashfs.New()
	}
	var out []uint64
	for id := uint64(1); id <= 3; id++ {
		if id != lead.id {
			steps = append(steps, Step{Type: raftpb.ConfChangeRemoveNode, ID: id})
			out = append(out, id)
		}
	}
	s.start(4)
	s.start(5)
	must(t, lead.ReconfigureJoint(timeout(t), steps))
	s.eventually("the time in between to be over", func() bool {
		in := make(chan bool, 1)
		lead.inbox.call(func() { in <- len(lead.raft.Status().Config.Voters[1]) == 0 })
		return <-in
	})
	for _, id := range out {
		removed := s.get(id)
		select {
		case <-removed.Failed():
		case <-timeout(t).Done():
			t.Fatalf("member %d goes on", id)
		}
		s.crash(id, crashfs.KeepAll)
	}
	s.agree()
	if got := len(lead.Members().List()); got != 3 {
		t.Errorf("%d members", got)
	}
}

func TestTheStateIsNotAddedToWhenItIsFull(t *testing.T) {
	s := newSim(t, 3, Config{Quota: 4 << 10})
	s.startAll()
	lead := s.leader()
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = lead.put(timeout(t), fmt.Sprint(i), strings.Repeat("x", 100))
	}
	if err != ErrNoSpace {
		t.Fatalf("%v", err)
	}
	s.eventually("all members to know", func() bool {
		for id := uint64(1); id <= 3; id++ {
			if len(s.get(id).Alarms()) == 0 {
				return false
			}
		}
		return true
	})
	if _, err := s.get(lead.id%3+1).put(timeout(t), "a", "b"); err != ErrNoSpace {
		t.Errorf("another member: %v", err)
	}
	// Deleting, compacting and taking the alarm back makes room.
	del := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	out, err := lead.Propose(timeout(t), &pb.InternalRaftRequest{DeleteRange: del})
	must(t, err)
	rev := out.(*pb.DeleteRangeResponse).Header.Revision
	_, err = lead.Propose(timeout(t), &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev}})
	must(t, err)
	a := lead.Alarms()[0]
	_, err = lead.Propose(timeout(t), &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm}})
	must(t, err)
	if _, err := lead.put(timeout(t), "a", "b"); err != nil {
		t.Errorf("after it was made room: %v", err)
	}
	s.agree()
}

// As in etcd.
func TestANegativeQuotaIsNone(t *testing.T) {
	s := newSim(t, 1, Config{Quota: -1})
	s.startAll()
	if _, err := s.leader().put(timeout(t), "a", "b"); err != nil {
		t.Error(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
