package node

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
)

// afterSnapshot writes until the leader has made another snapshot, and lets go of the log before
// it.
func (s *sim) afterSnapshot() *simNode {
	s.t.Helper()
	lead := s.leader()
	before := lead.Status().Snapshot
	s.eventually("a snapshot", func() bool {
		lead = s.leader()
		_, err := lead.put(timeout(s.t), "filler", "v")
		first, _ := lead.storage.FirstIndex()
		return err == nil && lead.Status().Snapshot > before && first > uint64(len(s.all))
	})
	return lead
}

// newMember returns a member that no other knows, and gives it a disk.
func (s *sim) newMember(learner bool) member.Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := uint64(len(s.disks) + 1)
	s.disks[id] = crashfs.New()
	return member.Member{ID: id, PeerURLs: []string{fmt.Sprintf("http://%d:1", id)}, IsLearner: learner}
}

func adding(m member.Member) raftpb.ConfChangeType {
	if m.IsLearner {
		return raftpb.ConfChangeAddLearnerNode
	}
	return raftpb.ConfChangeAddNode
}

// join starts a member that was added.
func (s *sim) join(m member.Member) *simNode {
	s.t.Helper()
	s.cfg.Bootstrap, s.cfg.Members = false, append(slices.Clone(s.all), m)
	defer func() { s.cfg.Bootstrap, s.cfg.Members = true, s.all }()
	return s.start(m.ID)
}

// Nothing is written after the snapshot but the change itself, so that no other is made for any
// other reason.
func TestAMemberThatIsAddedRightAfterASnapshotJoins(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5} {
		for _, learner := range []bool{false, true} {
			t.Run(fmt.Sprintf("to %d, learner: %t", size, learner), func(t *testing.T) {
				t.Parallel()
				s := newSim(t, size, Config{SnapshotEntries: 50, CatchUpEntries: 5})
				s.startAll()
				lead := s.afterSnapshot()
				m := s.newMember(learner)
				must(t, lead.Reconfigure(timeout(t), adding(m), m.ID, member.Change{Member: m}))
				n := s.join(m)
				s.eventually("it to have caught up", func() bool { return n.Status().Applied >= s.leader().Status().Applied && n.Status().Applied > 50 })
				if sent := s.sent.Load(); sent > 3 { // one, but for a change of leaders meanwhile
					t.Errorf("%d snapshots were sent to one member", sent)
				}
				if _, ok := n.Members().Get(m.ID); !ok {
					t.Error("it does not know itself")
				}
				s.agree()
			})
		}
	}
}

// What could not be taken is sent again, but not in a loop.
func TestASnapshotThatAMemberCannotTakeIsSentAgainAfterAPause(t *testing.T) {
	s := newSim(t, 1, Config{SnapshotEntries: 50, CatchUpEntries: 5})
	s.ticks = map[uint64]chan time.Time{}
	s.startAll()
	s.ticks[1] <- time.Now() // it stands for election
	lead := s.afterSnapshot()
	m := s.newMember(true)
	must(t, lead.Reconfigure(timeout(t), adding(m), m.ID, member.Change{Member: m}))
	n := s.join(m)
	n.disk.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpCreate {
			return syscall.ENOSPC
		}
		return nil
	})
	var at []int // ticks, of each attempt
	ticks := 0
	tick := func() {
		s.ticks[1] <- time.Now()
		ticks++
		if sent := int(s.sent.Load()); sent > len(at) {
			at = append(at, ticks)
		}
	}
	s.eventually("four attempts", func() bool { tick(); return len(at) >= 4 })
	for i := range at[1:] {
		if pause := at[i+1] - at[i]; pause < lead.cfg.ElectionTicks-1 {
			t.Errorf("after %d ticks it is sent again", pause)
		}
	}
	n.disk.SetFault(nil)
	s.eventually("it to have caught up", func() bool { tick(); return n.Status().Applied >= lead.Status().Applied })
}

