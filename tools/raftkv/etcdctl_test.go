package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/stele-wal/stele/tools/raftkv/etcdtool"
)

var update = flag.Bool("update", false, "write what etcdctl says of etcd into testdata")

// etcdTool returns the path of a program of etcd's, which it builds the first time; with none, the
// test is skipped, loudly.
func etcdTool(t testing.TB, name string) string {
	t.Helper()
	path, err := etcdtool.Path(name, !testing.Short())
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	return path
}

// debianEtcdctl returns the path of Debian's etcdctl; with none, or one of another series than
// transcripts are kept of, the test is skipped, loudly.
func debianEtcdctl(t testing.TB) string {
	t.Helper()
	const path = "/usr/bin/etcdctl"
	cmd := exec.Command(path, "version")
	cmd.Env = []string{"ETCDCTL_API=3"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED: no etcdctl of Debian's here: apt-get install etcd-client: %v", err)
	}
	if !strings.HasPrefix(string(out), "etcdctl version: 3.4.") {
		t.Skipf("SKIPPED: there are transcripts of etcdctl 3.4, and %s is another: %s", path, out)
	}
	return path
}

// endpoints returns where the members that run are reached. Those that joined later are not among
// them.
func (c *testCluster) endpoints() string {
	var list []string
	for _, name := range c.founders() {
		if m := c.members[name]; m.cmd != nil {
			list = append(list, m.client)
		}
	}
	return strings.Join(list, ",")
}

// ctl runs etcdctl and returns what it prints, of its errors only the last line.
func (c *testCluster) ctl(input string, args ...string) string {
	c.t.Helper()
	return c.run(etcdTool(c.t, "etcdctl"), input, args...)
}

func (c *testCluster) run(etcdctl, input string, args ...string) string {
	c.t.Helper()
	if !slices.Contains(args, "--endpoints") {
		args = append(args, "--endpoints", c.endpoints())
	}
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	cmd := exec.CommandContext(ctx, etcdctl, append(args, "--command-timeout", "20s")...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = []string{"HOME=" + c.dir, "PATH=" + os.Getenv("PATH"), "ETCDCTL_API=3"}
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

// list returns the members as one that runs has them, by the names that they have in the test.
func (c *testCluster) list() map[string]*pb.Member {
	c.t.Helper()
	byName := map[string]*pb.Member{}
	eventually(c.t, "the list of members", func() bool {
		for _, name := range c.founders() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			answer, err := pb.NewClusterClient(c.conn(name)).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			cancel()
			if err != nil {
				continue
			}
			for _, l := range answer.Members {
				for _, m := range c.members {
					if slices.Contains(l.PeerURLs, m.peer) {
						byName[m.name] = l
					}
				}
			}
			return true
		}
		return false
	})
	return byName
}

// leader returns the names of the leader, once there is one, and of a follower.
func (c *testCluster) leader() (leader, follower string) {
	c.t.Helper()
	leader = c.leads(c.founders()...)
	for _, name := range c.founders() {
		if name != leader {
			return leader, name
		}
	}
	return leader, ""
}

// settle waits until the founders have introduced themselves, so that their lists are complete.
func (c *testCluster) settle() {
	c.t.Helper()
	eventually(c.t, "the members to introduce themselves", func() bool {
		complete := 0
		for _, l := range c.list() {
			if l.Name != "" && len(l.ClientURLs) > 0 {
				complete++
			}
		}
		return complete == len(c.founders())
	})
}

// reconfigurable waits until each of the founders has had all of them for its peers for so long
// that it lets members change. One that does says of a member at an address that is taken that it
// is taken, and not that the cluster is unhealthy.
func (c *testCluster) reconfigurable() {
	c.t.Helper()
	for _, name := range c.founders() {
		eventually(c.t, name+" to let members change", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := pb.NewClusterClient(c.conn(name)).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{c.members[name].peer}})
			return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCPeerURLExist)
		})
	}
}

// play runs a script of an etcdctl against a cluster and returns it with what came out.
func (c *testCluster) play(etcdctl, script string) string {
	c.t.Helper()
	known := map[string]string{} // an ID, by what it is called in the transcript
	learn := func() {
		for name, l := range c.list() {
			known[fmt.Sprintf("%x", l.ID)] = "<" + name + ">"
			known[fmt.Sprint(l.ID)] = "<" + name + ">"
		}
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
				c.caughtUp(name)
			case "stop":
				_ = c.members[name].end(syscall.SIGTERM) // it is on its way out anyhow
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
			said := c.run(etcdctl, input, args...)
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
				return fmt.Sprintf("%x", c.list()[name].GetID()) // 0 for none: who is gone has none
			}
			c.t.Fatalf("%s: what is that?", s)
			return ""
		}))
	}
	return args
}

// anonymous puts names in the place of IDs and addresses, which differ from run to run, and leaves
// out what is a matter of luck.
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
		{`\| +`, `| `},
		{` +\|`, ` |`},
		{`-{3,}`, `-`},
		// How to use it, which an older one prints with a mistake.
		{`(?s)^NAME:\n.*?\nError:`, `Error:`},
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
			// How large it is, who leads, the term and the index are a matter of luck.
			for _, between := range []string{", ", " │ ", " | "} {
				if fields := strings.Split(line, between); len(fields) > 4 {
					line = strings.Join(fields[:4], between)
				}
			}
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

// caughtUp waits until a member that has joined has as much as the leader has now.
func (c *testCluster) caughtUp(name string) {
	c.t.Helper()
	applied := func(name string) uint64 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := pb.NewMaintenanceClient(c.conn(name)).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return 0
		}
		return s.RaftAppliedIndex
	}
	var target uint64
	eventually(c.t, "the leader to say how far it is", func() bool {
		target = applied(c.leads(c.founders()...))
		return target > 0
	})
	eventually(c.t, name+" to catch up", func() bool { return applied(name) >= target })
}

func TestEtcdctlSaysTheSameOfRaftkvAndOfEtcd(t *testing.T) {
	script, err := os.ReadFile("testdata/etcdctl.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []struct {
		name, transcript string
		path             func(testing.TB) string
	}{
		{"etcdctl " + etcdtool.Version, "testdata/etcdctl.txt", func(t testing.TB) string { return etcdTool(t, "etcdctl") }},
		{"etcdctl of Debian", "testdata/etcdctl-3.4.txt", debianEtcdctl},
	} {
		t.Run(client.name, func(t *testing.T) {
			etcdctl := client.path(t)
			play := func(t *testing.T, program []string) string {
				c := newCluster(t, program, 3, 2)
				c.start()
				c.settle()
				c.reconfigurable()
				return c.play(etcdctl, string(script))
			}
			etcd := []string{etcdTool(t, "etcd"), "--log-level", "error"}
			if *update {
				if err := os.WriteFile(client.transcript, []byte(play(t, etcd)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(client.transcript)
			if err != nil {
				t.Fatal(err)
			}
			for name, program := range map[string][]string{"etcd": etcd, "raftkv": raftkv()} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					compareTranscripts(t, string(want), play(t, program))
				})
			}
		})
	}
}

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
