package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/tools/raftkv/member"
)

var (
	histories = flag.Int("histories", 24, "how many histories to check for linearizability")
	seed      = flag.Uint64("seed", 0, "the first history's seed; 0 is by the clock")
)

// input is an operation on one key, and output what it answered.
type input struct {
	kind       byte // p: put; g: get; c: compare, and set if equal; m: perhaps that
	key        string
	old, value string
}

type output struct {
	value string
	ok    bool // of a cas
}

// register says what the operations on a key mean: a key has the value that was put last, "" at
// first.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(input).key
			byKey[k] = append(byKey[k], op)
		}
		var parts [][]porcupine.Operation
		for _, ops := range byKey {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		i, o := in.(input), out.(output)
		switch i.kind {
		case 'p':
			return true, i.value
		case 'g':
			return o.value == state.(string), state
		}
		switch {
		case i.kind == 'm' && state.(string) == i.old: // a cas that no client heard the answer of
			return true, i.value
		case i.kind == 'm':
			return true, state
		case o.ok:
			return state.(string) == i.old, i.value
		}
		return state.(string) != i.old, state
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprint(in, " -> ", out) },
}

// recorder collects a history.
type recorder struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
	known int // operations of which the outcome is known
}

func (r *recorder) now() int64 { return int64(time.Since(r.began)) }

// client does random operations until it is told to stop, each on a random member.
func (r *recorder) client(s *sim, id int, rng *rand.Rand, stop <-chan struct{}, serial *atomic.Int64) {
	last := ""
	for {
		select {
		case <-stop:
			return
		default:
		}
		ids := s.current()
		n := s.get(ids[rng.IntN(len(ids))])
		if n == nil {
			time.Sleep(time.Millisecond) // its power is off: it cannot be asked
			continue
		}
		i := input{kind: "ppggc"[rng.IntN(5)], key: fmt.Sprint("k", rng.IntN(3)), value: fmt.Sprint(serial.Add(1)), old: last}
		if i.kind == 'c' && i.old == "" {
			// A comparison with a value that is not there never holds; the model knows only values.
			i.kind = 'p'
		}
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		var (
			o   output
			err error
		)
		s.quiet.RLock()
		call := r.now()
		switch i.kind {
		case 'p':
			_, err = n.put(ctx, i.key, i.value)
		case 'g':
			o.value, err = n.read(ctx, i.key)
			last = o.value
		case 'c':
			o.ok, err = n.cas(ctx, i.key, i.old, i.value)
		}
		s.quiet.RUnlock()
		cancel()
		r.add(id, i, o, err, call)
	}
}

func (r *recorder) add(client int, i input, o output, err error, call int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op := porcupine.Operation{ClientId: client, Input: i, Output: o, Call: call, Return: r.now()}
	if err != nil {
		if i.kind == 'g' || errors.Is(err, ErrTooMany) {
			return // it changed nothing and said nothing
		}
		// It may take effect at any time from its call on. Never is the same as after everything
		// that was seen.
		op.Return = 1 << 62
		op.Input = input{kind: 'p', key: i.key, value: i.value}
		if i.kind == 'c' {
			op.Input = input{kind: 'm', key: i.key, old: i.old, value: i.value}
		}
	} else {
		r.known++
	}
	r.ops = append(r.ops, op)
}

// misfortune is one bad thing that happens to a cluster for a while.
type misfortune struct {
	name string
	do   func(s *sim, rng *rand.Rand) (undo func())
}

func victim(s *sim, rng *rand.Rand) uint64 {
	if rng.IntN(2) == 0 {
		for _, id := range s.current() {
			if n := s.get(id); n != nil && n.Status().Leader == id {
				return id
			}
		}
	}
	ids := s.current()
	return ids[rng.IntN(len(ids))]
}

func choose(rng *rand.Rand) crashfs.Chooser {
	return []crashfs.Chooser{crashfs.DropAll, crashfs.KeepAll, crashfs.Random(rng), crashfs.Tear(rng), crashfs.Garbage(rng)}[rng.IntN(5)]
}