// What cannot be made is not made in a loop either, and members are not held up by it for good.
func TestASnapshotThatCannotBeMadeIsTriedAgainAfterAPause(t *testing.T) {
	s := newSim(t, 1, Config{SnapshotEntries: 50, CatchUpEntries: 5})
	s.ticks = map[uint64]chan time.Time{}
	var failed atomic.Int64
	s.cfg.Observer.Snapshot = func(_ time.Duration, err error) {
		if err != nil {
			failed.Add(1)
		}
	}
	s.startAll()
	s.ticks[1] <- time.Now() // it stands for election
	lead := s.afterSnapshot()
	m := s.newMember(true)
	must(t, lead.Reconfigure(timeout(t), adding(m), m.ID, member.Change{Member: m}))
	lead.disk.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpCreate {
			return syscall.ENOSPC
		}
		return nil
	})
	n := s.join(m)
	var at []int
	ticks := 0
	tick := func() {
		s.ticks[1] <- time.Now()
		ticks++
		if int(failed.Load()) > len(at) {
			at = append(at, ticks)
		}
	}
	s.eventually("two attempts", func() bool { tick(); return len(at) >= 2 })
	if pause := at[1] - at[0]; pause < failedSnapshots*lead.cfg.ElectionTicks-1 {
		t.Errorf("after %d ticks it is made again", pause)
	}
	lead.disk.SetFault(nil)
	s.eventually("it to have caught up", func() bool { tick(); return n.Status().Applied >= lead.Status().Applied })
}

// received has a body come to a member as from another, and then the message.
func received(t *testing.T, n *simNode, h Head, m *raftpb.Message) error {
	t.Helper()
	w, err := n.ResumeSnapshot(snap.NewBody(record(m.GetSnapshot())))
	must(t, err)
	must(t, WriteState(w, h, mvcc.New().View()))
	must(t, w.Commit())
	return n.ReceivedSnapshot(m)
}

// snapshotOf returns a message with a snapshot from the other of two members.
func snapshotOf(n *simNode, index uint64, conf *raftpb.ConfState) *raftpb.Message {
	term := n.Status().Term + 1
	return &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(3 - n.id), To: &n.id, Term: &term, Snapshot: &raftpb.Snapshot{
		Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: conf}}}
}

// A snapshot that does not have the member it is sent to is no success of the transfer.
func TestASnapshotThatIsNotRestoredIsAFailure(t *testing.T) {
	s := newSim(t, 2, Config{})
	s.startAll()
	n := s.leader()
	m := snapshotOf(n, 1000, &raftpb.ConfState{Voters: []uint64{7}})
	if err := received(t, n, Head{ClusterID: s.cfg.ClusterID, Index: 1000, Members: member.NewSet()}, m); !errors.Is(err, ErrNotRestored) {
		t.Errorf("%v", err)
	}
	s.agree()
}

// The answer to a snapshot may be lost, and raft needs one to go on: the same snapshot is answered
// again, and replaces nothing.
func TestASnapshotThatIsNotNeededAnyMoreIsAnswered(t *testing.T) {
	s := newSim(t, 3, Config{SnapshotEntries: 50, CatchUpEntries: 5})
	s.startAll()
	lead := s.leader()
	lagging := lead.id%3 + 1
	s.crash(lagging, crashfs.KeepAll)
	lead = s.afterSnapshot()
	// Nothing that it answers arrives, until the snapshot has been sent twice.
	s.mu.Lock()
	for _, m := range s.all {
		s.cut[[2]uint64{lagging, m.ID}] = true
	}
	s.mu.Unlock()
	n := s.start(lagging)
	m := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: &lead.id, To: &lagging, Term: new(lead.Status().Term)}
	var err error
	m.Snapshot, err = lead.storage.Snapshot()
	must(t, err)
	for range 2 {
		sent := make(chan error, 1)
		lead.SendSnapshot(m, func() (*snap.Reader, error) { return lead.snapshots.OpenBody(m.Snapshot.Metadata.GetIndex()) }, func(err error) { sent <- err })
		must(t, <-sent)
		s.eventually("it to be restored", func() bool { return n.Status().Snapshot == m.Snapshot.Metadata.GetIndex() })
	}
	s.partition()
	s.agree()
}

// With the other voter its say is gone, so the one that remains has to know on its own that it was
// removed.
func TestARemovalThatWasAnsweredSurvivesAPowerCutWithoutTheRemoved(t *testing.T) {
	s := newSim(t, 2, Config{})
	s.startAll()
	n := s.leader()
	gone := 3 - n.id
	must(t, n.Reconfigure(timeout(t), raftpb.ConfChangeRemoveNode, gone, member.Change{}))
	s.crash(n.id, crashfs.DropAll)
	s.crash(gone, crashfs.DropAll)
	again := s.start(n.id)
	if _, err := again.put(timeout(t), "k", "v"); err != nil {
		t.Errorf("a write: %v", err)
	}
}
