package crash

import (
	"math"
	"slices"

	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/walpb"
)

// cluster is what the other nodes know. It does not forget with this one.
type cluster struct {
	terms []uint64 // of the entries that are committed somewhere, by index; terms[0] is 0
}

// restart begins to know.
func (c *cluster) restart(records []oracle.Record) {
	if len(c.terms) == 0 {
		c.terms = []uint64{0}
	}
	m := oracle.Fold(records)
	c.learn(&m)
}

// learn takes what the node has committed.
func (c *cluster) learn(m *oracle.Meaning) {
	for i := uint64(len(c.terms)); i <= m.State.Index; i++ {
		c.terms = append(c.terms, m.Term(i))
	}
}

func (c *cluster) last() uint64 { return uint64(len(c.terms)) - 1 }

// differs returns the first index above the commit at which the node's log is not what the cluster
// has committed, or the index after the cluster's last if there is none.
func (c *cluster) differs(m *oracle.Meaning) uint64 {
	i := m.State.Index + 1
	for i <= c.last() && m.Has(i, c.terms[i]) {
		i++
	}
	return i
}

// step does one thing that a consensus system does with its log. lost is what was attempted before
// a crash and has to be sent again; it returns what is left of it.
func (l *life) step(lost []oracle.Record) []oracle.Record {
	if len(lost) > 0 {
		// Most often, what was lost is sent again, the same bytes, by the same leader.
		if l.rng.IntN(4) > 0 {
			return l.again(lost)
		}
		lost = nil
	}
	m := oracle.Fold(l.model.Records)
	if l.rng.IntN(8) == 0 {
		if l.invalid(&m); l.failed {
			return nil
		}
	}
	if l.segments > 4 && l.rng.IntN(3) == 0 {
		l.tidy(&m)
		return lost
	}
	switch n := l.rng.IntN(20); {
	case n < 8:
		l.follow(&m)
	case n < 10:
		l.overwrite(&m)
	case n < 12:
		l.commitOnly(&m)
	case n < 13:
		l.vote(&m)
	case n < 15:
		l.compact(&m)
	case n < 16:
		l.install(&m)
	case n < 17:
		l.release(&m)
	case n < 18:
		l.sync()
	case n < 19:
		l.bursts(&m)
	default:
		// Fill a segment.
		for range 3 {
			if m := oracle.Fold(l.model.Records); !l.ended && !l.failed {
				l.follow(&m)
			}
		}
	}
	return lost
}

// again sends the first of the lost records again, as they were, though not in the same calls.
func (l *life) again(lost []oracle.Record) []oracle.Record {
	if lost[0].Kind == walpb.TypeSnapshot {
		l.saveSnapshot(lost[0].Index, lost[0].Term)
		return l.left(lost[1:])
	}
	var entries []walpb.Entry
	most := max(1, l.rng.IntN(5)-1)
	for len(lost) > 0 && lost[0].Kind == walpb.TypeEntry && len(entries) < most {
		if n := len(entries); n > 0 && lost[0].Index != entries[n-1].Index+1 {
			break
		}
		entries = append(entries, l.entry(lost[0].Index, lost[0].Term))
		lost = lost[1:]
	}
	var state walpb.HardState
	if len(lost) > 0 && lost[0].Kind == walpb.TypeState && l.rng.IntN(3) > 0 || len(entries) == 0 {
		state = walpb.HardState{Term: lost[0].Term, Vote: lost[0].Vote, Commit: lost[0].Index}
		lost = lost[1:]
	}
	l.save(state, entries)
	if m := oracle.Fold(l.model.Records); !l.ended {
		l.cluster.learn(&m)
	}
	return l.left(lost)
}

// left returns what is left to send again: nothing, if what goes before it was refused.
func (l *life) left(lost []oracle.Record) []oracle.Record {
	if l.refused {
		return nil
	}
	return lost
}

// entry returns the entry of an index and a term.
func (h *history) entry(index, term uint64) walpb.Entry {
	e := h.campaign.source.Entry(index, term, h.scale)
	if oracle.IsOwn(e.Type) && !h.own {
		e.Type = walpb.EntryConfChangeV2
	}
	return e
}

// inTerm returns the hard state with which a node goes on that learns of a term. A vote is given
// once in it, or never.
func (l *life) inTerm(state walpb.HardState, term uint64) walpb.HardState {
	switch {
	case term > state.Term:
		state.Term, state.Vote = term, l.ballot()
	case state.Vote == 0 && state.Term > 0 && l.rng.IntN(4) == 0:
		state.Vote = l.ballot()
	}
	return state
}