var misfortunes = []misfortune{
	{"a power cut", func(s *sim, rng *rand.Rand) func() {
		id := victim(s, rng)
		s.crash(id, choose(rng))
		return func() { s.start(id) }
	}},
	{"a power cut of all", func(s *sim, rng *rand.Rand) func() {
		for _, id := range s.current() {
			s.crash(id, choose(rng))
		}
		return func() { s.startAll() }
	}},
	{"a partition", func(s *sim, rng *rand.Rand) func() {
		s.partition(victim(s, rng))
		return func() { s.partition() }
	}},
	{"a slow network", func(s *sim, rng *rand.Rand) func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.delay = 8 * time.Millisecond
		return func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.delay = 0
		}
	}},
	{"a slow disk", func(s *sim, rng *rand.Rand) func() {
		n := s.get(victim(s, rng))
		n.disk.SetFault(func(op crashfs.Op) error {
			if op.Kind == crashfs.OpSyncData {
				time.Sleep(20 * time.Millisecond) // this is what a slow disk is
			}
			return nil
		})
		return func() { n.disk.SetFault(nil) }
	}},
	{"a failing disk", func(s *sim, rng *rand.Rand) func() {
		id := victim(s, rng)
		n := s.get(id)
		n.disk.SetFault(func(op crashfs.Op) error {
			if op.Kind == crashfs.OpSyncData {
				return syscall.EIO
			}
			return nil
		})
		return func() {
			s.crash(id, choose(rng))
			s.start(id)
		}
	}},
	{"a member that lags far", func(s *sim, rng *rand.Rand) func() {
		id := victim(s, rng)
		s.crash(id, choose(rng))
		before := s.leader().Status().Applied
		s.eventually("the others to be far ahead", func() bool { return s.leader().Status().Applied > before+60 })
		return func() { s.start(id) }
	}},
	{"a leader that hands over", func(s *sim, rng *rand.Rand) func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n := s.leader()
		_ = n.MoveLeader(ctx, victim(s, rng)) // which may be itself
		return func() {}
	}},
}

// some returns a few misfortunes out of many.
func some(rng *rand.Rand, among []misfortune) (out []misfortune) {
	for range 4 {
		out = append(out, among[rng.IntN(len(among))])
	}
	return out
}

// change makes one change of the members, however often it has to be asked for.
func (s *sim) change(t raftpb.ConfChangeType, id uint64, c member.Change) {
	s.t.Helper()
	s.eventually("a change of the members", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		lead := s.leader()
		err := lead.Reconfigure(ctx, t, id, c)
		_, is := lead.Members().Get(id)
		return err == nil || errors.Is(err, member.ErrExists) || errors.Is(err, member.ErrNotLearner) || errors.Is(err, member.ErrRemoved) && !is
	})
}

// admit has the cluster take a new member right after a snapshot, and waits until it has caught up.
// Nothing is written meanwhile, so that no other snapshot is made for any other reason.
func (s *sim) admit(rng *rand.Rand) member.Member {
	s.t.Helper()
	s.quiet.Lock()
	defer s.quiet.Unlock()
	s.afterSnapshot()
	m := s.newMember(rng.IntN(2) == 0)
	s.change(adding(m), m.ID, member.Change{Member: m})
	n := s.join(m)
	s.eventually("the new member to have caught up", func() bool {
		_, is := n.Members().Get(m.ID)
		return is && n.Status().Applied >= s.leader().Status().Applied
	})
	if m.IsLearner {
		s.eventually("the learner to be ready", func() bool { return s.leader().Promotable(timeout(s.t), m.ID) == nil })
		s.change(raftpb.ConfChangeAddNode, m.ID, member.Change{Member: member.Member{ID: m.ID}, IsPromote: true})
	}
	return m
}

// joins are in every history.
var joins = []misfortune{
	{"a member that comes right after a snapshot, and goes", func(s *sim, rng *rand.Rand) func() {
		m := s.admit(rng)
		return func() {
			s.change(raftpb.ConfChangeRemoveNode, m.ID, member.Change{})
			s.crash(m.ID, crashfs.KeepAll)
		}
	}},
	{"a member that is replaced right after a snapshot", func(s *sim, rng *rand.Rand) func() {
		gone := victim(s, rng)
		s.crash(gone, choose(rng))
		s.change(raftpb.ConfChangeRemoveNode, gone, member.Change{})
		m := s.admit(rng)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.voters[slices.Index(s.voters, gone)] = m.ID
		return func() {}
	}},
}

// run has clients work on a cluster while it meets with misfortunes, and returns what they saw.
func runHistory(t testing.TB, seed uint64, sab saboteur, bad []misfortune) (history []porcupine.Operation, known int) {
	rng := rand.New(rand.NewPCG(seed, 7))
	s := newSim(t, 3, Config{SnapshotEntries: 40, CatchUpEntries: 10, RequestTimeout: 300 * time.Millisecond, saboteur: sab})
	if sab.applyBeforeCommit {
		s.cfg.SnapshotEntries = 1 << 40 // raft itself would notice one that is ahead of the log
	}
	s.startAll()
	s.leader()
	r := &recorder{began: time.Now()}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var serial atomic.Int64
	end := sync.OnceFunc(func() {
		close(stop)
		clients.Wait()
	})
	defer end()
	for id := range 5 {
		clients.Add(1)
		own := rand.New(rand.NewPCG(seed, uint64(id)))
		go func() {
			defer clients.Done()
			r.client(s, id, own, stop, &serial)
		}()
	}
	for _, m := range bad {
		t.Logf("%8.3fs %s", time.Since(r.began).Seconds(), m.name)
		undo := m.do(s, rng)
		wait(r, 150, 300*time.Millisecond)
		undo()
		wait(r, 100, time.Second)
	}
	end()
	// What all agree on in the end is a part of the history: it must have room for every write that
	// was acknowledged.
	for k := range 3 {
		i := input{kind: 'g', key: fmt.Sprint("k", k)}
		s.eventually("a last read", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			call := r.now()
			v, err := s.leader().read(ctx, i.key)
			r.add(9, i, output{value: v}, err, call)
			return err == nil
		})
	}
	if sab == (saboteur{}) {
		s.agree()
	}
	return r.ops, r.known
}

