package raft

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stele-wal/stele/tools/raftkv/node"
)

// A cluster is some peers on the loopback interface, and for each what came out of its channel,
// from the beginning on.
type cluster struct {
	t     *testing.T
	dir   string
	urls  []string
	peers []*peerUnderTest
	every int // a peer makes a snapshot of what came out after so many commands; 0 for never
}

type peerUnderTest struct {
	rf    *Raft
	ended chan struct{} // closed when the channel is

	mu   sync.Mutex
	seen []ApplyMsg // what came out in this life
	all  []string   // the commands, those of a snapshot before those that came out
	last uint64     // the index of the last one
	err  error      // of a snapshot
}

func newCluster(t *testing.T, n, every int) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), every: every}
	var listeners []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		c.urls = append(c.urls, "http://"+l.Addr().String())
		c.peers = append(c.peers, nil)
	}
	for _, l := range listeners {
		l.Close()
	}
	t.Cleanup(func() {
		for i := range c.peers {
			c.kill(i)
		}
	})
	for i := range n {
		c.start(i)
	}
	return c
}

func (c *cluster) start(i int) {
	c.t.Helper()
	applied := make(chan ApplyMsg)
	rf, err := Make(c.urls, i, filepath.Join(c.dir, fmt.Sprint(i)), applied, &Options{Tick: 20 * time.Millisecond})
	if err != nil {
		c.t.Fatal(err)
	}
	p := &peerUnderTest{rf: rf, ended: make(chan struct{})}
	c.peers[i] = p
	go func() {
		defer close(p.ended)
		for m := range applied {
			p.take(m, c.every)
		}
	}()
}

// take does as a service does. Its state is the list of all commands.
func (p *peerUnderTest) take(m ApplyMsg, every int) {
	p.mu.Lock()
	p.seen = append(p.seen, m)
	if m.SnapshotValid {
		p.all, p.last = strings.Split(string(m.Snapshot), ","), m.SnapshotIndex
	} else {
		p.all, p.last = append(p.all, string(m.Command)), m.CommandIndex
	}
	state, due := strings.Join(p.all, ","), every > 0 && m.CommandValid && len(p.all)%every == 0
	p.mu.Unlock()
	if due {
		err := p.rf.Snapshot(m.CommandIndex, []byte(state))
		p.mu.Lock()
		if err != nil && !errors.Is(err, node.ErrStopped) && p.err == nil {
			p.err = err
		}
		p.mu.Unlock()
	}
}

func (p *peerUnderTest) commands() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