// ballot draws a vote. 0 is none.
func (l *life) ballot() uint64 {
	return []uint64{0, 0, 1, 2, 3, 1 << 63, math.MaxUint64}[l.rng.IntN(7)]
}

// follow appends what the leader sends: what the cluster has committed, if the node lacks it, and
// else something new. Now and then a commit comes with it.
func (l *life) follow(m *oracle.Meaning) {
	first, entries := l.next(m)
	state := oracle.HardState(m.State)
	if n := len(entries); n > 0 {
		state = l.inTerm(state, entries[n-1].Term)
	}
	last := first + uint64(len(entries)) - 1
	if l.rng.IntN(3) > 0 && last > state.Commit {
		state.Commit += uint64(l.rng.IntN(int(last-state.Commit) + 1))
	}
	if state == oracle.HardState(m.State) && l.rng.IntN(2) == 0 {
		state = walpb.HardState{}
	}
	l.save(state, entries)
	l.learn()
}

// next returns entries that may follow.
func (l *life) next(m *oracle.Meaning) (first uint64, entries []walpb.Entry) {
	count := 1 + l.rng.IntN(4)
	first = l.cluster.differs(m)
	if first <= l.cluster.last() {
		for i := first; i <= l.cluster.last() && len(entries) < count; i++ {
			entries = append(entries, l.entry(i, l.cluster.terms[i]))
		}
		return first, entries
	}
	first = m.Last() + 1
	term := max(m.State.Term, m.Term(m.Last()), l.cluster.terms[l.cluster.last()], 1)
	for i := range count {
		entries = append(entries, l.entry(first+uint64(i), term))
	}
	return first, entries
}

// overwrite replaces entries that were not committed by those of a leader of a higher term.
func (l *life) overwrite(m *oracle.Meaning) {
	lowest := l.cluster.differs(m)
	if lowest > m.Last() {
		l.follow(m)
		return
	}
	first := lowest + uint64(l.rng.IntN(int(m.Last()-lowest)+1))
	state := oracle.HardState(m.State)
	term := max(state.Term, m.Term(m.Last())) + 1
	if lowest <= l.cluster.last() {
		// An old leader's, whose entries cannot be committed; a new one has what the cluster has.
		term = max(m.Term(first-1), 1)
	}
	var entries []walpb.Entry
	for i := range 1 + l.rng.IntN(4) {
		entries = append(entries, l.entry(first+uint64(i), term))
	}
	l.save(l.inTerm(state, term), entries)
}

func (l *life) commitOnly(m *oracle.Meaning) {
	state := oracle.HardState(m.State)
	// Beyond the cluster's last, what the node has becomes what the cluster has.
	last := m.Last()
	if d := l.cluster.differs(m); d <= l.cluster.last() {
		last = min(last, d-1)
	}
	if last <= state.Commit || state.Term == 0 {
		l.follow(m)
		return
	}
	state.Commit += 1 + uint64(l.rng.IntN(int(last-state.Commit)))
	l.save(state, nil)
	l.learn()
}

func (l *life) vote(m *oracle.Meaning) {
	state := oracle.HardState(m.State)
	if state.Vote != 0 || l.rng.IntN(2) == 0 {
		state.Term, state.Vote = state.Term+1, 0
	}
	state.Vote = 1 + uint64(l.rng.IntN(3))
	state.Term = max(state.Term, 1)
	l.save(state, nil)
}

// compact records a snapshot that the node has taken of itself.
func (l *life) compact(m *oracle.Meaning) {
	if m.State.Index <= m.Base {
		l.follow(m)
		return
	}
	index := m.Base + 1 + uint64(l.rng.IntN(int(m.State.Index-m.Base)))
	l.saveSnapshot(index, m.Term(index))
}

