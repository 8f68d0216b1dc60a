package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	update  = flag.Bool("update", false, "write what etcdctl says of etcd into testdata")
	verbose = flag.Bool("members", false, "let the members of test clusters log to the standard error")
)

// A test binary that finds this in its environment is raftkv: so that tests need not build it.
const beRaftkv = "RAFTKV_TEST_IS_RAFTKV"

func TestMain(m *testing.M) {
	if os.Getenv(beRaftkv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The tools of etcd that tests need, built from the module proxy.
const etcdVersion = "v3.7.3"

// etcdTool returns the path of a program of etcd's, which it builds the first time; with none, the test is skipped, loudly.
func etcdTool(t testing.TB, name string) string {
	t.Helper()
	if dir := os.Getenv("RAFTKV_ETCD_BIN"); dir != "" {
		return filepath.Join(dir, name)
	}
	pkg := map[string]string{
		"etcd":    "go.etcd.io/etcd/server/v3@" + etcdVersion,
		"etcdctl": "go.etcd.io/etcd/etcdctl/v3@" + etcdVersion,
	}[name]
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "raftkv-test", etcdVersion)
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if testing.Short() {
		t.Skipf("SKIPPED, -short: %s is not built yet", name)
	}
	t.Logf("building %s, once", name)
	mod := t.TempDir()
	module, _, _ := strings.Cut(pkg, "@")
	run := func(args ...string) {
		cmd := exec.Command("go", args...)
		cmd.Dir = mod
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: %s cannot be built here (or set RAFTKV_ETCD_BIN to a directory that has it): go %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
	run("mod", "init", "tool")
	run("get", pkg)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run("build", "-o", path+".new", module)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// A testCluster is processes on the loopback interface: raftkv, or etcd, which takes the same flags.
type testCluster struct {
	t       testing.TB
	program []string // and its first arguments
	dir     string
	members map[string]*testMember
	extra   []string
}

type testMember struct {
	name, dir, client, peer string
	existing                bool
	extra                   []string
	cmd                     *exec.Cmd
	exited                  chan error
	log                     bytes.Buffer
}

// newCluster returns a cluster of n members, and chooses addresses for spare ones. Nothing runs yet.
func newCluster(t testing.TB, program []string, n, spare int, extra ...string) *testCluster {
	t.Helper()
	c := &testCluster{t: t, program: program, dir: t.TempDir(), members: map[string]*testMember{}, extra: extra}
	var listeners []net.Listener
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
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
			m.end(syscall.SIGKILL)
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

// start starts members, by default all that belong to it from the beginning, and waits until they serve.
func (c *testCluster) start(names ...string) {
	c.t.Helper()
	if len(names) == 0 {
		for _, name := range c.names() {
			if !c.members[name].existing {
				names = append(names, name)
			}
		}
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
	if m.existing {
		state = "existing"
	}
	args := append(slices.Clone(c.program[1:]), "--name", m.name, "--data-dir", m.dir, "--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer, "--initial-cluster", strings.Join(all, ","), "--initial-cluster-state", state)
	m.cmd = exec.Command(c.program[0], append(append(args, c.extra...), m.extra...)...)
	m.cmd.Env = append(os.Environ(), beRaftkv+"=1")
	m.cmd.Stderr = &m.log
	m.cmd.Stdout = &m.log
	if *verbose {
		m.cmd.Stderr = os.Stderr
	}
	m.cmd.SysProcAttr = deathsig()
	if err := m.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	m.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan error) { exited <- cmd.Wait() }(m.cmd, m.exited)
}

// waitFor waits until a member takes connections.
func (c *testCluster) waitFor(m *testMember) {
	c.t.Helper()
	address := strings.TrimPrefix(strings.TrimPrefix(m.client, "http://"), "https://")
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-m.exited:
			m.cmd = nil
			c.t.Fatalf("%s ended: %v\n%s", m.name, err, tail(m.log.String(), 2000))
		default:
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s does not come up: %v", m.name, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// end ends a member and waits until it is gone.
func (m *testMember) end(how syscall.Signal) error {
	if m.cmd == nil {
		return nil
	}
	_ = m.cmd.Process.Signal(how)
	err := <-m.exited
	m.cmd = nil
	return err
}

func (c *testCluster) endpoints() string {
	var list []string
	for _, name := range c.names() {
		if m := c.members[name]; m.cmd != nil && !m.existing {
			list = append(list, m.client)
		}
	}
	return strings.Join(list, ",")
}

// ctl runs etcdctl and returns what it prints, of its errors only the last line.
func (c *testCluster) ctl(input string, args ...string) string {
	c.t.Helper()
	if !slices.Contains(args, "--endpoints") {
		args = append(args, "--endpoints", c.endpoints())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, etcdTool(c.t, "etcdctl"), append(args, "--command-timeout", "8s")...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = []string{"HOME=" + c.dir, "PATH=" + os.Getenv("PATH")}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // what it says is what is looked at
	for _, line := range strings.Split(strings.TrimSpace(errs.String()), "\n") {
		if line != "" && !strings.HasPrefix(line, "{") {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

type listed struct {
	ID         uint64   `json:"ID"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

// list returns the members, by the names that they have in the test.
func (c *testCluster) list() map[string]listed {
	c.t.Helper()
	var answer struct {
		Members []listed `json:"members"`
	}
	out := c.ctl("", "member", "list", "-w", "json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		c.t.Fatalf("member list: %v\n%s", err, out)
	}
	byName := map[string]listed{}
	for _, l := range answer.Members {
		for _, m := range c.members {
			if slices.Contains(l.PeerURLs, m.peer) {
				byName[m.name] = l
			}
		}
	}
	return byName
}

type status struct {
	Endpoint string
	Status   struct {
		Header struct {
			MemberID uint64 `json:"member_id"`
		} `json:"header"`
		Leader           uint64 `json:"leader"`
		RaftAppliedIndex uint64 `json:"raftAppliedIndex"`
	}
}

func (c *testCluster) status() []status {
	c.t.Helper()
	var all []status
	out := c.ctl("", "endpoint", "status", "-w", "json")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		c.t.Fatalf("endpoint status: %v\n%s", err, out)
	}
	return all
}

// leader returns the names of the leader, once there is one, and of a follower.
func (c *testCluster) leader() (leader, follower string) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		leader, follower = "", ""
		for _, s := range c.status() {
			for _, m := range c.members {
				if m.client != s.Endpoint {
					continue
				}
				if s.Status.Leader == s.Status.Header.MemberID {
					leader = m.name
				} else if s.Status.Leader != 0 && (follower == "" || m.name < follower) {
					follower = m.name
				}
			}
		}
		if leader != "" && (follower != "" || len(c.members) == 1) {
			return leader, follower
		}
	}
	c.t.Fatal("no leader")
	return "", ""
}

// settle waits until all members have introduced themselves, so that their lists are complete.
func (c *testCluster) settle() {
	c.t.Helper()
	c.leader()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		complete := 0
		for _, l := range c.list() {
			if l.Name != "" && len(l.ClientURLs) > 0 {
				complete++
			}
		}
		if complete >= 3 {
			return
		}
	}
	c.t.Fatal("the members do not introduce themselves")
}

// play runs a script against a cluster and returns it with what came out.
func (c *testCluster) play(script string) string {
	c.t.Helper()
	known := map[string]string{} // an ID, by what it is called in the transcript
	learn := func() map[string]listed {
		list := c.list()
		for name, l := range list {
			known[fmt.Sprintf("%x", l.ID)] = "<" + name + ">"
			known[fmt.Sprint(l.ID)] = "<" + name + ">"
		}
		return list
	}
	learn()
	var out strings.Builder
	lines := strings.Split(script, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		case strings.HasPrefix(line, "! "):
			fmt.Fprintln(&out, line)
			verb, name, _ := strings.Cut(line[2:], " ")
			switch verb {
			case "start":
				c.start(name)
				c.ready(name)
			case "stop":
				c.members[name].end(syscall.SIGTERM)
			case "promotable":
				c.caughtUp(name)
			}
		case strings.HasPrefix(line, "$ "):
			fmt.Fprintln(&out, line)
			input := ""
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], ">") {
				i++
				fmt.Fprintln(&out, lines[i])
				input += strings.TrimPrefix(strings.TrimPrefix(lines[i], ">"), " ") + "\n"
			}
			args := c.expand(line[2:])
			said := c.ctl(input, args...)
			if strings.HasPrefix(line, "$ member") {
				learn()
			}
			out.WriteString(c.anonymous(line, said, known))
		}
	}
	return out.String()
}

// expand splits a command and puts in what braces name.
func (c *testCluster) expand(line string) []string {
	c.t.Helper()
	braces := regexp.MustCompile(`\{[a-z]+(:[a-z0-9]+)?\}`)
	var args []string
	for _, word := range regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(line, -1) {
		word = strings.Trim(word, `"`)
		args = append(args, braces.ReplaceAllStringFunc(word, func(s string) string {
			what, name, _ := strings.Cut(strings.Trim(s, "{}"), ":")
			if name == "follower" || what == "leader" || what == "follower" {
				leader, follower := c.leader()
				if what == "leader" {
					return c.members[leader].client
				}
				if what == "follower" {
					return c.members[follower].client
				}
				name = follower
			}
			switch what {
			case "peer":
				return c.members[name].peer
			case "client":
				return c.members[name].client
			case "dir":
				return c.dir
			case "id":
				return fmt.Sprintf("%x", c.list()[name].ID)
			}
			c.t.Fatalf("%s: what is that?", s)
			return ""
		}))
	}
	return args
}

// anonymous puts names in the place of IDs and addresses, which differ from run to run, and leaves out what is a matter of luck.
func (c *testCluster) anonymous(command, said string, known map[string]string) string {
	for id, name := range known {
		said = strings.ReplaceAll(said, id, name)
	}
	for _, name := range c.names() {
		m := c.members[name]
		for _, u := range []struct{ url, as string }{{m.client, "client"}, {m.peer, "peer"}} {
			said = strings.ReplaceAll(said, strings.TrimPrefix(u.url, "http://"), "<"+name+"'s "+u.as+" address>")
		}
	}
	said = strings.ReplaceAll(said, c.dir, "<dir>")
	for _, luck := range []struct{ pattern, as string }{
		{`"(cluster_id|member_id|raft_term)":[<>n0-9]+`, `"$1":0`},
		{`"(ClusterID|MemberID|RaftTerm)" : [<>n0-9]+`, `"$1" : 0`},
		{`cluster +[0-9a-f]{15,16}`, `cluster <cluster>`},
		{`Member +`, `Member `},
		{`│ +`, `│ `},
		{` +│`, ` │`},
		{`─+`, `─`},
		{`took = [0-9.µnms]+`, `took = some time`},
		{`[0-9.]+ [kM]?B\b`, `some bytes`},
		{`ETCD_INITIAL_CLUSTER="[^"]*"`, `ETCD_INITIAL_CLUSTER=...`},
		{`Finished defragmenting etcd member\[([^]]*)\]\. took .*`, `Finished defragmenting etcd member[$1]`},
	} {
		said = regexp.MustCompile(luck.pattern).ReplaceAllString(said, luck.as)
	}
	var lines []string
	for _, line := range strings.Split(strings.TrimSuffix(said, "\n"), "\n") {
		if strings.Contains(command, "endpoint status") {
			// Who leads, the term and the index are a matter of luck.
			fields := strings.Split(line, ", ")
			line = strings.Join(fields[:min(4, len(fields))], ", ")
		}
		if strings.HasPrefix(command, "$ move-leader") {
			line = regexp.MustCompile(`<n[0-9]('s client address)?>`).ReplaceAllString(line, "<one>")
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	if strings.Contains(command, "member list") || strings.Contains(command, "health") || strings.Contains(command, "endpoint") || strings.Contains(command, "defrag") {
		slices.Sort(lines) // by ID, or by who answers first
	}
	said = strings.Join(lines, "\n")
	if said == "" {
		return ""
	}
	return said + "\n"
}

// ready waits until a member that has joined answers.
func (c *testCluster) ready(name string) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if out := c.ctl("", "get", "k", "--consistency", "s", "--endpoints", c.members[name].client); strings.HasPrefix(out, "k\n") {
			return
		}
	}
	c.t.Fatalf("%s does not catch up", name)
}

// caughtUp waits until a learner has as much as the leader.
func (c *testCluster) caughtUp(name string) {
	c.t.Helper()
	c.ready(name)
}

func TestEtcdctlSaysTheSameOfRaftkvAndOfEtcd(t *testing.T) {
	etcdTool(t, "etcdctl")
	const file = "testdata/etcdctl.txt"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := string(b)
	t.Run("etcd", func(t *testing.T) {
		c := newCluster(t, []string{etcdTool(t, "etcd"), "--log-level", "error"}, 3, 2)
		c.start()
		c.settle()
		time.Sleep(reconfigurable)
		got := c.play(want)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			want = got
		}
		compareTranscripts(t, want, got)
	})
	t.Run("raftkv", func(t *testing.T) {
		c := newCluster(t, raftkv(), 3, 2)
		c.start()
		c.settle()
		time.Sleep(reconfigurable)
		compareTranscripts(t, want, c.play(want))
	})
}

// reconfigurable is how long both want their peers to have been up before members change, and a little more.
const reconfigurable = 6 * time.Second

func compareTranscripts(t *testing.T, want, got string) {
	t.Helper()
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "", ""
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			t.Errorf("line %d:\n%s\nwant: %s\ngot:  %s", i+1, around(g, i), a, b)
			if t.Failed() && strings.HasPrefix(a, "$") != strings.HasPrefix(b, "$") {
				t.Fatalf("the rest:\n%s", strings.Join(g[i:], "\n"))
			}
		}
	}
}

func around(lines []string, i int) string {
	for j := min(i, len(lines)-1); j >= 0; j-- {
		if strings.HasPrefix(lines[j], "$") {
			return lines[j]
		}
	}
	return ""
}
