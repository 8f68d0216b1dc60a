package api

import (
	"math"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
	"github.com/stele-wal/stele/wal"
)

// Metrics are what a member says of itself, under etcd's names where etcd has one.
type Metrics struct {
	Registry *prometheus.Registry

	grpc          *grpcprom.ServerMetrics
	probe         *prometheus.GaugeVec
	probes        *prometheus.CounterVec
	well, unwell  prometheus.Counter // answers of /health
	in, out       prometheus.Counter // bytes of gRPC
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
		well:          counter("etcd_server_health_success", "How often /health said that all is well."),
		unwell:        counter("etcd_server_health_failures", "How often it did not."),
		in:            counter("etcd_network_client_grpc_received_bytes_total", "Bytes received from clients."),
		out:           counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients."),
		grpc:          grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram()),
		probe: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcd_server_healthcheck", Help: "What a probe found last: 1 is well."},
			[]string{"type", "name"}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_server_healthchecks_total", Help: "How often a probe found what."},
			[]string{"type", "name", "status"}),
		written: prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcd_disk_wal_write_bytes_total", Help: "Bytes written to the log."}),
	}
	r.MustRegister(m.grpc, m.probe, m.probes, m.written)
	return m
}

// Log returns what observes the log.
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

// Node returns what observes the node.
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
	m.Registry.MustRegister(t)
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
	value("etcd_mvcc_db_total_size_in_bytes", "The size of the state.", func() float64 { return float64(n.Store().Stats().Size) })
	// In etcd the rest is what defragmenting gives back. There is no such thing here, and who looks
	// at the two must not be sent for it.
	value("etcd_mvcc_db_total_size_in_use_in_bytes", "The size of the state, all of which is in use.", func() float64 { return float64(n.Store().Stats().Size) })
	value("raftkv_state_newest_bytes", "The size of the newest versions, which is what a compaction would leave.", func() float64 { return float64(n.Store().Stats().Live) })
	value("etcd_debugging_mvcc_keys_total", "The number of keys.", func() float64 { return float64(n.Store().Stats().Keys) })
	value("etcd_debugging_mvcc_current_revision", "The newest revision.", func() float64 { return float64(n.Store().Rev()) })
	value("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction.", func() float64 { return float64(n.Store().Stats().Compacted) })
	value("etcd_server_quota_backend_bytes", "How large the state may be.", func() float64 {
		if n.Quota() < 0 {
			return math.Inf(1) // nothing is ever near it
		}
		return float64(n.Quota())
	})
}

// probed notes what a probe found.
func (m *Metrics) probed(probe, name string, err error) {
	if err != nil {
		m.probe.WithLabelValues(probe, name).Set(0)
		m.probes.WithLabelValues(probe, name, "error").Inc()
		return
	}
	m.probe.WithLabelValues(probe, name).Set(1)
	m.probes.WithLabelValues(probe, name, "success").Inc()
}

// health notes what /health answered.
func (m *Metrics) health(well bool) {
	if well {
		m.well.Inc()
	} else {
		m.unwell.Inc()
	}
}

// codec is gRPC's for messages, and counts their bytes.
func (m *Metrics) codec() encoding.CodecV2 { return counting{encoding.GetCodecV2(proto.Name), m} }

type counting struct {
	encoding.CodecV2
	m *Metrics
}

func (c counting) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.CodecV2.Marshal(v)
	c.m.out.Add(float64(b.Len()))
	return b, err
}

func (c counting) Unmarshal(b mem.BufferSlice, v any) error {
	c.m.in.Add(float64(b.Len()))
	return c.CodecV2.Unmarshal(b, v)
}