// install records a snapshot that a leader has sent, and commits it.
func (l *life) install(m *oracle.Meaning) {
	state := oracle.HardState(m.State)
	index := max(m.State.Index, l.cluster.last()) + 1 + uint64(l.rng.IntN(5))
	if m.Last() > m.State.Index && l.rng.IntN(2) == 0 {
		index = max(index, m.Last()+1)
	}
	term := max(state.Term, l.cluster.terms[l.cluster.last()], 1)
	if l.rng.IntN(2) == 0 {
		term++
	}
	// A leader in whose term the node has entries has what stands before them; so one that commits
	// others there is of a later term.
	if l.cluster.last() < m.Last() {
		term = max(term, m.Term(m.Last())+1)
	}
	for i := uint64(len(l.cluster.terms)); i <= index; i++ {
		l.cluster.terms = append(l.cluster.terms, term)
	}
	l.saveSnapshot(index, term)
	if l.ended || l.failed || l.refused || l.rng.IntN(6) == 0 {
		return // the snapshot could not be used after all
	}
	state = l.inTerm(state, term)
	state.Commit = index
	var entries []walpb.Entry
	if l.rng.IntN(2) == 0 {
		for i := range 1 + l.rng.IntN(3) {
			entries = append(entries, l.entry(index+1+uint64(i), term))
		}
	}
	l.save(state, entries)
	if !l.ended && !l.failed && l.rng.IntN(3) == 0 {
		l.releaseTo(index) // the commit may not be durable yet
	}
}

// tidy makes a log short that has become long.
func (l *life) tidy(m *oracle.Meaning) {
	if m.State.Index > m.Base {
		l.saveSnapshot(m.State.Index, m.Term(m.State.Index))
	}
	if !l.ended && !l.failed {
		l.releaseTo(m.State.Index)
	}
}

// saveSnapshot records a snapshot, whose file is there by then. Now and then old files are
// removed after that.
func (l *life) saveSnapshot(index, term uint64) {
	s := walpb.Snapshot{Index: index, Term: term, ConfState: oracle.ConfState(index)}
	steps := []func(walpb.Snapshot){l.saveFile, l.recordSnapshot}
	if s := l.campaign.cfg.Saboteur; s != nil && s.recordFirst {
		slices.Reverse(steps)
	}
	if l.files == nil {
		steps = []func(walpb.Snapshot){l.recordSnapshot}
	} else if l.rng.IntN(2) == 0 {
		steps = append(steps, l.keepFiles)
	}
	for _, step := range steps {
		if !l.ended && !l.failed {
			step(s)
		}
	}
}

func (l *life) recordSnapshot(s walpb.Snapshot) {
	l.trace.Addf("save snapshot %d/%d", s.Term, s.Index)
	l.known, l.need = len(l.model.Records), needed(nil, s)
	l.model.Attempt(oracle.SnapshotRecord(s))
	if l.call(func() error { return l.w.SaveSnapshot(s) }) == nil {
		l.ack()
	}
}

// release lets go of what a snapshot makes unnecessary.
func (l *life) release(m *oracle.Meaning) {
	index := m.State.Index
	if l.rng.IntN(3) == 0 {
		index = uint64(l.rng.IntN(int(m.Last()) + 1))
	}
	l.releaseTo(index)
}

func (l *life) releaseTo(index uint64) {
	if l.rng.IntN(2) == 0 {
		l.sync()
	}
	if l.ended || l.failed {
		return
	}
	before, err := oracle.Observe(l.disk, harness.Dir, oracle.ItsMeaning)
	if err == nil {
		err = l.model.Judge(before)
	}
	if err != nil {
		l.report(err, "before a release")
		return
	}
	l.model.MayRelease(before, index)
	l.trace.Addf("release %d", index)
	if l.call(func() error { return l.w.Release(index) }) != nil || l.ended {
		return
	}
	after, err := oracle.Observe(l.disk, harness.Dir, oracle.ItsMeaning)
	if err == nil {
		err = l.model.Judge(after)
	}
	if err != nil {
		l.report(err, "after a release")
		return
	}
	l.segments = len(after.Segments)
	for _, s := range before.Starts {
		if s.Segment != after.First && s.Segment < after.First {
			l.model.Gone[s.Segment] = true
		}
	}
}

func (l *life) sync() {
	l.trace.Addf("sync")
	if l.call(l.w.Sync) == nil {
		l.ack()
	}
}

// bursts appends twice, so that the second gathers while the first is written.
func (l *life) bursts(m *oracle.Meaning) {
	first, entries := l.next(m)
	// On a full disk the first call may itself have to write.
	if first <= l.cluster.last() || m.State.Term < entries[0].Term || l.disk.Size() > 0 {
		l.follow(m)
		return
	}
	n := uint64(len(entries))
	var second []walpb.Entry
	for i := range uint64(1 + l.rng.IntN(3)) {
		second = append(second, l.entry(first+n+i, entries[0].Term))
	}
	l.burst(entries, second)
}

// learn tells the cluster what the node has committed.
func (l *life) learn() {
	m := oracle.Fold(l.model.Records)
	l.cluster.learn(&m)
}
