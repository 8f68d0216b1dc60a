package peer

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/emptypb"
)

// metrics count what goes over the wire. Their names, and the labels that say with which member,
// are etcd's.
type metrics struct {
	active                                  *prometheus.GaugeVec
	disconnected                            *prometheus.CounterVec
	sent, sendFailures                      *prometheus.CounterVec
	received, receiveFailures               *prometheus.CounterVec
	snapshotsSent, snapshotsFailed          *prometheus.CounterVec
	snapshotsReceived, snapshotsNotReceived *prometheus.CounterVec
	roundTrip                               *prometheus.HistogramVec
}

func newMetrics(self uint64) metrics {
	counter := func(label, name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_network_" + name, Help: help}, []string{label})
	}
	local := prometheus.Labels{"Local": hex(self)}
	return metrics{
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcd_network_active_peers", Help: "Streams to peers.", ConstLabels: local}, []string{"Remote"}),
		disconnected: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_network_disconnected_peers_total",
			Help: "How often a stream to a peer ended.", ConstLabels: local}, []string{"Remote"}),
		sent:                 counter("To", "peer_sent_bytes_total", "Bytes sent to peers."),
		sendFailures:         counter("To", "peer_sent_failures_total", "How often nothing could be sent to a peer."),
		received:             counter("From", "peer_received_bytes_total", "Bytes received from peers."),
		receiveFailures:      counter("From", "peer_received_failures_total", "How often a peer's stream broke."),
		snapshotsSent:        counter("To", "snapshot_send_success", "Snapshots sent."),
		snapshotsFailed:      counter("To", "snapshot_send_failures", "Snapshots that could not be sent."),
		snapshotsReceived:    counter("From", "snapshot_receive_success", "Snapshots received."),
		snapshotsNotReceived: counter("From", "snapshot_receive_failures", "Snapshots that did not come whole."),
		roundTrip: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_network_peer_round_trip_time_seconds",
			Help: "How long a peer takes to answer.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}, []string{"To"}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.active, m.disconnected, m.sent, m.sendFailures, m.received, m.receiveFailures,
		m.snapshotsSent, m.snapshotsFailed, m.snapshotsReceived, m.snapshotsNotReceived, m.roundTrip}
}

// meet has the series of a peer be there from the beginning, so that a failure is a change.
func (m *metrics) meet(id uint64) {
	to := hex(id)
	m.active.WithLabelValues(to)
	for _, c := range []*prometheus.CounterVec{m.disconnected, m.sent, m.sendFailures, m.snapshotsSent, m.snapshotsFailed} {
		c.WithLabelValues(to)
	}
}

// forget ends the series of a member that was removed, which would look like one that is down.
func (m *metrics) forget(id uint64) {
	with := hex(id)
	m.active.DeleteLabelValues(with)
	m.roundTrip.DeleteLabelValues(with)
	for _, c := range []*prometheus.CounterVec{m.disconnected, m.sent, m.sendFailures, m.received, m.receiveFailures,
		m.snapshotsSent, m.snapshotsFailed, m.snapshotsReceived, m.snapshotsNotReceived} {
		c.DeleteLabelValues(with)
	}
}

// Describe and Collect make a Transport a prometheus.Collector of what goes over the wire.
func (t *Transport) Describe(c chan<- *prometheus.Desc) {
	for _, m := range t.metrics.all() {
		m.Describe(c)
	}
}

// Collect is told of at Describe.
func (t *Transport) Collect(c chan<- prometheus.Metric) {
	for _, m := range t.metrics.all() {
		m.Collect(c)
	}
}

// measure asks the peer to answer at once, now and then, until ctx is done, and notes how long it
// takes.
func (p *peer) measure(ctx context.Context) {
	defer p.t.wg.Done()
	again := time.NewTicker(measureEvery)
	defer again.Stop()
	for {
		began := time.Now()
		if err := p.conn.Invoke(ctx, "/"+service.ServiceName+"/Ping", new(emptypb.Empty), new(emptypb.Empty)); err == nil {
			p.t.metrics.roundTrip.WithLabelValues(hex(p.id)).Observe(time.Since(began).Seconds())
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

func hex(id uint64) string { return strconv.FormatUint(id, 16) }
