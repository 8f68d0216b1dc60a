package node

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// The figures of the Raft paper, on real logs: each member is given the log that the figure shows,
// after the entries that make the cluster, and starts from it.

// figure writes a log on a member's disk: what its cluster begins with, and an entry of each term.
func (s *sim) figure(id, term uint64, terms ...uint64) {
	s.t.Helper()
	begin := &Node{cfg: Config{Members: s.all}}
	state, entries, err := begin.begin()
	must(s.t, err)
	state.Term = term
	for _, t := range terms {
		index := uint64(len(entries) + 1)
		put := &pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: index}, Put: &pb.PutRequest{Key: fmt.Append(nil, "entry ", index), Value: fmt.Append(nil, "of term ", t)}}
		entries = append(entries, walpb.Entry{Term: t, Index: index, Data: marshal(put)})
	}
	metadata := marshal(&pb.Metadata{NodeID: &id, ClusterID: &s.cfg.ClusterID})
	w, err := wal.Create(filepath.Join(simDir, "wal"), metadata, &wal.Options{FS: s.disks[id]})
	must(s.t, err)
	must(s.t, w.Save(state, entries))
	must(s.t, w.Close())
}

// terms returns the terms in the log on a member's disk after a power cut, those of the figure and
// what came after.
func (s *sim) terms(id uint64) (terms []uint64) {
	s.t.Helper()
	disk := s.disks[id]
	if n := s.get(id); n != nil {
		disk = n.disk
	}
	l := promised(s.t, disk.Crash(crashfs.DropAll))
	for _, e := range l.Entries[len(s.all):] {
		terms = append(terms, e.Term)
	}
	return terms
}

// tick moves a member's clock on, alone, until a condition holds.
func (s *sim) tick(id uint64, what string, until func() bool) {
	s.t.Helper()
	s.eventually(what, func() bool {
		s.tickOnce(id)
		return until()
	})
}

func (s *sim) tickOnce(id uint64) {
	s.t.Helper()
	n := s.get(id)
	select {
	case s.ticks[id] <- time.Time{}:
	case <-n.stop:
		s.t.Fatalf("member %d stopped: %v", id, n.Err())
	}
}

func newFigure(t *testing.T, n int, noPreVote bool) *sim {
	// The clock moves on with every look at a condition, so an election must be many of its steps:
	// the leader has to hear from the others within one.
	s := newSim(t, n, Config{NoPreVote: noPreVote, ElectionTicks: 100})
	s.ticks = map[uint64]chan time.Time{}
	return s
}

func eachElection(t *testing.T, f func(t *testing.T, noPreVote bool)) {
	t.Run("with a pre-vote", func(t *testing.T) { f(t, false) })
	t.Run("without", func(t *testing.T) { f(t, true) })
}

func TestFigure7EveryFollowersLogBecomesTheLeaders(t *testing.T) {
	eachElection(t, func(t *testing.T, noPreVote bool) {
		s := newFigure(t, 7, noPreVote)
		s.figure(1, 7, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6)       // the leader of term 8 to be
		s.figure(2, 6, 1, 1, 1, 4, 4, 5, 5, 6, 6)          // (a)
		s.figure(3, 4, 1, 1, 1, 4)                         // (b)
		s.figure(4, 6, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6)    // (c)
		s.figure(5, 7, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7) // (d)
		s.figure(6, 4, 1, 1, 1, 4, 4, 4, 4)                // (e)
		s.figure(7, 3, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3)    // (f)
		s.startAll()
		s.tick(1, "the first member to lead", func() bool { return s.get(1).Status().Leader == 1 })
		if term := s.get(1).Status().Term; term != 8 {
			t.Errorf("it leads term %d", term)
		}
		want := []uint64{1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8}
		s.tick(1, "all members to have applied its log", func() bool {
			for id := uint64(1); id <= 7; id++ {
				if s.get(id).Status().Applied < uint64(7+len(want)) {
					return false
				}
			}
			return true
		})
		for id := uint64(1); id <= 7; id++ {
			if got := s.terms(id); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("member %d's log has the terms %v, want %v", id, got, want)
			}
		}
		sameState(t, s, 7)
	})
}

