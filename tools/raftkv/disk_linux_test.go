package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A member whose disk takes no more writes ends and says why, the others go on, and when there is
// room again it catches up.
func TestAMemberWhoseDiskTakesNoMoreStopsAndSaysSoAndTheOthersGoOn(t *testing.T) {
	t.Run("a full file system", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED: not root, which alone can mount a small file system")
		}
		c := diskCluster(t)
		m := c.members["n2"]
		if err := os.MkdirAll(m.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", m.dir, "tmpfs", 0, "size=4m"); err != nil {
			t.Skipf("SKIPPED: no file system can be mounted here: %v", err)
		}
		t.Cleanup(func() {
			_ = m.end(syscall.SIGKILL)
			if err := unix.Unmount(m.dir, 0); err != nil {
				t.Error(err)
			}
		})
		ballast := filepath.Join(m.dir, "ballast")
		loseADisk(t, c, m, unix.ENOSPC, func() {
			if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); err == nil {
				t.Fatal("it was not filled")
			}
		}, func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("a limit on the size of files", func(t *testing.T) {
		c := diskCluster(t)
		m := c.members["n2"]
		loseADisk(t, c, m, unix.EFBIG, func() {
			limit := unix.Rlimit{Cur: 4096, Max: 4096}
			if err := unix.Prlimit(m.cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
				t.Fatal(err)
			}
		}, func() {}) // the limit was the process's
	})
}

func diskCluster(t *testing.T) *testCluster {
	return newCluster(t, raftkv(), 3, 0, "--wal-segment-bytes", "65536", "--snapshot-count", "1000000")
}

// loseADisk has a member, who leads, find out that its disk takes no more.
func loseADisk(t *testing.T, c *testCluster, m *testMember, errno syscall.Errno, lose, restore func()) {
	t.Helper()
	c.start()
	c.settle()
	eventually(t, m.name+" to lead", func() bool {
		leader := c.leads(c.names()...)
		if leader != m.name {
			c.move(leader, m.name)
		}
		return leader == m.name
	})
	write := func(name string, i int) error {
		return put(c.conn(name), fmt.Sprint("k", i), strings.Repeat("v", 2000), 5*time.Second)
	}
	if err := write("n2", 0); err != nil {
		t.Fatal(err)
	}
	lose()
	acknowledged := 0
	for write("n2", acknowledged+1) == nil {
		if acknowledged++; acknowledged > 10_000 {
			t.Fatal("it goes on")
		}
	}
	t.Logf("it ended after %d writes", acknowledged)
	if err := c.ends(m.name); err == nil {
		t.Error("it ended as if nothing was wrong")
	}
	said := m.log.String()
	for _, want := range []string{"level=ERROR msg=\"the node stops\"", errno.Error()} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, tail(said, 1000))
		}
	}
	c.leads("n1", "n3")
	for i := range 50 {
		eventually(t, "a write by the others", func() bool { return write([]string{"n1", "n3"}[i%2], 20_000+i) == nil })
	}
	restore()
	c.start(m.name)
	c.caughtUp(m.name)
	// The write that failed may be there.
	eventually(t, "what was acknowledged", func() bool { n := int(c.count(m.name)) - 51 - acknowledged; return n == 0 || n == 1 })
}
