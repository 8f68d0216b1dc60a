package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/stele-wal/stele/wal"
)

var (
	histories = flag.Int("histories", 8, "how many histories of processes to check for linearizability")
	seed      = flag.Uint64("seed", 0, "the first history's seed; 0 is by the clock")
)

// A world is a cluster of processes, the network between them, and what clients see of both.
type world struct {
	*testCluster
	net     *mesh // nil if the network is not the test's
	rng     *rand.Rand
	history *history
}

// newWorld returns a cluster in which snapshots are made often and hold a little more than nothing,
// and elections are short.
func newWorld(t testing.TB, seed uint64, members int) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), history: &history{began: time.Now()}}
	w.testCluster = newCluster(t, raftkv(), members, 1, "--heartbeat-interval", "40", "--election-timeout", "400", "--snapshot-count", "150",
		"--snapshot-catchup-entries", "150", "--wal-segment-bytes", "65536", "--strict-reconfig-check=false")
	return w
}

// live has clients work on a cluster while it meets with misfortunes, and checks what they were
// told and what the cluster has become.
func (w *world) live(among []misfortune) {
	w.t.Helper()
	w.start()
	w.leads(w.founders()...)
	w.settle()
	for i := range 16 {
		eventually(w.t, "ballast", func() bool {
			return put(w.conn("n1"), fmt.Sprint("ballast", i), strings.Repeat("b", 16<<10), time.Second) == nil
		})
	}
	w.endure(among)
	w.agree()
	check(w.t, w.history)
}

// endure has clients work while the cluster meets with misfortunes, and in the end read from every
// member: what they agree on is a part of the history, which must have room for every write that
// was acknowledged.
func (w *world) endure(among []misfortune) {
	w.t.Helper()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	end := sync.OnceFunc(func() {
		close(stop)
		clients.Wait()
	})
	defer end()
	var conns []*grpc.ClientConn
	for _, name := range w.founders() {
		conns = append(conns, w.conn(name))
	}
	for id := range 5 {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), uint64(id)))
		clients.Go(func() { w.history.client(id, rng, conns, stop) })
	}
	w.outcomes(50)
	for _, m := range among {
		w.t.Logf("%8.3fs %s", time.Since(w.history.began).Seconds(), m.name)
		undo := m.do(w)
		undo()
		w.outcomes(60)
	}
	end()
	w.readAll(w.history, w.founders()...)
}

// readAll has members read the keys of a history.
func (w *world) readAll(h *history, from ...string) {
	w.t.Helper()
	for i := range historyKeys {
		for _, name := range from {
			eventually(w.t, "a last read of "+name, func() bool {
				_, err := h.do(9, w.conn(name), operation{kind: 'g', key: h.key(i)}, 2*time.Second)
				return err == nil
			})
		}
	}
}

// outcomes waits until that many more operations have an outcome.
func (w *world) outcomes(n int) {
	w.t.Helper()
	target := w.history.outcomes() + n
	eventually(w.t, "clients to be answered", func() bool { return w.history.outcomes() >= target })
}

// agree checks that the founders hold the same, end when they are told to, and leave whole logs.
func (w *world) agree() {
	w.t.Helper()
	w.same()
	for _, name := range w.founders() {
		m := w.members[name]
		if err := m.end(syscall.SIGTERM); err != nil {
			w.t.Errorf("%s ended with %v\n%s", name, err, tail(m.log.String(), 2000))
		}
		report, err := wal.Check(filepath.Join(m.dir, "member", "wal"), nil)
		if err != nil || len(report.Findings) > 0 {
			w.t.Errorf("the log of %s: %v, %v", name, report.Findings, err)
		}
	}
}

// same checks that the founders hold the same.
func (w *world) same() {
	w.t.Helper()
	hashes := map[uint32][]string{}
	for _, name := range w.founders() {
		ctx, cancel := context.WithTimeout(context.Background(), enough)
		h, err := pb.NewMaintenanceClient(w.conn(name)).HashKV(ctx, &pb.HashKVRequest{})
		cancel()
		if err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
		hashes[h.GetHash()] = append(hashes[h.GetHash()], name)
	}
	if len(hashes) != 1 {
		w.t.Errorf("what they hold differs: %v", hashes)
	}
}

// victim returns the leader, or any other.
func (w *world) victim() string {
	if w.rng.IntN(2) == 0 {
		return w.leads(w.running()...)
	}
	names := w.founders()
	return names[w.rng.IntN(len(names))]
}

func (w *world) running() []string {
	return slices.DeleteFunc(w.founders(), func(name string) bool { return w.members[name].cmd == nil })
}

