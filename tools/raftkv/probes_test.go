package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stele-wal/stele/tools/raftkv/etcdtool"
)

// probePaths are what a probe may ask for.
var probePaths = []string{
	"/health", "/health?serializable=true", "/health?exclude=NOSPACE", "/health?exclude=NOSPACE&exclude=CORRUPT", "/health?exclude=",
	"/livez", "/livez?verbose", "/livez?exclude=serializable_read&verbose", "/livez/serializable_read", "/livez/serializable_read?verbose", "/livez/linearizable_read",
	"/readyz", "/readyz?verbose", "/readyz?verbose&exclude=linearizable_read", "/readyz?verbose&exclude=nothing", "/readyz?exclude=data_corruption&exclude=non_learner&verbose",
	"/readyz/data_corruption", "/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/non_learner", "/readyz/nothing",
	"/version",
}

var storage = regexp.MustCompile(`"storage":"[^"]+"`)

// probe returns what a member answers to all of them. The order in which etcd reports is a matter
// of luck.
func probe(t *testing.T, base string) map[string]string {
	t.Helper()
	client := &http.Client{Timeout: enough}
	defer client.CloseIdleConnections()
	answers := map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, path := range probePaths {
		wg.Go(func() { // some wait for their time to be over
			resp, err := client.Get(base + path)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			// etcd finds out which version its storage is of a while after it starts.
			lines := strings.SplitAfter(storage.ReplaceAllString(string(b), `"storage":"some"`), "\n")
			slices.Sort(lines)
			mu.Lock()
			defer mu.Unlock()
			answers[path] = fmt.Sprintf("%d %s: %q", resp.StatusCode, resp.Header.Get("Content-Type"), strings.Join(lines, ""))
		})
	}
	wg.Wait()
	return answers
}

func TestProbesAndVersionAnswerAsEtcdDoes(t *testing.T) {
	alarm := func(which pb.AlarmType) func(*testing.T, *testCluster) string {
		return func(t *testing.T, c *testCluster) string {
			c.settle()
			r := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: c.list()["n1"].ID, Alarm: which}
			if _, err := pb.NewMaintenanceClient(c.conn("n1")).Alarm(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			return "n1"
		}
	}
	for _, test := range []struct {
		state   string
		members int
		reach   func(*testing.T, *testCluster) string // and return whom to probe
	}{
		{"well", 1, func(t *testing.T, c *testCluster) string { c.settle(); return "n1" }},
		{"full", 1, alarm(pb.AlarmType_NOSPACE)},
		{"corrupt", 1, alarm(pb.AlarmType_CORRUPT)},
		{"without a quorum", 3, func(t *testing.T, c *testCluster) string {
			c.settle()
			_, follower := c.leader()
			for _, name := range c.names() {
				if name != follower {
					_ = c.members[name].end(syscall.SIGKILL)
				}
			}
			eventually(t, "the leader to be missed", func() bool {
				s, err := pb.NewMaintenanceClient(c.conn(follower)).Status(t.Context(), &pb.StatusRequest{})
				return err == nil && s.Leader == 0
			})
			return follower
		}},
		{"a learner", 1, func(t *testing.T, c *testCluster) string {
			c.settle()
			n2 := c.members["n2"]
			if _, err := pb.NewClusterClient(c.conn("n1")).MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{n2.peer}, IsLearner: true}); err != nil {
				t.Fatal(err)
			}
			c.start("n2")
			c.caughtUp("n2")
			return "n2"
		}},
	} {
		t.Run(test.state, func(t *testing.T) {
			t.Parallel()
			answers := map[string]map[string]string{}
			for name, program := range map[string][]string{"etcd": {etcdTool(t, "etcd"), "--log-level", "fatal"}, "raftkv": raftkv()} {
				c := newCluster(t, program, test.members, 1)
				c.start()
				answers[name] = probe(t, c.members[test.reach(t, c)].client)
			}
			for _, path := range slices.Sorted(maps.Keys(answers["etcd"])) {
				if got, want := answers["raftkv"][path], answers["etcd"][path]; got != want {
					t.Errorf("%s:\ngot  %s\nwant %s (etcd %s)", path, got, want, etcdtool.Version)
				}
			}
		})
	}
}
