package main

import (
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/stele-wal/stele/tools/raftkv/etcdtool"
)

// mixinSeries are the series that the alerts and dashboards of etcd's mixin look at, and the labels
// that they look for or sum over.
var mixinSeries = []struct {
	name   string
	labels []string
	values map[string]string // that a dashboard asks for
	why    string            // there is no such series here
}{
	{name: "up", why: "Prometheus makes it itself, for whatever it scrapes"},
	{name: "process_resident_memory_bytes"},

	{name: "etcd_server_has_leader"},
	{name: "etcd_server_leader_changes_seen_total"},
	{name: "etcd_server_proposals_failed_total"},
	{name: "etcd_server_proposals_pending"},
	{name: "etcd_server_proposals_committed_total"},
	{name: "etcd_server_proposals_applied_total"},
	{name: "etcd_server_quota_backend_bytes"},

	{name: "etcd_mvcc_db_total_size_in_bytes"},
	{name: "etcd_mvcc_db_total_size_in_use_in_bytes"},
	{name: "etcd_disk_wal_fsync_duration_seconds"},
	{name: "etcd_disk_backend_commit_duration_seconds", why: "the state is in memory: there is no database that could be slow to commit"},

	{name: "etcd_network_peer_sent_failures_total", labels: []string{"To"}},
	{name: "etcd_network_peer_sent_bytes_total", labels: []string{"To"}},
	{name: "etcd_network_peer_received_bytes_total", labels: []string{"From"}},
	{name: "etcd_network_peer_round_trip_time_seconds", labels: []string{"To"}},
	{name: "etcd_network_client_grpc_received_bytes_total"},
	{name: "etcd_network_client_grpc_sent_bytes_total"},

	{name: "grpc_server_started_total", labels: []string{"grpc_type", "grpc_service", "grpc_method"}},
	{name: "grpc_server_started_total", values: map[string]string{"grpc_service": "etcdserverpb.Watch", "grpc_type": "bidi_stream"}},
	{name: "grpc_server_started_total", values: map[string]string{"grpc_service": "etcdserverpb.Lease", "grpc_type": "bidi_stream"}},
	{name: "grpc_server_handled_total", labels: []string{"grpc_type", "grpc_service", "grpc_method", "grpc_code"}},
	{name: "grpc_server_handled_total", values: map[string]string{"grpc_service": "etcdserverpb.Watch", "grpc_type": "bidi_stream"}},
	{name: "grpc_server_handled_total", values: map[string]string{"grpc_service": "etcdserverpb.Lease", "grpc_type": "bidi_stream"}},
	{name: "grpc_server_handling_seconds", labels: []string{"grpc_type", "grpc_service", "grpc_method"}},
	{name: "grpc_server_handling_seconds", values: map[string]string{"grpc_method": "Put", "grpc_type": "unary"}},
}

// scrape returns what a member has at /metrics.
func scrape(t *testing.T, base string) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := http.Get(base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// has reports whether one of a family's series has these labels, and no others unless a value is
// asked for.
func has(f *dto.MetricFamily, labels []string, values map[string]string) bool {
	return slices.ContainsFunc(f.GetMetric(), func(m *dto.Metric) bool {
		found := map[string]string{}
		for _, l := range m.Label {
			found[l.GetName()] = l.GetValue()
		}
		for name, value := range values {
			if found[name] != value {
				return false
			}
		}
		return values != nil || slices.Equal(slices.Sorted(maps.Keys(found)), slices.Sorted(slices.Values(labels)))
	})
}

func TestWhatEtcdsMixinLooksAtIsThereAsInEtcd(t *testing.T) {
	scraped := map[string]map[string]*dto.MetricFamily{}
	for name, program := range map[string][]string{"etcd": {etcdTool(t, "etcd"), "--log-level", "fatal", "--metrics", "extensive"}, "raftkv": raftkv()} {
		c := newCluster(t, program, 3, 0)
		c.start()
		c.settle()
		eventually(t, "a write", func() bool { return put(c.conn("n1"), "a", "b", time.Second) == nil })
		eventually(t, name+" to have measured the way to its peers", func() bool {
			scraped[name] = scrape(t, c.members["n1"].client)
			return len(scraped[name]["etcd_network_peer_round_trip_time_seconds"].GetMetric()) == 2
		})
		_ = c.members["n3"].end(syscall.SIGKILL)
		eventually(t, name+" to miss one", func() bool {
			scraped[name] = scrape(t, c.members["n1"].client)
			return slices.ContainsFunc(scraped[name]["etcd_network_peer_sent_failures_total"].GetMetric(), func(m *dto.Metric) bool { return m.GetCounter().GetValue() > 0 })
		})
	}
	for _, s := range mixinSeries {
		theirs, ours := scraped["etcd"][s.name], scraped["raftkv"][s.name]
		if s.name != "up" && !has(theirs, s.labels, s.values) {
			t.Errorf("etcd has no %s with %v %v: the list is wrong", s.name, s.labels, s.values)
		}
		if s.why != "" {
			if ours != nil {
				t.Errorf("%s is there, although %s", s.name, s.why)
			}
			continue
		}
		if !has(ours, s.labels, s.values) {
			t.Errorf("there is no %s with %v %v: %v", s.name, s.labels, s.values, ours)
		}
		if ours.GetType() != theirs.GetType() {
			t.Errorf("%s is a %v, in etcd a %v", s.name, ours.GetType(), theirs.GetType())
		}
	}
}

// The mixin comes with etcd's root module, of which there is none of 3.7.
func TestTheListOfWhatEtcdsMixinLooksAtIsWhole(t *testing.T) {
	cmd := exec.Command("go", "mod", "download", "-json", "go.etcd.io/etcd/v3@"+etcdtool.ToolsVersion)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("SKIPPED: etcd's root module cannot be had here: %v", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, s := range mixinSeries {
		known[s.name] = true
	}
	looked := map[string]bool{}
	series := regexp.MustCompile(`\b([a-z][a-z_]*)\{%|\b(etcd_[a-z_]+|grpc_server_[a-z_]+|process_[a-z_]+)\b`)
	err = filepath.WalkDir(filepath.Join(module.Dir, "contrib", "mixin"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".libsonnet" {
			return err
		}
		b, err := os.ReadFile(path)
		for _, line := range strings.Split(string(b), "\n") {
			if strings.Contains(line, "runbook_url") || strings.Contains(line, "_config") && !strings.Contains(line, "expr:") {
				continue
			}
			for _, m := range series.FindAllStringSubmatch(line, -1) {
				looked[strings.TrimSuffix(m[1]+m[2], "_bucket")] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, notSeries := range []string{"etcd_selector", "etcd_instance_labels", "etcd_overview"} {
		delete(looked, notSeries)
	}
	if len(looked) < 20 {
		t.Fatal("the mixin can no longer be read: ", slices.Sorted(maps.Keys(looked)))
	}
	for name := range looked {
		if !known[name] {
			t.Errorf("the mixin looks at %s, and the list does not have it", name)
		}
	}
	for name := range known {
		if !looked[name] {
			t.Errorf("the list has %s, and the mixin does not look at it", name)
		}
	}
}