func (w *world) others(name string) []string {
	return slices.DeleteFunc(w.founders(), func(other string) bool { return other == name })
}

// applied returns how far a member is, 0 if it does not say.
func (w *world) applied(name string) uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := pb.NewMaintenanceClient(w.conn(name)).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return 0
	}
	return s.RaftAppliedIndex
}

// led reports whether any member knows a leader.
func (w *world) led() bool {
	return slices.ContainsFunc(w.running(), func(name string) bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s, err := pb.NewMaintenanceClient(w.conn(name)).Status(ctx, &pb.StatusRequest{})
		return err != nil || s.Leader != 0
	})
}

// both sets the rules in both directions between some members and others.
func (w *world) both(a, b []string, change func(*rules)) {
	for _, l := range slices.Concat(w.net.between(a, b), w.net.between(b, a)) {
		l.set(change)
	}
}

func heal(r *rules) { *r = rules{} }

// A misfortune is something bad that happens to a cluster for a while. do returns once it has had
// its effect.
type misfortune struct {
	name string
	do   func(w *world) (undo func())
}

// These need nothing but processes.
var deaths = []misfortune{
	{"SIGKILL", func(w *world) func() {
		name := w.victim()
		_ = w.members[name].end(syscall.SIGKILL)
		w.leads(w.running()...)
		w.outcomes(50)
		return func() { w.start(name) }
	}},
	{"SIGKILL to all", func(w *world) func() {
		for _, name := range w.founders() {
			_ = w.members[name].end(syscall.SIGKILL)
		}
		return func() { w.start() }
	}},
	{"SIGTERM", func(w *world) func() {
		name := w.victim()
		if err := w.members[name].end(syscall.SIGTERM); err != nil {
			w.t.Errorf("%s ended with %v", name, err)
		}
		w.outcomes(50)
		return func() { w.start(name) }
	}},
	{"a process that stands still", func(w *world) func() {
		name := w.victim()
		p := w.members[name].cmd.Process
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			w.t.Error(err)
		}
		w.leads(w.others(name)...)
		w.outcomes(30)
		return func() { _ = p.Signal(syscall.SIGCONT) } // should it have ended, its end will show
	}},
	{"a leader that hands over", func(w *world) func() {
		w.move(w.leader())
		return func() {}
	}},
}

// These are in every history.
var joins = []misfortune{
	{"a member that comes right after a snapshot, and goes", func(w *world) func() {
		names := w.names()
		m := w.members[names[len(names)-1]]
		w.admit(m)
		return func() {
			w.outcomes(30)
			w.remove(m)
			if err := w.ends(m.name); err == nil {
				w.t.Errorf("%s was removed, and ended as if nothing was wrong", m.name)
			}
			m.dir += "-again" // should it come again it is another
		}
	}},
	{"a lost disk, and a member that takes the place right after a snapshot", func(w *world) func() {
		m := w.members[w.victim()]
		_ = m.end(syscall.SIGKILL)
		w.wipe(m.name)
		w.forgets(m.name) // it does not come back as it was
		w.remove(m)
		m.replaced = true
		w.admit(m)
		return func() {}
	}},
}

// These happen to the network between the members.
var partitions = []misfortune{
	{"a member that is cut off", func(w *world) func() {
		name := w.victim()
		w.both([]string{name}, w.others(name), func(r *rules) { r.cut = true })
		w.leads(w.others(name)...)
		w.outcomes(50)
		return func() { w.both([]string{name}, w.others(name), heal) }
	}},
	{"a member that no other hears", func(w *world) func() {
		name := w.victim()
		links := w.net.between([]string{name}, w.others(name))
		for _, l := range links {
			l.set(func(r *rules) { r.mute = true })
		}
		w.leads(w.others(name)...)
		w.outcomes(50)
		late := w.rng.IntN(2) == 0
		return func() {
			for _, l := range links {
				if late {
					l.late() // all that it said meanwhile is heard now
				} else {
					l.set(heal)
				}
			}
		}
	}},
	{"a member that hears no other", func(w *world) func() {
		name := w.victim()
		links := w.net.between(w.others(name), []string{name})
		for _, l := range links {
			l.set(func(r *rules) { r.mute = true })
		}
		w.outcomes(50)
		return func() {
			for _, l := range links {
				l.set(heal)
			}
		}
	}},
	{"connections of which one direction is dead", func(w *world) func() {
		name := w.victim()
		w.both([]string{name}, w.others(name), func(r *rules) { r.deaf = true })
		w.outcomes(80)
		return func() { w.both([]string{name}, w.others(name), heal) }
	}},
	{"two members that do not see each other", func(w *world) func() {
		leader, other := w.leader()
		w.both([]string{leader}, []string{other}, func(r *rules) { r.cut = true })
		w.outcomes(80)
		return func() { w.both([]string{leader}, []string{other}, heal) }
	}},
	{"a slow network", func(w *world) func() {
		w.both(w.founders(), w.founders(), func(r *rules) { r.delay = 15 * time.Millisecond })
		w.outcomes(80)
		return func() { w.both(w.founders(), w.founders(), heal) }
	}},
	{"a member that lags far, on a narrow network that breaks", func(w *world) func() {
		name := w.victim()
		_ = w.members[name].end(syscall.SIGKILL)
		leader := w.leads(w.running()...)
		before := w.applied(leader)
		eventually(w.t, "the others to be far ahead", func() bool { return w.applied(w.leads(w.running()...)) > before+400 })
		w.both([]string{name}, w.others(name), func(r *rules) { r.rate, r.each = 1<<20, 160<<10 })
		w.start(name)
		return func() {
			target := w.applied(w.leads(w.running()...))
			eventually(w.t, name+" to catch up", func() bool { return w.applied(name) >= target })
			w.both([]string{name}, w.others(name), heal)
		}
	}},
}

