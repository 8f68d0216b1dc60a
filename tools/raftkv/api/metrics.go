package api

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/status"

	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
	"github.com/stele-wal/stele/wal"
)

// Metrics are what a member tells of itself, under etcd's names where etcd has one.
type Metrics struct {
	Registry *prometheus.Registry

	requests      *prometheus.CounterVec
	fsync, write  prometheus.Histogram
	written       prometheus.Gauge
	cut           prometheus.Histogram
	apply         prometheus.Histogram
	snapshot      prometheus.Histogram
	leaderChanges prometheus.Counter
	failed        prometheus.Counter
}

// NewMetrics returns Metrics that nothing has happened to.
func NewMetrics() *Metrics {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	histogram := func(name, help string, first float64, n int) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, n)})
		r.MustRegister(h)
		return h
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	m := &Metrics{
		Registry:      r,
		fsync:         histogram("etcd_disk_wal_fsync_duration_seconds", "How long a sync of the log took.", 0.00005, 18),
		write:         histogram("etcd_disk_wal_write_duration_seconds", "How long a write to the log took.", 0.00001, 18),
		cut:           histogram("stele_wal_cut_duration_seconds", "How long a cut of the log held up a batch.", 0.00005, 18),
		apply:         histogram("etcd_server_apply_duration_seconds", "How long an entry took to apply.", 0.000001, 20),
		snapshot:      histogram("etcd_snap_db_save_total_duration_seconds", "How long a snapshot took to make.", 0.001, 18),
		leaderChanges: counter("etcd_server_leader_changes_seen_total", "How often this member saw another leader."),
		failed:        counter("etcd_server_proposals_failed_total", "How many proposals failed."),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "grpc_server_handled_total", Help: "How many calls were answered."},
			[]string{"grpc_type", "grpc_service", "grpc_method", "grpc_code"}),
		written: prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcd_disk_wal_write_bytes_total", Help: "Bytes written to the log."}),
	}
	r.MustRegister(m.requests, m.written)
	return m
}

// Log returns what the log is to tell.
func (m *Metrics) Log() wal.Observer {
	return wal.Observer{
		Wrote: func(n int, took time.Duration) {
			m.written.Add(float64(n))
			m.write.Observe(took.Seconds())
		},
		Synced: func(took time.Duration) { m.fsync.Observe(took.Seconds()) },
		Cut:    func(_ string, took time.Duration) { m.cut.Observe(took.Seconds()) },
	}
}

// Node returns what the node is to tell.
func (m *Metrics) Node() node.Observer {
	return node.Observer{
		Applied: func(took time.Duration) { m.apply.Observe(took.Seconds()) },
		LeaderChanged: func(leader uint64) {
			if leader != 0 {
				m.leaderChanges.Inc()
			}
		},
		Failed: m.failed.Inc,
		Snapshot: func(took time.Duration, err error) {
			if err == nil {
				m.snapshot.Observe(took.Seconds())
			}
		},
	}
}

// Watch has the metrics show a running node.
func (m *Metrics) Watch(n *node.Node, t *peer.Transport) {
	value := func(name, help string, f func() float64) {
		m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	total := func(name, help string, f func() float64) {
		m.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	value("etcd_server_has_leader", "Whether there is a leader.", func() float64 { return truth(n.Status().Leader != 0) })
	value("etcd_server_is_leader", "Whether this member is the leader.", func() float64 { s := n.Status(); return truth(s.Leader == s.ID) })
	value("etcd_server_is_learner", "Whether this member is a learner.", func() float64 { return truth(n.Status().Learner) })
	value("etcd_server_proposals_committed_total", "The commit index.", func() float64 { return float64(n.Status().Committed) })
	value("etcd_server_proposals_applied_total", "The index that was applied last.", func() float64 { return float64(n.Status().Applied) })
	value("etcd_server_proposals_pending", "Proposals of this member that are not decided.", func() float64 { return float64(n.Status().Pending) })
	value("etcd_server_health_failures", "Whether the node has stopped by itself.", func() float64 { return truth(n.Err() != nil) })
	value("etcd_mvcc_db_total_size_in_bytes", "The size of the state.", func() float64 { return float64(n.Store().Stats().Size) })
	value("etcd_mvcc_db_total_size_in_use_in_bytes", "The size of the newest versions.", func() float64 { return float64(n.Store().Stats().Live) })
	value("etcd_debugging_mvcc_keys_total", "The number of keys.", func() float64 { return float64(n.Store().Stats().Keys) })
	value("etcd_debugging_mvcc_current_revision", "The newest revision.", func() float64 { return float64(n.Store().Rev()) })
	value("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction.", func() float64 { return float64(n.Store().Stats().Compacted) })
	value("etcd_server_quota_backend_bytes", "How large the state may be.", func() float64 { return float64(n.Quota()) })
	value("etcd_network_active_peers", "Streams to peers.", func() float64 { return float64(t.Stats.Active.Load()) })
	total("etcd_network_peer_sent_bytes_total", "Bytes sent to peers.", func() float64 { return float64(t.Stats.Sent.Load()) })
	total("etcd_network_peer_received_bytes_total", "Bytes received from peers.", func() float64 { return float64(t.Stats.Received.Load()) })
	total("etcd_network_peer_sent_failures_total", "Streams to peers that broke.", func() float64 { return float64(t.Stats.SendFailures.Load()) })
	total("etcd_network_snapshot_send_success", "Snapshots sent.", func() float64 { return float64(t.Stats.SnapshotsSent.Load()) })
	total("etcd_network_snapshot_send_failures", "Snapshots that could not be sent.", func() float64 { return float64(t.Stats.SnapshotsFailed.Load()) })
	total("etcd_network_snapshot_receive_success", "Snapshots received.", func() float64 { return float64(t.Stats.SnapshotsReceived.Load()) })
}

// handled counts a call.
func (m *Metrics) handled(method, kind string, err error) {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	m.requests.WithLabelValues(kind, service, name, status.Code(err).String()).Inc()
}