// wait returns when that many more operations have an outcome, or the time is over.
func wait(r *recorder, operations int, most time.Duration) {
	r.mu.Lock()
	target := r.known + operations
	r.mu.Unlock()
	deadline := time.Now().Add(most)
	for time.Now().Before(deadline) {
		r.mu.Lock()
		done := r.known >= target
		r.mu.Unlock()
		if done {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func check(history []porcupine.Operation) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(register, history, 30*time.Second)
}

func firstSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return uint64(time.Now().UnixNano())
}

func TestHistoriesAreLinearizableThroughCrashesPartitionsAndChangesOfMembers(t *testing.T) {
	first := firstSeed()
	t.Logf("-seed %d", first)
	var total atomic.Int64
	t.Run("histories", func(t *testing.T) {
		for i := range *histories {
			t.Run(fmt.Sprint("seed ", first+uint64(i)), func(t *testing.T) {
				t.Parallel()
				seed := first + uint64(i)
				rng := rand.New(rand.NewPCG(seed, 11))
				bad := append(some(rng, misfortunes), joins...)
				rng.Shuffle(len(bad), func(i, j int) { bad[i], bad[j] = bad[j], bad[i] })
				history, known := runHistory(t, seed, saboteur{}, bad)
				total.Add(int64(known))
				if got := check(history); got != porcupine.Ok {
					t.Errorf("%d operations, %d with a known outcome: %s", len(history), known, got)
				}
				if known < 100 {
					t.Errorf("only %d operations had an outcome: this shows nothing", known)
				}
			})
		}
	})
	t.Logf("%d operations in %d histories", total.Load(), *histories)
}

// runSabotaged runs a history and says what is wrong with it, if anything is: that it is not
// linearizable, or that a member cannot go on from what the saboteur has left on its disk.
func runSabotaged(t *testing.T, seed uint64, sab saboteur, among []misfortune) (why string) {
	tb := &deaf{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if history, _ := runHistory(tb, seed, sab, some(rand.New(rand.NewPCG(seed, 11)), among)); check(history) == porcupine.Illegal {
			tb.Errorf("not linearizable")
		}
	}()
	<-done
	return tb.said()
}

// deaf is a test that keeps what should make it fail to itself.
type deaf struct {
	testing.TB
	mu    sync.Mutex
	first string
}

func (d *deaf) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.first
}

func (d *deaf) Errorf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.first == "" {
		d.first = fmt.Sprintf(format, args...)
	}
}

func (d *deaf) Error(args ...any) { d.Errorf("%s", fmt.Sprint(args...)) }

func (d *deaf) Fatalf(format string, args ...any) {
	d.Errorf(format, args...)
	runtime.Goexit()
}

func (d *deaf) Fatal(args ...any) { d.Fatalf("%s", fmt.Sprint(args...)) }

func TestSaboteursAreCaught(t *testing.T) {
	for _, test := range []struct {
		name  string
		sab   saboteur
		among []misfortune
	}{
		{"acknowledges before the sync", saboteur{ackBeforeSync: true}, []misfortune{{"a power cut of all while disks are slow", func(s *sim, rng *rand.Rand) func() {
			for id := uint64(1); id <= 3; id++ {
				s.get(id).disk.SetFault(func(op crashfs.Op) error {
					if op.Kind == crashfs.OpSyncData {
						// What was acknowledged meanwhile is not there yet.
						time.Sleep(20 * time.Millisecond)
					}
					return nil
				})
			}
			s.leader()
			// Time for the clients to write; if they do not, another history will show it.
			time.Sleep(50 * time.Millisecond)
			for id := uint64(1); id <= 3; id++ {
				s.crash(id, crashfs.DropAll)
			}
			return func() { s.startAll() }
		}}}},
		{"applies before the commit", saboteur{applyBeforeCommit: true}, misfortunes[2:3]},
		{"reads without asking the others", saboteur{staleReads: true}, misfortunes[2:3]},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			first := firstSeed()
			for i := range uint64(30) {
				// That something takes long shows nothing.
				if why := runSabotaged(t, first+i, test.sab, test.among); why != "" && !strings.HasPrefix(why, "still waiting") {
					t.Logf("caught in history %d: %s", i+1, why)
					return
				}
			}
			t.Error("not caught in 30 histories")
		})
	}
}