// admit has the cluster take a member right after a snapshot, and waits until it has caught up and
// has a vote. Nothing is written meanwhile, so that no other snapshot is made for any other reason.
func (w *world) admit(m *testMember) {
	w.t.Helper()
	w.history.quiet.Lock()
	defer w.history.quiet.Unlock()
	made := func(name string) int { return strings.Count(w.members[name].log.String(), "made a snapshot") }
	leader := w.leads(w.running()...)
	before := made(leader)
	eventually(w.t, "a snapshot", func() bool {
		if now := w.leads(w.running()...); now != leader {
			leader, before = now, made(now)
		}
		_ = put(w.conn(leader), "filler", "", time.Second) // it need not be every one
		return made(leader) > before
	})
	w.add(m.name, w.rng.IntN(2) == 0, w.running()...)
	w.start(m.name)
	w.caughtUp(m.name)
	w.promote(m)
	eventually(w.t, m.name+" to introduce itself", func() bool { return w.list()[m.name].GetName() != "" })
}

// change asks the leader for a change of the members until it is there. An answer may be lost, and
// then it is there already.
func (w *world) change(what string, f func(context.Context, pb.ClusterClient) error) {
	w.t.Helper()
	eventually(w.t, what, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return f(ctx, pb.NewClusterClient(w.conn(w.leads(w.running()...)))) == nil
	})
}

// promote makes a learner a voter. One that is a voter already stays one.
func (w *world) promote(m *testMember) {
	w.t.Helper()
	w.change("the voter "+m.name, func(ctx context.Context, c pb.ClusterClient) error {
		l := w.list()[m.name]
		if l == nil || !l.IsLearner {
			return nil
		}
		_, err := c.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: l.GetID()})
		return err
	})
}

func (w *world) remove(m *testMember) {
	w.t.Helper()
	w.change("the removal of "+m.name, func(ctx context.Context, c pb.ClusterClient) error {
		l := w.list()[m.name]
		if l == nil {
			return nil
		}
		_, err := c.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: l.ID})
		return err
	})
}

func firstSeed(t *testing.T) uint64 {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", first)
	return first
}

// Each history has four misfortunes, of which a run has every one as often as the others, and in
// each members join right after snapshots.
func TestHistoriesOfProcessesAreLinearizable(t *testing.T) {
	first := firstSeed(t)
	const each = 4
	var deck []misfortune
	rng := rand.New(rand.NewPCG(first, 1))
	for len(deck) < *histories*each {
		all := slices.Concat(deaths, partitions)
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		deck = append(deck, all...)
	}
	var total atomic.Int64
	t.Run("histories", func(t *testing.T) {
		for i := range *histories {
			members := 3 + 2*(i%4/3) // one of four has five
			t.Run(fmt.Sprintf("%d of %d members", i+1, members), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, first+uint64(i), members)
				w.net = newMesh(w.testCluster)
				bad := slices.Concat(deck[i*each:][:each], joins)
				w.rng.Shuffle(len(bad), func(i, j int) { bad[i], bad[j] = bad[j], bad[i] })
				w.live(bad)
				total.Add(int64(w.history.outcomes()))
			})
		}
	})
	t.Logf("%d operations in %d histories", total.Load(), *histories)
}
