package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What a member writes is a log of etcd's, with etcd's requests in it: waldump prints it, and so
// does etcd's own tool.
func TestWaldumpAndEtcdsDumpToolReadTheLog(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	c.settle()
	for i := range 3 {
		if err := put(c.conn("n1"), fmt.Sprint("key-", i), fmt.Sprint("value-", i), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pb.NewKVClient(c.conn("n1")).DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("key-0")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n2 to have it all", func() bool { return c.count("n2") == 2 })
	dir, id := c.members["n2"].dir, fmt.Sprintf("%x", c.list()["n2"].GetID())
	if err := c.members["n2"].end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		command func(t *testing.T) *exec.Cmd
		want    []string // in this order
	}{
		{"waldump", func(t *testing.T) *exec.Cmd {
			program := filepath.Join(t.TempDir(), "waldump")
			build := exec.Command("go", "build", "-o", program, ".")
			build.Dir = "../waldump"
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return exec.Command(program, "dump", dir)
		}, []string{`metadata .*member ` + id + ` cluster`, `confchange add`, `confchange add`, `confchange add`, `member attributes of ` + id,
			`put "key-0" = "value-0"`, `put "key-1" = "value-1"`, `put "key-2" = "value-2"`, `delete "key-0"`}},
		{"etcd-dump-logs", func(t *testing.T) *exec.Cmd {
			return exec.Command(etcdTool(t, "etcd-dump-logs"), dir)
		}, []string{`nodeID=` + id + ` clusterID`, `conf\s+method=ConfChangeAddNode`, `conf\s+method=ConfChangeAddNode`, `conf\s+method=ConfChangeAddNode`,
			`cluster_member_attr_set:<.*name:"n[123]"`, `put:<key:"key-0" value:"value-0" >`, `put:<key:"key-1" value:"value-1" >`,
			`put:<key:"key-2" value:"value-2" >`, `delete_range:<key:"key-0" >`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := test.command(t).CombinedOutput()
			if err != nil {
				t.Errorf("%v", err)
			}
			if !regexp.MustCompile(`(?s)` + strings.Join(test.want, `.*\n.*`)).Match(out) {
				t.Errorf("it does not have, in this order,\n%s\nbut\n%s", strings.Join(test.want, "\n"), out)
			}
		})
	}
}
