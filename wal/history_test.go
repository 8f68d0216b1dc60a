package wal

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal/internal/history"
	"github.com/stele-wal/stele/walpb"
	"pgregory.net/rapid"
)

// node is a model of a member of a cluster, as plain as can be: what it knows, and the records that
// it has written.
type node struct {
	oldOrder  bool // it commits a snapshot that a leader sent before it records that
	records   []Record
	snapshot  walpb.Snapshot // before the first entry
	entries   []walpb.Entry
	state     walpb.HardState
	snapshots []walpb.Snapshot // all that were recorded
	// dangling are those of snapshots that a crash kept from taking effect. The cluster has
	// committed them all the same.
	dangling []walpb.Snapshot
}

func newNode() *node {
	n := &node{}
	n.write(walpb.TypeCRC, nil)
	n.write(walpb.TypeMetadata, []byte("meta"))
	n.record(walpb.Snapshot{})
	return n
}

func (n *node) write(t walpb.Type, data []byte) {
	n.records = append(n.records, Record{Segment: "model", Offset: int64(len(n.records)), Record: walpb.Record{Type: t, Data: data, HasHeaderCRC: true}})
}

func (n *node) record(s walpb.Snapshot) {
	n.write(walpb.TypeSnapshot, s.Append(nil))
	n.snapshots = append(n.snapshots, s)
}

func (n *node) setState(s walpb.HardState) {
	n.state = s
	n.write(walpb.TypeState, s.Append(nil))
}

func (n *node) last() uint64 { return n.snapshot.Index + uint64(len(n.entries)) }

func (n *node) term(index uint64) uint64 {
	if index == n.snapshot.Index {
		return n.snapshot.Term
	}
	return n.entries[index-n.snapshot.Index-1].Term
}

// overwrite appends count entries from index on, in the current term.
func (n *node) overwrite(index uint64, count int) {
	n.entries = n.entries[:index-n.snapshot.Index-1]
	for range count {
		e := walpb.Entry{Term: n.state.Term, Index: n.last() + 1, Data: fmt.Appendf(nil, "%d/%d", n.last()+1, n.state.Term)}
		n.entries = append(n.entries, e)
		n.write(walpb.TypeEntry, e.Append(nil))
	}
}

// install takes a snapshot from a leader. A crash may come before the hard state that makes it
// effective.
func (n *node) install(s walpb.Snapshot, crash bool) {
	if !crash && n.oldOrder {
		n.installLate(s)
		return
	}
	n.record(s)
	if crash {
		n.dangling = append(n.dangling, s)
		return
	}
	if s.Index > n.last() || n.term(s.Index) != s.Term {
		n.snapshot, n.entries = s, nil
	}
	state := n.state
	state.Term, state.Commit = max(state.Term, s.Term), s.Index
	n.setState(state)
}

// installLate is install by a writer that saves the hard state, and with it the first entries after
// the snapshot if there are any, before the snapshot's record.
func (n *node) installLate(s walpb.Snapshot) {
	lacks := s.Index > n.last() || n.term(s.Index) != s.Term
	if s.Index <= n.last() && lacks {
		// By the time it commits s, such a writer cannot say that s is another entry than its own.
		return
	}
	n.state.Term = max(n.state.Term, s.Term)
	if lacks {
		n.snapshot, n.entries = s, nil
		n.overwrite(s.Index+1, int(s.Index%3))
	}
	state := n.state
	state.Commit = s.Index
	n.setState(state)
	n.record(s)
}

// committable returns how far the node can learn that its entries are committed: not to what
// contradicts the cluster's.
func (n *node) committable() uint64 {
	last := n.last()
	for _, s := range n.dangling {
		if s.Index > n.state.Commit && s.Index <= last && n.term(s.Index) != s.Term {
			last = s.Index - 1
		}
	}
	return last
}

// missed returns a snapshot that the cluster has committed and that is at odds with this node's
// log, or not in it yet.
func (n *node) missed() (walpb.Snapshot, bool) {
	for _, s := range n.dangling {
		if s.Index > n.state.Commit && (s.Index > n.last() || n.term(s.Index) != s.Term) {
			return s, true
		}
	}
	return walpb.Snapshot{}, false
}

