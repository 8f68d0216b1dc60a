package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
)

// wipe loses what a member that does not run has on its disk.
func (c *testCluster) wipe(name string) {
	c.t.Helper()
	if err := os.RemoveAll(filepath.Join(c.members[name].dir, "member")); err != nil {
		c.t.Fatal(err)
	}
}

// forgets starts a member and waits until it has ended because it has lost what it acknowledged.
func (c *testCluster) forgets(name string) {
	c.t.Helper()
	c.launch(name)
	if err := c.ends(name); err == nil {
		c.t.Errorf("%s ended as if nothing was wrong", name)
	}
	if log := c.members[name].log.String(); !strings.Contains(log, "this member has lost what it acknowledged before: remove it (etcdctl member remove ") {
		c.t.Errorf("%s does not say what it has lost, and what to do: %s", name, tail(log, 1000))
	}
}

// acknowledge writes keys through a member, and returns how many.
func (c *testCluster) acknowledge(name string) int64 {
	c.t.Helper()
	const keys = 20
	for i := range keys {
		eventually(c.t, "a write", func() bool { return put(c.conn(name), fmt.Sprint("k", i), "acknowledged", 2*time.Second) == nil })
	}
	return keys
}

func TestAMemberThatLostItsDiskIsRefusedUntilItIsAddedAgain(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	c.settle()
	keys := c.acknowledge("n1")
	n2 := c.members["n2"]
	_ = n2.end(syscall.SIGKILL)
	c.wipe("n2")
	// The flags it had at first, and those of one that joins.
	for _, existing := range []bool{false, true} {
		n2.existing = existing
		c.forgets("n2")
		if _, err := os.Stat(filepath.Join(n2.dir, "member")); err == nil {
			t.Error("it has made a directory")
		}
	}
	// The others go on, and with another ID it is welcome.
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	n2.existing = false
	id := c.list()["n2"].GetID()
	eventually(t, "its removal", func() bool {
		_, err := pb.NewClusterClient(c.conn(c.leads("n1", "n3"))).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		return err == nil || c.list()["n2"] == nil
	})
	c.launch("n2")
	if err := c.ends("n2"); err == nil || !strings.Contains(n2.log.String(), "was removed from the cluster") {
		t.Errorf("a member that was removed ended with %v:\n%s", err, tail(n2.log.String(), 1000))
	}
	n2.existing = true
	c.add("n2", false, "n1", "n3")
	c.start("n2")
	if got := c.count("n2"); got != keys {
		t.Errorf("it has %d keys of %d", got, keys)
	}
}

// Without what the wiped member had acknowledged a majority of it and a slow one could decide
// otherwise.
func TestAWipedMemberDoesNotHelpToForgetWhatWasAcknowledged(t *testing.T) {
	for _, test := range []struct {
		name string
		back func(c *testCluster, slow *exec.Cmd)
	}{
		{"the slow one answers when it is asked", func(c *testCluster, slow *exec.Cmd) {
			c.launch("n2")
			_ = slow.Process.Signal(syscall.SIGCONT)
		}},
		{"no member answers when it starts", func(c *testCluster, slow *exec.Cmd) {
			_ = c.members["n3"].end(syscall.SIGKILL)
			c.start("n2") // as if it were a new cluster
			c.launch("n3")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, raftkv(), 3, 0)
			c.start()
			c.settle()
			// The slow one has to know of the introductions after a restart as well: a commit is on
			// its disk once a later entry is.
			for range 3 {
				eventually(t, "a write", func() bool { return put(c.conn("n1"), "k0", "before", 2*time.Second) == nil })
				eventually(t, "n3 to have it", func() bool { return c.count("n3") == 1 })
			}
			slow := c.members["n3"].cmd
			_ = slow.Process.Signal(syscall.SIGSTOP)
			c.leads("n1", "n2")
			keys := c.acknowledge("n1")
			_ = c.members["n1"].end(syscall.SIGKILL)
			_ = c.members["n2"].end(syscall.SIGKILL)
			c.wipe("n2")
			test.back(c, slow)
			if err := c.ends("n2"); err == nil || !strings.Contains(c.members["n2"].log.String(), "lost what it acknowledged") {
				t.Errorf("it ended with %v:\n%s", err, tail(c.members["n2"].log.String(), 1000))
			}
			c.start("n1")
			for _, name := range []string{"n1", "n3"} {
				eventually(t, name+" to have what was acknowledged", func() bool { return c.count(name) == keys })
			}
		})
	}
}

func TestAMemberWhoseDiskWasPutBackToAnEarlierTimeIsNotHeard(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	c.settle()
	c.leads("n1", "n2", "n3")
	c.acknowledge("n1")
	_, follower := c.leader()
	f := c.members[follower]
	if err := f.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(c.dir, "copy")
	if err := os.CopyFS(copied, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	c.start(follower)
	c.acknowledge(follower)
	c.caughtUp(follower)
	_ = f.end(syscall.SIGKILL)
	c.wipe(follower)
	if err := os.Rename(filepath.Join(copied, "member"), filepath.Join(f.dir, "member")); err != nil {
		t.Fatal(err)
	}
	c.forgets(follower)
	said := false
	for _, m := range c.members { // the leader, which may be another by now
		said = said || strings.Contains(m.log.String(), "a member's log ends before what it has acknowledged")
	}
	if !said {
		t.Error("the leader does not say so")
	}
}

func TestALoneMemberWhoseLogIsGoneDoesNotStartFromNothing(t *testing.T) {
	c := newCluster(t, raftkv(), 1, 0, "--snapshot-count", "10", "--snapshot-catchup-entries", "5")
	c.start()
	c.acknowledge("n1")
	m := c.members["n1"]
	eventually(t, "a snapshot", func() bool { return strings.Contains(m.log.String(), "made a snapshot") })
	if err := m.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(m.dir, "member", "wal")); err != nil {
		t.Fatal(err)
	}
	c.forgets("n1")
}

// Who has just begun applies the members it was founded with one after another, and may be asked in
// between.
func TestAMemberThatOneDoesNotKnowYetWasNotRemoved(t *testing.T) {
	o := flagged(t, "--name=n1", "--initial-advertise-peer-urls=http://n1:1", "--initial-cluster=n1=http://n1:1,n2=http://n2:1,n3=http://n3:1")
	all, self, err := o.members()
	if err != nil {
		t.Fatal(err)
	}
	set := member.NewSet(all...)
	for _, test := range []struct {
		name  string
		known peer.Info
		is    error
		says  string
	}{
		{"no member answers", peer.Info{}, nil, ""},
		{"one that has just begun", peer.Info{ClusterID: set.ClusterID(), Members: []member.Member{{ID: 5}}}, nil, ""},
		{"a new cluster", peer.Info{ClusterID: set.ClusterID(), Members: all}, nil, ""},
		{"another cluster", peer.Info{ClusterID: 5, Members: []member.Member{{ID: self.ID, Name: "n1"}}, Removed: []uint64{self.ID}}, nil, ""},
		{"it has started before", peer.Info{ClusterID: set.ClusterID(), Members: []member.Member{{ID: self.ID, Name: "n1"}}}, node.ErrForgot, "there is no log"},
		{"it was removed", peer.Info{ClusterID: set.ClusterID(), Members: []member.Member{{ID: 5}}, Removed: []uint64{self.ID}}, nil, "was removed"},
	} {
		err := o.found(&node.Config{}, all, self, []peer.Info{test.known})
		if test.is != nil && !errors.Is(err, test.is) || (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
