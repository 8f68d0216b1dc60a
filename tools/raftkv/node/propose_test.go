package node

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// abandoned proposes a write whose caller does not wait.
func (n *simNode) abandoned(size int) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := n.put(ctx, "k", string(make([]byte, size)))
	return err
}

func TestRequestsThatNobodyWaitsForAreLetGoWithoutALeaderToo(t *testing.T) {
	s := newSim(t, 3, Config{})
	n := s.start(1) // one of three: there is no leader
	for range 100 {
		if err := n.abandoned(1 << 10); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	s.eventually("all to be let go", func() bool {
		held := make(chan int, 1)
		n.inbox.call(func() { held <- len(n.held) })
		return <-held == 0 && n.pending.len() == 0
	})
	n.pending.mu.Lock()
	defer n.pending.mu.Unlock()
	if n.pending.bytes != 0 {
		t.Errorf("%d bytes are still counted", n.pending.bytes)
	}
}

// What a peer sends is taken from its stream only as the loop gets on with it, so that peers cannot
// fill the memory with what they forward.
func TestAPeerWaitsOnceTheLoopHasEnoughOfItsBytes(t *testing.T) {
	var b inbox
	b.init()
	ended, stop := context.WithCancel(t.Context())
	stop()
	from := func(size int) error {
		m := &raftpb.Message{Type: raftpb.MsgProp.Enum(), Entries: []*raftpb.Entry{{Data: make([]byte, size)}}}
		return b.receive(ended, nil, m)
	}
	for range 2 { // also after all was taken
		if err := from(maxInboxBytes + 1); err != nil {
			t.Errorf("a large one alone: %v", err)
		}
		if err := from(1); !errors.Is(err, context.Canceled) {
			t.Errorf("one more does not wait: %v", err)
		}
		if err := from(0); !errors.Is(err, context.Canceled) {
			t.Errorf("one without bytes overtakes those that wait: %v", err)
		}
		b.take()
		for range 4 {
			if err := from(maxInboxBytes / 4); err != nil {
				t.Error(err)
			}
		}
		if err := from(1); !errors.Is(err, context.Canceled) {
			t.Errorf("beyond the bytes: %v", err)
		}
		if messages, _, _ := b.take(); len(messages) != 4 {
			t.Errorf("%d messages are taken", len(messages))
		}
	}
}

func TestARequestThatTheLogWouldNotTakeIsRefusedAndNobodyStops(t *testing.T) {
	s := newSim(t, 1, Config{MaxRequest: 20 << 20})
	n := s.start(1)
	s.leader()
	long := string(make([]byte, 10<<20))
	if _, err := n.put(timeout(t), "k", long); !errors.Is(err, ErrTooLarge) {
		t.Errorf("put: %v", err)
	}
	// Each of these bytes is six in JSON.
	c := member.Change{Member: member.Member{ID: 2, PeerURLs: []string{long[:2<<20]}}}
	if err := n.Reconfigure(timeout(t), raftpb.ConfChangeAddNode, 2, c); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a change of the members: %v", err)
	}
	if err := n.ReconfigureJoint(timeout(t), []Step{{raftpb.ConfChangeAddNode, 2, c}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("several changes of the members: %v", err)
	}
	if _, err := n.put(timeout(t), "k", long[:n.cfg.MaxRequest-100]); err != nil {
		t.Errorf("one that is just small enough: %v", err)
	}
	must(t, n.Err())
}

// The loop may hang on a disk that does. Its input stays in memory as long, also that of callers
// that no longer wait.
func TestWhileNothingIsTakenNoMoreIsLetInThanMayWait(t *testing.T) {
	const size, most = 1 << 10, 100 << 10
	s := newSim(t, 1, Config{})
	n := s.start(1)
	s.leader()
	n.pending.mu.Lock()
	n.pending.most = most
	n.pending.mu.Unlock()
	hung, release := make(chan struct{}), make(chan struct{})
	n.inbox.call(func() { close(hung); <-release })
	<-hung
	count, err := 0, error(nil)
	for ; err == nil || errors.Is(err, context.Canceled); count++ {
		if err = n.abandoned(size); count > most/size {
			break
		}
	}
	if !errors.Is(err, ErrTooMany) || count < most/size*9/10 {
		t.Errorf("%d requests were let in: %v", count-1, err)
	}
	n.pending.mu.Lock()
	n.pending.most = 1 << 30
	n.pending.mu.Unlock()
	for err = nil; err == nil || errors.Is(err, context.Canceled); count++ {
		if err = n.abandoned(0); count > maxPending {
			break
		}
	}
	if !errors.Is(err, ErrTooMany) {
		t.Errorf("%d small requests were let in: %v", count-1, err)
	}
	close(release)
	s.eventually("room", func() bool { _, err := n.put(timeout(t), "k", "v"); return err == nil })
	s.eventually("all to be let go", func() bool { return n.pending.len() == 0 })
}
