package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A follower that lags too far for the log gets a snapshot, over a network on which no connection
// lasts for even half of it.
func TestASnapshotWhoseTransferBreaksGoesOnWhereItStopped(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0, "--snapshot-count", "50", "--snapshot-catchup-entries", "5", "--wal-segment-bytes", "1048576")
	m := newMesh(c)
	c.start()
	leader, lagging := c.leader()
	_ = c.members[lagging].end(syscall.SIGKILL)
	const keys, size = 110, 32 << 10
	value := strings.Repeat("v", size)
	for i := range keys {
		if err := put(c.conn(leader), fmt.Sprint("k", i), value, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range m.between(c.names(), []string{lagging}) {
		l.set(func(r *rules) { r.each = 1 << 20 })
	}
	c.start(lagging)
	c.caughtUp(lagging)
	if !strings.Contains(c.members[lagging].log.String(), "restored snapshot") {
		t.Error("it caught up without a snapshot")
	}
	breaks := 0
	for line := range strings.Lines(c.members[leader].log.String()) {
		if strings.Contains(line, "did not take a snapshot") {
			breaks++
		}
	}
	t.Logf("it took %d breaks", breaks)
	if breaks < 2 {
		t.Errorf("the transfer broke %d times: this shows nothing", breaks)
	}
}
