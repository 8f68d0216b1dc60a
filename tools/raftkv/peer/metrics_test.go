package peer

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// each calls f with all series of a metric.
func each(c prometheus.Collector, f func(*dto.Metric)) {
	series := make(chan prometheus.Metric)
	go func() {
		defer close(series)
		c.Collect(series)
	}()
	for m := range series {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			panic(err) // it has no way to fail
		}
		f(&d)
	}
}

// total returns the sum of a metric's series.
func total(c prometheus.Collector) (sum float64) {
	each(c, func(d *dto.Metric) { sum += d.GetCounter().GetValue() + d.GetGauge().GetValue() })
	return sum
}

// labels returns the labels of a metric's series.
func labels(c prometheus.Collector) (all []string) {
	each(c, func(d *dto.Metric) {
		s := ""
		for _, l := range d.Label {
			s += l.GetName() + "=" + l.GetValue() + " "
		}
		all = append(all, s)
	})
	return all
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-look.C {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

func TestEachPeerHasSeriesOfItsOwnWhileItIsAMember(t *testing.T) {
	const down = 33
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	a.transport.SetPeer(down, []string{"http://127.0.0.1:1"})
	talking(t, a, b, other)
	m := &a.transport.metrics
	for id := uint64(0); id != down; id = wait(t, "the other to be found down", a.unreachable) {
	}
	eventually(t, "a round trip", func() bool { return len(labels(m.roundTrip)) == 1 })
	for _, test := range []struct {
		name string
		of   prometheus.Collector
		want []string
	}{
		{"active", m.active, []string{"Local=" + hex(self) + " Remote=" + hex(other) + " ", "Local=" + hex(self) + " Remote=" + hex(down) + " "}},
		{"sent", m.sent, []string{"To=" + hex(other) + " ", "To=" + hex(down) + " "}},
		{"received", b.transport.metrics.received, []string{"From=" + hex(self) + " "}},
		{"round trips", m.roundTrip, []string{"To=" + hex(other) + " "}},
	} {
		got := labels(test.of)
		for _, want := range test.want {
			if !slices.Contains(got, want) || len(got) != len(test.want) {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
	}
	failures := func(id string) (n float64) {
		each(m.sendFailures, func(d *dto.Metric) {
			if d.Label[0].GetValue() == id {
				n = d.GetCounter().GetValue()
			}
		})
		return n
	}
	if failures(hex(down)) == 0 || failures(hex(other)) != 0 {
		t.Errorf("%v failures of the member that is down, %v of the other", failures(hex(down)), failures(hex(other)))
	}
	a.transport.RemovePeer(down)
	eventually(t, "a stranger to be forgotten", func() bool { return len(labels(m.sendFailures)) == 1 && len(labels(m.active)) == 1 })
}