// follow appends entries from index on, as far as a leader can have sent them: the leader of the
// term of a missed snapshot, or of a later one, has its entry, and sends that first.
func (n *node) follow(index uint64, count int) {
	if s, ok := n.missed(); ok && (n.state.Term > s.Term || n.state.Term == s.Term && index+uint64(count) > s.Index) {
		if s.Index > n.last()+1 || n.term(s.Index-1) > s.Term {
			return
		}
		state := n.state
		n.state.Term = s.Term
		n.overwrite(s.Index, 1)
		n.state = state
		index = n.last() + 1
		if _, ok := n.missed(); ok {
			return
		}
	}
	n.overwrite(index, count)
}

// holds reports whether the node has the entry of a snapshot.
func (n *node) holds(s walpb.Snapshot) bool {
	return s.Index <= n.last() && s.Index >= n.snapshot.Index && n.term(s.Index) == s.Term
}

// possible reports whether the cluster can have committed the entry of s, given what it has: terms
// rise, and logs that have an entry in common are the same up to it.
func (n *node) possible(s walpb.Snapshot) bool {
	if s.Term < n.term(n.state.Commit) {
		return false
	}
	for _, d := range n.dangling {
		if d.Index <= n.state.Commit {
			continue
		}
		switch {
		case d.Index == s.Index && d.Term != s.Term, d.Index < s.Index && d.Term > s.Term, d.Index > s.Index && d.Term < s.Term:
			return false
		case d.Index <= s.Index && n.holds(s) && !n.holds(d), d.Index >= s.Index && n.holds(d) && !n.holds(s):
			return false
		}
	}
	return true
}

func (n *node) seq() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, r := range n.records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (n *node) step(t *rapid.T) {
	switch op := rapid.SampledFrom([]string{"append", "append", "overwrite", "commit", "term", "local", "install", "installCrash"}).Draw(t, "op"); op {
	case "append":
		n.follow(n.last()+1, rapid.IntRange(1, 3).Draw(t, "count"))
	case "overwrite":
		s := n.state
		s.Term++
		n.setState(s)
		n.follow(rapid.Uint64Range(n.state.Commit+1, n.last()+1).Draw(t, "at"), rapid.IntRange(1, 3).Draw(t, "count"))
	case "commit":
		s := n.state
		s.Commit = rapid.Uint64Range(s.Commit, n.committable()).Draw(t, "commit")
		n.setState(s)
	case "term":
		s := n.state
		s.Term, s.Vote = s.Term+1, rapid.Uint64Range(0, 3).Draw(t, "vote")
		n.setState(s)
	case "local":
		i := rapid.Uint64Range(n.snapshot.Index, n.state.Commit).Draw(t, "index")
		n.record(walpb.Snapshot{Index: i, Term: n.term(i)})
	case "install", "installCrash":
		i := rapid.Uint64Range(n.state.Commit+1, n.last()+3).Draw(t, "index")
		s := walpb.Snapshot{Index: i, Term: rapid.Uint64Range(1, n.state.Term+1).Draw(t, "term")}
		crash := op == "installCrash"
		if n.possible(s) && !(crash && n.oldOrder) { // what such a crash leaves is no log
			n.install(s, crash)
		}
	}
}

// Replay agrees with a plain model of the log of raft, from any snapshot.
func TestReplayIsWhatTheModelSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNode()
		n.oldOrder = rapid.Bool().Draw(t, "oldOrder")
		n.setState(walpb.HardState{Term: 1, Vote: 1})
		for range rapid.IntRange(0, 25).Draw(t, "steps") {
			n.step(t)
		}
		usable, err := Snapshots(n.seq())
		if err != nil {
			t.Fatal(err)
		}
		var want []walpb.Snapshot
		for i, s := range n.snapshots {
			replaced := slices.ContainsFunc(n.snapshots[i+1:], func(o walpb.Snapshot) bool { return o.Index == s.Index && o.Term != s.Term })
			if n.snapshot.Index <= s.Index && s.Index <= n.state.Commit && !replaced {
				want = append(want, s)
			}
		}
		if diff := cmp.Diff(want, usable, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("snapshots (-model +got):\n%s", diff)
		}
		for _, s := range n.snapshots {
			if _, err := Replay(n.seq(), s); s.Index < n.snapshot.Index && !errors.Is(err, ErrSnapshotOutdated) && !errors.Is(err, ErrSnapshotMismatch) {
				t.Fatalf("from %d/%d, before the installed %d/%d: %v", s.Term, s.Index, n.snapshot.Term, n.snapshot.Index, err)
			}
		}
		for _, s := range usable {
			log, err := Replay(n.seq(), s)
			if err != nil {
				t.Fatalf("from %d/%d: %v", s.Term, s.Index, err)
			}
			wantLog := &Log{Metadata: []byte("meta"), State: n.state, Snapshot: s, Entries: n.entries[s.Index-n.snapshot.Index:]}
			if diff := cmp.Diff(wantLog, log, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("from %d/%d (-model +got):\n%s", s.Term, s.Index, diff)
			}
		}
	})
}

