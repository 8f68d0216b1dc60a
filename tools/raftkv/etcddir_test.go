package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// tree describes what is in a directory, to the last byte.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, sha256.Sum256(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The default of --data-dir is etcd's, so this mistake is easily made. What has a lease would be
// gone, and what a password guards would be open.
func TestADirectoryOfEtcdsIsRefusedAndLeftAsItIs(t *testing.T) {
	c := newCluster(t, []string{etcdTool(t, "etcd"), "--log-level", "error"}, 1, 0)
	c.start()
	eventually(t, "a write", func() bool { return put(c.conn("n1"), "plain", "v", time.Second) == nil })
	lease, err := pb.NewLeaseClient(c.conn("n1")).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 3600})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewKVClient(c.conn("n1")).Put(t.Context(), &pb.PutRequest{Key: []byte("leased"), Lease: lease.ID}); err != nil {
		t.Fatal(err)
	}
	m := c.members["n1"]
	_ = m.end(syscall.SIGKILL)
	before := tree(t, m.dir)

	c.program = raftkv()
	c.launch("n1")
	if err := c.ends("n1"); err == nil || !strings.Contains(m.log.String(), "member/snap/db is etcd's database") {
		t.Errorf("it ended with %v, and says\n%s", err, m.log.String())
	}
	if after := tree(t, m.dir); after != before {
		t.Errorf("the directory was\n%sand is\n%s", before, after)
	}
	// Also without the database the log tells.
	if err := os.Remove(filepath.Join(m.dir, "member", "snap", "db")); err != nil {
		t.Fatal(err)
	}
	m.log = journal{}
	c.launch("n1")
	if err := c.ends("n1"); err == nil || !strings.Contains(m.log.String(), "a request that raftkv cannot do") {
		t.Errorf("without the database it ended with %v, and says\n%s", err, m.log.String())
	}
}

func TestAMemberIsNotStartedInTheDirectoryOfAnother(t *testing.T) {
	c := newCluster(t, raftkv(), 1, 0)
	c.start()
	c.settle()
	m := c.members["n1"]
	_ = m.end(syscall.SIGKILL)
	m.extra = []string{"--name", "n2", "--initial-cluster", "n2=" + m.peer}
	c.launch("n1")
	if err := c.ends("n1"); err == nil || !strings.Contains(m.log.String(), `called "n1"`) && !strings.Contains(m.log.String(), `called \"n1\"`) {
		t.Errorf("it ended with %v, and says\n%s", err, m.log.String())
	}
	m.extra = nil
	c.start("n1")
}