// value returns what a member has applied for an entry of the figure.
func value(t *testing.T, s *sim, id uint64, index int) string {
	t.Helper()
	resp, err := s.get(id).Store().Range(&pb.RangeRequest{Key: fmt.Append(nil, "entry ", len(s.all)+index)})
	must(t, err)
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func sameState(t *testing.T, s *sim, n uint64) {
	t.Helper()
	want, err := s.get(n).Store().View().Hash(0)
	must(t, err)
	for id := uint64(1); id < n; id++ {
		if m := s.get(id); m != nil {
			if got, err := m.Store().View().Hash(0); err != nil || got != want {
				t.Errorf("member %d has the state %v, and member %d %v (%v)", id, got, n, want, err)
			}
		}
	}
}

// An entry of an earlier term that a majority has is not committed by that, (c), and may yet be
// overwritten, (d).
func TestFigure8dAnEntryOfAnEarlierTermMayBeOverwrittenThoughAMajorityHasIt(t *testing.T) {
	eachElection(t, func(t *testing.T, noPreVote bool) {
		s := newFigure(t, 5, noPreVote)
		s.figure(1, 3, 1, 2)
		s.figure(2, 3, 1, 2)
		s.figure(3, 3, 1) // gets 2 from the first member
		s.figure(4, 3, 1)
		s.figure(5, 3, 1, 3)
		// (c): the first member leads term 4 and has the entry of term 2 on a majority. Its own of
		// term 4 reaches no other.
		s.edit = func(m *raftpb.Message) {
			if m.GetType() != raftpb.MsgApp {
				return
			}
			for i, e := range m.Entries {
				if e.GetTerm() == 4 {
					m.Entries = m.Entries[:i]
					return
				}
			}
		}
		s.partition(4, 5)
		for id := uint64(1); id <= 3; id++ {
			s.start(id)
		}
		s.tick(1, "the first member to lead", func() bool { return s.get(1).Status().Leader == 1 })
		s.tick(1, "a majority to have the entry of term 2", func() bool { return fmt.Sprint(s.terms(3)) == "[1 2]" })
		if term := s.get(1).Status().Term; term != 4 {
			t.Fatalf("it leads term %d, and the figure is of 4", term)
		}
		// A while of heartbeats, in which it could commit what it must not.
		for range 50 {
			s.tickOnce(1)
		}
		if got := s.get(1).Status().Committed; got >= 5+2 {
			t.Errorf("an entry of an earlier term was committed by counting its replicas: commit %d", got)
		}
		// (d): the first member crashes, and the fifth is elected by those who have less. (Its
		// followers too, as their clocks stand still here: they would wait for it for ever.)
		for id := uint64(1); id <= 3; id++ {
			s.crash(id, crashfs.DropAll)
		}
		s.mu.Lock()
		s.edit = nil
		s.mu.Unlock()
		s.partition(1) // also from what it has sent and none has got yet
		s.start(2)
		s.start(3)
		s.start(4)
		s.start(5)
		s.tick(5, "the fifth member to lead", func() bool { return s.get(5).Status().Leader == 5 })
		lead := s.get(5).Status().Term
		s.partition()
		s.start(1)
		want := fmt.Sprint([]uint64{1, 3, lead})
		s.tick(5, "all members to have its log", func() bool {
			for id := uint64(1); id <= 5; id++ {
				if s.get(id).Status().Applied < 5+3 {
					return false
				}
			}
			return true
		})
		for id := uint64(1); id <= 5; id++ {
			if got := fmt.Sprint(s.terms(id)); got != want {
				t.Errorf("member %d's log has the terms %s, want %s", id, got, want)
			}
			if got := value(t, s, id, 2); got != "of term 3" {
				t.Errorf("member %d applied %q as the second entry", id, got)
			}
		}
		sameState(t, s, 5)
	})
}

// Once an entry of the leader's own term is on a majority, (e), so is all before it, for good.
func TestFigure8eTheFifthMemberCannotBeElectedAgainstAMajority(t *testing.T) {
	eachElection(t, func(t *testing.T, noPreVote bool) {
		s := newFigure(t, 5, noPreVote)
		s.figure(1, 4, 1, 2, 4)
		s.figure(2, 4, 1, 2, 4)
		s.figure(3, 4, 1, 2, 4)
		s.figure(4, 4, 1)
		s.figure(5, 3, 1, 3)
		for id := uint64(2); id <= 5; id++ {
			s.start(id)
		}
		for range 1000 {
			s.tickOnce(5)
			if s.get(5).Status().Leader == 5 {
				t.Fatal("a member without the committed entries leads")
			}
		}
		s.tick(2, "the second member to lead", func() bool { return s.get(2).Status().Leader == 2 })
		s.start(1)
		s.tick(2, "all members to have its log", func() bool {
			for id := uint64(1); id <= 5; id++ {
				if s.get(id).Status().Applied < 5+4 {
					return false
				}
			}
			return true
		})
		for id := uint64(1); id <= 5; id++ {
			if got := s.terms(id); len(got) < 3 || fmt.Sprint(got[:3]) != "[1 2 4]" {
				t.Errorf("member %d's log has the terms %v", id, got)
			}
		}
		sameState(t, s, 5)
	})
}
