package crash

import (
	"errors"
	"math"

	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A mistake is a call that the log must refuse.
type mistake struct {
	name     string
	state    walpb.HardState
	entries  []walpb.Entry
	snapshot *walpb.Snapshot // if not nil, it is a snapshot record
}

// invalid makes a mistake. It must be refused as invalid before anything is written; that nothing
// of it is written later shows with the rest.
func (l *life) invalid(m *oracle.Meaning) {
	all := l.mistakes(m)
	n := all[l.rng.IntN(len(all))]
	l.trace.Addf("invalid: %s: %v %s", n.name, n.state, oracle.Indexes(n.entries))
	before := l.boundary
	l.calling = true
	var err error
	switch {
	case n.snapshot != nil:
		err = l.w.SaveSnapshot(*n.snapshot)
	case l.rng.IntN(4) == 0:
		err = l.w.Append(n.state, n.entries, func(err error) { l.fail(oracle.Invented, "%s: a callback was called, with %v", n.name, err) })
	default:
		err = l.w.Save(n.state, n.entries)
	}
	l.calling = false
	switch {
	case !errors.Is(err, wal.ErrInvalid):
		l.fail(oracle.Invented, "%s: taken, with the error %v", n.name, err)
	case l.boundary != before:
		l.fail(oracle.Invented, "%s: refused, and something was written", n.name)
	}
}

// mistakes returns those that there are at this point.
func (l *life) mistakes(m *oracle.Meaning) (all []mistake) {
	state, last := oracle.HardState(m.State), m.Last()
	end := last // what is beyond it is beyond any log that there may be
	if m.Pending >= 0 {
		end = math.MaxUint64 / 2
	}
	with := func(name string, change func(*walpb.HardState)) {
		wrong := state
		change(&wrong)
		all = append(all, mistake{name: name, state: wrong})
	}
	entry := func(name string, e ...walpb.Entry) { all = append(all, mistake{name: name, entries: e}) }
	record := func(name string, s walpb.Snapshot) { all = append(all, mistake{name: name, snapshot: &s}) }

	term := max(state.Term, m.Term(last), 1)
	with("a commit beyond the last entry", func(s *walpb.HardState) { s.Commit = end + 1 })
	entry("an entry after a gap", walpb.Entry{Term: term, Index: end + 2})
	entry("an entry of index 0", walpb.Entry{Term: term})
	entry("entries with a gap between them", l.entry(last+1, term), l.entry(last+3, term))
	entry("entries whose terms fall", l.entry(last+1, term+1), l.entry(last+2, term))
	if state.Commit > 0 {
		with("a commit that falls", func(s *walpb.HardState) { s.Commit-- })
		entry("an entry that is committed", walpb.Entry{Term: term, Index: state.Commit})
	}
	if state.Term > 1 {
		with("a term that falls", func(s *walpb.HardState) { s.Term-- })
	}
	if state.Vote != 0 {
		with("a vote that changes", func(s *walpb.HardState) { s.Vote ^= 1 << l.rng.IntN(64) })
		with("a vote that vanishes", func(s *walpb.HardState) { s.Vote = 0 })
	}
	if t := m.Term(last); t > 1 && m.Pending < 0 {
		entry("an entry of a lower term", walpb.Entry{Term: t - 1, Index: last + 1})
	}
	if l.plain {
		own := l.entry(last+1, term)
		own.Type = oracle.OwnTypes[l.rng.IntN(len(oracle.OwnTypes))]
		entry("a type that is none of raft's", own)
		entry("a type that is none of raft's after a good one", l.entry(last+1, term), walpb.Entry{Type: own.Type, Term: term, Index: last + 2})
	}
	for _, c := range [][]byte{{0x08}, {0x0a, 5, 1}, {0x2a, 0}, {0xff}, []byte("opaque")} {
		record("a ConfState that is none", walpb.Snapshot{Index: state.Commit, Term: m.Term(state.Commit), ConfState: c})
	}
	if state.Commit > m.Base {
		record("a snapshot of another term than its committed entry", walpb.Snapshot{Index: state.Commit, Term: m.Term(state.Commit) + 1, ConfState: []byte{8, 1}})
	}
	return all
}
