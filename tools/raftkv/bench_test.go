package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stele-wal/stele/tools/raftkv/bench"
	"github.com/stele-wal/stele/tools/raftkv/progress"
)

func TestBenchMeasuresEtcdAndRaftkvAndLeavesNothing(t *testing.T) {
	etcdTool(t, "etcd")
	etcdTool(t, "benchmark")
	t.Setenv(beRaftkv, "1")
	var out strings.Builder
	dir := t.TempDir()
	err := sideBySide(context.Background(), &out, bench.Config{
		Dir: dir, Turns: 2, Seconds: 0.1, Nodes: []int{1}, Clients: []int{1, 4}, Workloads: bench.Workloads[:1], Progress: progress.To(io.Discard),
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, clients := range []string{"1", "4"} {
		if !regexp.MustCompile(`(?m)^\| put \| 1 \| ` + clients + ` \| [1-9]\d* \| [1-9]\d* \|`).MatchString(out.String()) {
			t.Errorf("no line with rates of both for %s clients:\n%s", clients, out.String())
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestProfilesAreServedOnlyIfWanted(t *testing.T) {
	for flag, want := range map[string]int{"--enable-pprof=false": http.StatusNotFound, "--enable-pprof": http.StatusOK} {
		c := newCluster(t, raftkv(), 1, 0, flag)
		c.start()
		response, err := http.Get(c.members["n1"].client + "/debug/pprof/goroutine")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", flag, response.Status, want)
		}
	}
}
