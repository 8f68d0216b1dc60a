package node

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

// A leader may still hold a question of a member's earlier life, and answers it when it next can:
// with the commit of back then.
func TestAReadTakesNoAnswerToAQuestionOfAnEarlierLife(t *testing.T) {
	s := newFigure(t, 3, false)
	s.startAll()
	s.tick(1, "a leader", func() bool {
		for id := uint64(1); id <= 3; id++ {
			if s.get(id).Status().Leader != 1 {
				return false
			}
		}
		return true
	})
	lead, f := s.get(1), s.get(2)
	if _, err := lead.put(timeout(t), "k", "old"); err != nil {
		t.Fatal(err)
	}
	s.tick(1, "the follower to have it", func() bool { return f.Status().Applied == lead.Status().Applied })

	var held atomic.Uint64 // questions that the leader has asked the others about
	// What they say to that is lost; what is appended does not reach the follower.
	unheard, cutOff := true, false
	s.mu.Lock()
	s.edit = func(m *raftpb.Message) {
		switch {
		case m.GetType() == raftpb.MsgHeartbeat && len(m.Context) == 8:
			held.Store(binary.LittleEndian.Uint64(m.Context))
		case m.GetType() == raftpb.MsgHeartbeatResp && len(m.Context) > 0 && unheard, m.GetType() == raftpb.MsgApp && m.GetTo() == 2 && cutOff:
			m.Type = raftpb.MsgHup.Enum() // which no member takes from a peer
		}
	}
	s.mu.Unlock()

	ended := make(chan struct{})
	go func(f *simNode) {
		defer close(ended)
		_, _ = f.read(timeout(t), "k") // it will not hear the answer
	}(f)
	s.eventually("the leader to hold the question", func() bool { return held.Load() == 1 })
	s.crash(2, crashfs.KeepAll)
	<-ended
	s.mu.Lock()
	cutOff = true
	s.mu.Unlock()
	if _, err := lead.put(timeout(t), "k", "new"); err != nil {
		t.Fatal(err)
	}

	f = s.start(2)
	s.tick(1, "the follower to know the leader again", func() bool { return f.Status().Leader == 1 })
	got := make(chan string, 1)
	go func() {
		v, _ := f.read(timeout(t), "k") // an error is no "new" either
		got <- v
	}()
	s.eventually("the leader to hold both questions", func() bool { return held.Load() == 2 })
	s.mu.Lock()
	unheard = false
	s.mu.Unlock()
	s.tick(1, "an answer", func() bool {
		in := make(chan bool, 1)
		f.inbox.call(func() { in <- f.reads.asked == nil })
		return <-in
	})
	f.applier.mu.Lock()
	waiting := len(f.applier.waiting)
	f.applier.mu.Unlock()
	if waiting != 1 {
		t.Error("it reads a state without what was acknowledged before it asked")
	}
	s.mu.Lock()
	cutOff = false
	s.mu.Unlock()
	s.tick(1, "the follower to have all", func() bool { return f.Status().Applied == lead.Status().Applied })
	if v := <-got; v != "new" {
		t.Errorf("it reads %q", v)
	}
}