func (c *cluster) kill(i int) {
	c.t.Helper()
	p := c.peers[i]
	if p == nil {
		return
	}
	c.peers[i] = nil
	if err := p.rf.Kill(); err != nil {
		c.t.Errorf("peer %d: %v", i, err)
	}
	<-p.ended
	if _, _, leads := p.rf.Start([]byte("late")); leads {
		c.t.Errorf("peer %d takes commands after it was killed", i)
	}
	if p.err != nil {
		c.t.Errorf("peer %d: snapshot: %v", i, p.err)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-look.C {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

// agree has a command committed, on any leader, and waits until it has come out everywhere. It is
// as the labs' one().
func (c *cluster) agree(command string) {
	c.t.Helper()
	eventually(c.t, command, func() bool {
		for i, p := range c.peers {
			if p == nil {
				continue
			}
			index, _, isLeader := p.rf.Start([]byte(command))
			if !isLeader {
				continue
			}
			found := false
			eventually(c.t, fmt.Sprintf("index %d, which peer %d gave %s", index, i, command), func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				for _, m := range p.seen {
					found = found || m.CommandIndex == index && string(m.Command) == command
				}
				term, leads := p.rf.GetState()
				return found || p.last >= index || !leads || term == 0
			})
			return found
		}
		return false
	})
	for i, p := range c.peers {
		if p != nil {
			eventually(c.t, fmt.Sprintf("%s at peer %d", command, i), func() bool {
				all := p.commands()
				return len(all) > 0 && all[len(all)-1] == command
			})
		}
	}
}

// same checks that all peers saw the same commands.
func (c *cluster) same(n int) {
	c.t.Helper()
	var want []string
	for i, p := range c.peers {
		if p == nil {
			continue
		}
		got := p.commands()
		if want == nil {
			want = got
		}
		if strings.Join(got, ",") != strings.Join(want, ",") {
			c.t.Errorf("peer %d saw %v, another %v", i, got, want)
		}
	}
	// One whose leader was lost was begun again, and may be there twice.
	if got := len(slices.Compact(slices.Sorted(slices.Values(want)))); got != n {
		c.t.Errorf("%d commands, want %d: %v", got, n, want)
	}
}

// leader returns the peer that leads, waiting for one.
func (c *cluster) leader() (leader int) {
	c.t.Helper()
	eventually(c.t, "a leader", func() bool {
		var newest uint64
		leader = -1
		for i, p := range c.peers {
			if p != nil {
				if term, leads := p.rf.GetState(); leads && term > newest {
					leader, newest = i, term
				}
			}
		}
		return leader >= 0
	})
	return leader
}

func TestPeersAgreeAndGoOnWhenTheLeaderIsKilledAndComesBack(t *testing.T) {
	c := newCluster(t, 3, 0)
	for i := range 5 {
		c.agree(fmt.Sprint("a", i))
	}
	for round := range 3 {
		leader := c.leader()
		c.kill(leader)
		c.agree(fmt.Sprint("without", round))
		c.start(leader)
		c.agree(fmt.Sprint("with", round))
	}
	c.same(5 + 2*3)
	for i := range c.peers {
		c.kill(i)
	}
	for i := range c.peers {
		c.start(i) // without a snapshot all comes out again
	}
	c.agree("after all were down")
	c.same(5 + 2*3 + 1)
}

func TestAPeerStartsFromItsSnapshotAndOneFarBehindIsSentOne(t *testing.T) {
	c := newCluster(t, 3, 100)
	c.agree("first")
	lagging := (c.leader() + 1) % 3
	c.kill(lagging)
	const more = 5100 // more than are kept for those that lag
	for i := 0; i < more; {
		leader := c.peers[c.leader()]
		if _, _, isLeader := leader.rf.Start(fmt.Append(nil, i)); isLeader {
			i++
		}
	}
	eventually(t, "all of them", func() bool { return len(c.peers[c.leader()].commands()) > more })
	if bytes := c.peers[c.leader()].rf.PersistBytes(); bytes > 100*4 {
		t.Errorf("after a snapshot every hundred commands there are %d bytes of them", bytes)
	}
	c.start(lagging)
	c.agree("second")
	c.same(more + 2)
	snapshots := func(i int) (n int) {
		p := c.peers[i]
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, m := range p.seen {
			if m.SnapshotValid {
				n++
			}
		}
		return n
	}
	if snapshots(lagging) == 0 {
		t.Error("the one that lagged caught up without a snapshot")
	}
	other := (lagging + 1) % 3
	c.kill(other)
	c.start(other)
	c.agree("third")
	if snapshots(other) != 1 || !c.peers[other].seen[0].SnapshotValid {
		t.Error("it does not start from its snapshot")
	}
	c.same(more + 3)
}

func TestWhatCannotBeStartedIsNotTaken(t *testing.T) {
	c := newCluster(t, 3, 0)
	c.agree("a")
	leader := c.leader()
	index, term, leads := c.peers[(leader+1)%3].rf.Start([]byte("b"))
	if leads || index != 0 || term == 0 {
		t.Errorf("a follower takes it: index %d, term %d, %v", index, term, leads)
	}
	rf := c.peers[leader].rf
	if _, _, leads := rf.Start(bytes.Repeat([]byte("b"), 2<<20)); leads {
		t.Error("a command of 2 MiB is taken")
	}
	if err := rf.Snapshot(1<<40, nil); err == nil {
		t.Error("a snapshot of what did not come out is taken")
	}
	c.kill(leader)
	if err := rf.Snapshot(1, nil); !errors.Is(err, node.ErrStopped) {
		t.Errorf("a snapshot after the end: %v", err)
	}
	// Without a majority nothing comes out.
	c.kill((leader + 1) % 3)
	last := c.peers[(leader+2)%3]
	_, _, _ = last.rf.Start([]byte("c"))
	c.start(leader)
	c.agree("d")
	if all := c.peers[leader].commands(); strings.Join(all, ",") != "a,d" && strings.Join(all, ",") != "a,c,d" {
		t.Errorf("%v came out", all)
	}
	if _, err := Make(c.urls, 3, t.TempDir(), nil, nil); err == nil {
		t.Error("there is no fourth peer")
	}
	if _, err := Make([]string{"localhost:1"}, 0, t.TempDir(), nil, nil); err == nil {
		t.Error("a peer must be a URL")
	}
}
