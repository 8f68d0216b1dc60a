package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// add has a cluster take a member, which does not run yet.
func (c *testCluster) add(name string, learner bool, through ...string) {
	c.t.Helper()
	eventually(c.t, name+" to be added", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := pb.NewClusterClient(c.conn(c.leads(through...))).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{c.members[name].peer}, IsLearner: learner})
		// An answer may have been lost.
		return err == nil || strings.Contains(err.Error(), "peerURL exists")
	})
}

// A cluster of one that has made a snapshot is the one of which most begin.
func TestALoneMemberThatHasMadeASnapshotGrowsToTwoAndBack(t *testing.T) {
	for _, learner := range []bool{false, true} {
		t.Run(fmt.Sprintf("learner: %t", learner), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, raftkv(), 1, 1, "--snapshot-count", "100", "--snapshot-catchup-entries", "10")
			c.start()
			for i := range 150 {
				eventually(t, "a write", func() bool { return put(c.conn("n1"), fmt.Sprint(i), "v", time.Second) == nil })
			}
			eventually(t, "a snapshot", func() bool { return strings.Contains(c.members["n1"].log.String(), "made a snapshot") })
			c.add("n2", learner, "n1")
			c.start("n2")
			c.caughtUp("n2")
			if sent := strings.Count(c.members["n1"].log.String(), "sent a snapshot"); sent > 3 {
				t.Errorf("%d snapshots were sent to one member", sent)
			}
			// Both survive a restart, and one leaves again.
			for _, name := range c.names() {
				_ = c.members[name].end(syscall.SIGKILL)
			}
			c.start("n1", "n2")
			eventually(t, "a write", func() bool { return put(c.conn("n1"), "both", "v", 2*time.Second) == nil })
			eventually(t, "the removal", func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_, err := pb.NewClusterClient(c.conn("n1")).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: c.list()["n2"].GetID()})
				return err == nil || c.list()["n2"] == nil
			})
			_ = c.members["n2"].end(syscall.SIGKILL)
			_ = c.members["n1"].end(syscall.SIGKILL)
			c.start("n1")
			eventually(t, "a write of one alone", func() bool { return put(c.conn("n1"), "alone", "v", 2*time.Second) == nil })
			if got := c.count("n1"); got != 152 {
				t.Errorf("%d keys", got)
			}
		})
	}
}
