package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/stele-wal/stele/tools/raftkv/peer"
)

var verbose = flag.Bool("members", false, "let the members of test clusters log to the standard error")

// A test binary that finds this in its environment is raftkv: so that tests need not build it.
const beRaftkv = "RAFTKV_TEST_IS_RAFTKV"

func TestMain(m *testing.M) {
	if os.Getenv(beRaftkv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// enough is for how long something may take that is sure to happen, on a machine that has other
// things to do.
const enough = 60 * time.Second

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(enough); !holds(); <-look.C {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

// A testCluster is processes on the loopback interface: raftkv, or etcd, which takes the same
// flags.
type testCluster struct {
	t       testing.TB
	program []string // and its first arguments
	dir     string
	members map[string]*testMember
	extra   []string

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // of conn
}

// A testMember is one of them.
type testMember struct {
	name, dir, client, peer string
	listen                  string   // for peers, if that is not what it advertises
	existing                bool     // it is no founder
	replaced                bool     // it has the place of a founder that was lost, and joins
	wrapper                 []string // a program that runs it
	env, extra              []string
	cmd                     *exec.Cmd     // nil while it does not run
	exited                  chan struct{} // closed when the process has ended
	err                     error         // why, once it is closed
	log                     journal
}

// journal is what a process said. It may be read while the process goes on.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// newCluster returns a cluster of n members, and chooses addresses for spare ones. Nothing runs
// yet.
func newCluster(t testing.TB, program []string, n, spare int, extra ...string) *testCluster {
	t.Helper()
	c := &testCluster{t: t, program: program, dir: t.TempDir(), members: map[string]*testMember{}, extra: extra, conns: map[string]*grpc.ClientConn{}}
	var listeners []net.Listener
	free := func() string {
		l, err := net.Listen("tcp", loopback()+":0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		return "http://" + l.Addr().String()
	}
	for i := range n + spare {
		name := fmt.Sprintf("n%d", i+1)
		c.members[name] = &testMember{name: name, dir: filepath.Join(c.dir, name), client: free(), peer: free(), existing: i >= n}
	}
	for _, l := range listeners {
		l.Close()
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			_ = m.end(syscall.SIGKILL)
		}
		if t.Failed() && program[0] == os.Args[0] {
			for _, m := range c.members {
				t.Logf("the log of %s ends so:\n%s", m.name, tail(m.log.String(), 3000))
			}
		}
	})
	return c
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

func raftkv() []string { return []string{os.Args[0], "serve"} }

func (c *testCluster) names() []string {
	var names []string
	for name := range c.members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// founders are the members that belong to it from the beginning.
func (c *testCluster) founders() []string {
	return slices.DeleteFunc(c.names(), func(name string) bool { return c.members[name].existing })
}

// start starts members, by default the founders, and waits until they serve.
func (c *testCluster) start(names ...string) {
	c.t.Helper()
	if len(names) == 0 {
		names = c.founders()
	}
	for _, name := range names {
		c.launch(name)
	}
	for _, name := range names {
		c.waitFor(c.members[name])
	}
}

func (c *testCluster) launch(name string) {
	c.t.Helper()
	m := c.members[name]
	var all []string
	state := "new"
	for _, other := range c.names() {
		o := c.members[other]
		if !o.existing || o == m {
			all = append(all, o.name+"="+o.peer)
		}
	}
	if m.existing || m.replaced {
		state = "existing"
	}
	args := slices.Concat(m.wrapper, c.program, []string{"--name", m.name, "--data-dir", m.dir, "--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--listen-peer-urls", or(m.listen, m.peer), "--initial-advertise-peer-urls", m.peer, "--initial-cluster", strings.Join(all, ","), "--initial-cluster-state", state}, c.extra, m.extra)
	m.cmd = exec.Command(args[0], args[1:]...)
	m.cmd.Env = append(append(os.Environ(), beRaftkv+"=1"), m.env...)
	m.cmd.Stderr = &m.log
	m.cmd.Stdout = &m.log
	if *verbose {
		m.cmd.Stderr = os.Stderr
	}
	m.cmd.SysProcAttr = deathsig()
	if err := m.cmd.Start(); err != nil {
		m.cmd = nil
		c.t.Fatal(err)
	}
	exited := make(chan struct{})
	m.exited = exited
	go func(cmd *exec.Cmd) {
		m.err = cmd.Wait()
		close(exited)
	}(m.cmd)
}

// waitFor waits until a member takes connections.
func (c *testCluster) waitFor(m *testMember) {
	c.t.Helper()
	address := strings.TrimPrefix(strings.TrimPrefix(m.client, "http://"), "https://")
	eventually(c.t, m.name+" to come up", func() bool {
		select {
		case <-m.exited:
			c.t.Fatalf("%s ended: %v\n%s", m.name, m.err, tail(m.log.String(), 2000))
		default:
		}
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// end ends a member and returns how it ended, once it is gone.
func (m *testMember) end(how syscall.Signal) error {
	if m.cmd == nil {
		return nil
	}
	_ = m.cmd.Process.Signal(how) // which it may have come before
	<-m.exited
	m.cmd = nil
	return m.err
}

// ends waits until a member has ended on its own, and returns how.
func (c *testCluster) ends(name string) error {
	c.t.Helper()
	m := c.members[name]
	select {
	case <-m.exited:
	case <-time.After(enough):
		c.t.Fatalf("%s goes on", name)
	}
	return m.end(syscall.SIGKILL)
}

// dial returns a connection to a member, whether it runs or not.
func (c *testCluster) dial(name string) *grpc.ClientConn {
	c.t.Helper()
	conn, err := peer.Dial(c.members[name].client, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// conn returns a connection to a member that is there for all who look at the cluster.
func (c *testCluster) conn(name string) *grpc.ClientConn {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[name] == nil {
		c.conns[name] = c.dial(name)
	}
	return c.conns[name]
}

// leads waits until one of some members leads, and returns its name.
func (c *testCluster) leads(among ...string) (leader string) {
	c.t.Helper()
	eventually(c.t, "a leader", func() bool {
		var term uint64
		leader = ""
		for _, name := range among {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			s, err := pb.NewMaintenanceClient(c.conn(name)).Status(ctx, &pb.StatusRequest{})
			cancel()
			if err == nil && s.Leader == s.Header.MemberId && s.RaftTerm > term {
				leader, term = name, s.RaftTerm // one that was cut off may not know it yet
			}
		}
		return leader != ""
	})
	return leader
}

// move has one member, the leader, hand over to another. It may have come too late.
func (c *testCluster) move(leader, to string) {
	c.t.Helper()
	id := c.list()[to].GetID()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, _ = pb.NewMaintenanceClient(c.conn(leader)).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: id})
}

// count returns how many keys a member has, once it has all that was acknowledged; -1 if it does
// not answer.
func (c *testCluster) count(name string) int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r, err := pb.NewKVClient(c.conn(name)).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	if err != nil {
		return -1
	}
	return r.Count
}

func put(conn *grpc.ClientConn, key, value string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	return err
}
