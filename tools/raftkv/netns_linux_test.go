package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// ip runs ip of iproute2.
func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// A namespaced cluster has a network stack for each member and two wires from each: one to its
// peers and one to the clients. What a wire drops is gone without a word, as it is between
// machines.
type namespaced struct {
	*testCluster
	id string // that tells its devices from those of others
}

// This machine's end of a wire.
func (n *namespaced) peers(name string) string { return "p" + n.id + name }

// newNamespaced moves the members of a cluster that has not started into namespaces of their own.
func newNamespaced(c *testCluster) (*namespaced, error) {
	n := &namespaced{c, fmt.Sprintf("%04x", rand.Uint32N(1<<16))}
	subnet := rand.IntN(250)
	bridge, clients := "p"+n.id, "c"+n.id
	c.t.Cleanup(func() {
		// Some of it may not have been made.
		for _, name := range c.names() {
			_ = ip("netns", "del", n.id+name)
			_ = ip("link", "del", n.peers(name))
			_ = ip("link", "del", clients+name)
		}
		_ = ip("link", "del", bridge)
		_ = ip("link", "del", clients)
	})
	steps := [][]string{
		{"link", "add", bridge, "type", "bridge"}, {"link", "set", bridge, "up"},
		{"link", "add", clients, "type", "bridge"}, {"link", "set", clients, "up"},
		{"addr", "add", fmt.Sprintf("10.213.%d.254/24", subnet), "dev", clients},
	}
	for i, name := range c.names() {
		m, ns := c.members[name], n.id+name
		steps = append(steps, []string{"netns", "add", ns}, []string{"-n", ns, "link", "set", "lo", "up"})
		for _, wire := range []struct{ here, there, to, address string }{
			{n.peers(name), "peers", bridge, fmt.Sprintf("10.214.%d.%d", subnet, i+1)},
			{clients + name, "clients", clients, fmt.Sprintf("10.213.%d.%d", subnet, i+1)},
		} {
			steps = append(steps,
				[]string{"link", "add", wire.here, "type", "veth", "peer", "name", wire.there, "netns", ns},
				[]string{"link", "set", wire.here, "master", wire.to, "up"},
				[]string{"-n", ns, "addr", "add", wire.address + "/24", "dev", wire.there},
				[]string{"-n", ns, "link", "set", wire.there, "up"})
		}
		m.client, m.peer = fmt.Sprintf("http://10.213.%d.%d:2379", subnet, i+1), fmt.Sprintf("http://10.214.%d.%d:2380", subnet, i+1)
		m.wrapper = []string{"ip", "netns", "exec", ns}
	}
	for _, step := range steps {
		if err := ip(step...); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// wire has the wire from a member to its peers let everything through, or nothing.
func (n *namespaced) wire(name, upOrDown string) {
	if err := ip("link", "set", n.peers(name), upOrDown); err != nil {
		n.t.Error(err)
	}
}

// way has a member reach another, or not; the other way it stays as it is.
func (n *namespaced) way(verb, from, to string) {
	address, _, _ := strings.Cut(strings.TrimPrefix(n.members[to].peer, "http://"), ":")
	if err := ip("-n", n.id+from, "route", verb, "blackhole", address+"/32"); err != nil {
		n.t.Error(err)
	}
}

func TestHistoriesAreLinearizableWhenWiresDropWhatIsSent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: not root, which alone can make network namespaces")
	}
	w := newWorld(t, firstSeed(t), 3)
	n, err := newNamespaced(w.testCluster)
	if err != nil {
		t.Skipf("SKIPPED: no network namespaces here: %v", err)
	}
	w.live([]misfortune{
		{"a wire that is out", func(w *world) func() {
			leader := w.leads(w.founders()...)
			n.wire(leader, "down")
			w.leads(w.others(leader)...)
			w.outcomes(50)
			return func() { n.wire(leader, "up") }
		}},
		{"a way that leads nowhere", func(w *world) func() {
			leader, other := w.leader()
			n.way("add", other, leader)
			w.outcomes(100)
			return func() { n.way("del", other, leader) }
		}},
		deaths[0],
		joins[0],
		joins[1],
		{"all wires out", func(w *world) func() {
			before := w.history.outcomes()
			for _, name := range w.founders() {
				n.wire(name, "down")
			}
			eventually(t, "the leader to notice", func() bool { return !w.led() })
			t.Logf("%d operations had an outcome until then", w.history.outcomes()-before)
			return func() {
				for _, name := range w.founders() {
					n.wire(name, "up")
				}
			}
		}},
	})
}