// A snapshot that waits for its commit stands for what the cluster has committed. If the log goes
// on with another entry at that index, and that is committed, one of the two cannot be so; to
// install the snapshot would drop an entry whose Save returned nil.
func TestACommitOfAnotherEntryThanThatOfAWaitingSnapshotIsRefused(t *testing.T) {
	l := &Options{FS: crashfs.New()}
	w, err := Create("log", nil, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.SaveSnapshot(walpb.Snapshot{Term: 1, Index: 2}),
		w.Save(walpb.HardState{Term: 2}, []walpb.Entry{{Term: 2, Index: 1}, {Term: 2, Index: 2}, {Term: 2, Index: 3}})); err != nil {
		t.Fatal(err)
	}
	read := readLog(t, "log", l)
	for _, entries := range [][]walpb.Entry{nil, {{Term: 3, Index: 2}}, {{Term: 3, Index: 4}}} {
		if err := w.Save(walpb.HardState{Term: 3, Commit: 2}, entries); !errors.Is(err, ErrInvalid) {
			t.Errorf("with %v: %v", entries, err)
		}
	}
	if read.HardState(walpb.HardState{Term: 3, Commit: 2}) == nil {
		t.Error("a reader takes it")
	}
	// Entries that agree with the snapshot are how a member catches up that a crash kept from
	// installing it.
	if err := w.Save(walpb.HardState{Term: 3, Commit: 1}, []walpb.Entry{{Term: 2, Index: 2}}); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Replay(Records("log", 0, l), walpb.Snapshot{}); err != nil {
		t.Error(err)
	}
}

// A snapshot that was received but never took effect is not the end of the log that a report speaks
// of.
func TestReportsSpeakOfTheLogThatStands(t *testing.T) {
	fs := crashfs.New()
	o := &Options{FS: fs, SegmentSize: 4096}
	w, err := Create("/log", nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Save(walpb.HardState{Term: 1}, []walpb.Entry{{Term: 1, Index: 1}, {Term: 1, Index: 2}}); err != nil {
		t.Fatal(err)
	}
	if err := w.SaveSnapshot(walpb.Snapshot{Index: 40, Term: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := Check("/log", o)
	if err != nil || report.LastIndex != 2 || report.LastTerm != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

// Between the log's last entry and a snapshot that was installed and is not yet committed there is
// nothing to commit: a restart would begin with a commit beyond its last entry.
func TestNothingIsCommittedBetweenTheLogAndAnInstalledSnapshot(t *testing.T) {
	for _, c := range []struct {
		commit uint64
		ok     bool
	}{{2, true}, {3, false}, {7, false}, {8, true}, {9, false}} {
		o := &Options{FS: crashfs.New()}
		w, err := Create("log", nil, o)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(
			w.Save(walpb.HardState{Term: 1, Commit: 1}, []walpb.Entry{{Term: 1, Index: 1}, {Term: 1, Index: 2}}),
			w.SaveSnapshot(walpb.Snapshot{Index: 8, Term: 2}))
		if err != nil {
			t.Fatal(err)
		}
		read := readLog(t, "log", o) // what a reader believes of the same records
		state := walpb.HardState{Term: 2, Commit: c.commit}
		if err := w.Save(state, nil); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("to commit %d: %v", c.commit, err)
		}
		if err := errors.Join(read.HardState(state), read.Owes()); (err == nil) != c.ok {
			t.Errorf("commit %d is read with %v", c.commit, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// readLog returns what the records of a log add up to for a reader.
func readLog(t *testing.T, dir string, o *Options) *history.History {
	t.Helper()
	var rd reading
	for r, err := range Records(dir, 0, o) {
		if err := rd.take(&r, err); err != nil {
			t.Fatal(err)
		}
	}
	return &rd.history
}
