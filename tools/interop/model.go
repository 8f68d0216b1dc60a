package interop

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/walpb"
)

// An Op is one call that a raft member makes to its log.
type Op struct {
	Kind    Kind
	State   walpb.HardState // of a Save; zero for none
	Entries []walpb.Entry   // of a Save
	// This Save commits the snapshot of the op before, which came from a leader.
	Installs bool
	Snapshot walpb.Snapshot // of a SaveSnapshot
	Received bool           // it came from a leader
}

// A Kind is which call an Op is.
type Kind uint8

// The calls.
const (
	Save Kind = iota
	SaveSnapshot
	Reopen // Close and Open
)

// String says what the op is, without data.
func (o Op) String() string {
	switch o.Kind {
	case SaveSnapshot:
		return fmt.Sprintf("snapshot %d/%d received=%v", o.Snapshot.Term, o.Snapshot.Index, o.Received)
	case Reopen:
		return "reopen"
	}
	s := "save"
	for _, e := range o.Entries {
		s += fmt.Sprintf(" %d/%d[%d]", e.Term, e.Index, len(e.Data))
	}
	return s + fmt.Sprintf(" state=%+v installs=%v", o.State, o.Installs)
}

// A Model is what the ops so far add up to. It knows what it is told, that a snapshot was installed
// and when, and infers nothing, unlike a reader of the log.
type Model struct {
	Metadata  []byte
	State     walpb.HardState
	Base      walpb.Snapshot // what the log begins after
	Entries   []walpb.Entry  // from Base.Index+1 on
	Snapshots []walpb.Snapshot
	Rewritten bool // an entry was overwritten or a snapshot installed

	Lost []walpb.Snapshot // received and recorded, but not installed, because of a restart
}

// NewModel is the log that Create makes.
func NewModel(metadata []byte) *Model {
	return &Model{Metadata: metadata, Snapshots: []walpb.Snapshot{{}}}
}

// Apply takes the next op.
func (m *Model) Apply(o Op) {
	switch o.Kind {
	case SaveSnapshot:
		m.Snapshots = append(m.Snapshots, o.Snapshot)
		if o.Received {
			m.Lost = append(m.Lost, o.Snapshot) // until it is installed
		}
	case Save:
		if o.Installs {
			m.Lost = m.Lost[:len(m.Lost)-1]
			m.Base, m.Entries, m.Rewritten = m.Snapshots[len(m.Snapshots)-1], nil, true
		}
		for _, e := range o.Entries {
			at := e.Index - m.Base.Index - 1
			m.Rewritten = m.Rewritten || at < uint64(len(m.Entries))
			m.Entries = append(m.Entries[:at:at], e)
		}
		if !o.State.IsZero() {
			m.State = o.State
		}
	}
}

// Last returns the index of the last entry.
func (m *Model) Last() uint64 { return m.Base.Index + uint64(len(m.Entries)) }

// Term returns the term of the entry at an index from Base.Index on.
func (m *Model) Term(index uint64) uint64 {
	if index == m.Base.Index {
		return m.Base.Term
	}
	return m.Entries[index-m.Base.Index-1].Term
}

// Replayable returns the snapshots that the log can be replayed from, in the order in which they
// were saved.
func (m *Model) Replayable() []walpb.Snapshot {
	return slices.DeleteFunc(m.Usable(), func(s walpb.Snapshot) bool { return s.Index < m.Base.Index })
}

// Usable returns the snapshots that are committed, in the order in which they were saved; etcd
// lists these.
func (m *Model) Usable() []walpb.Snapshot {
	var usable []walpb.Snapshot
	for _, s := range m.Snapshots {
		if s.Index <= m.State.Commit {
			usable = append(usable, s)
		}
	}
	return usable
}

// From returns the content from a snapshot on. It is not ok if an installed snapshot took the place
// of what followed.
func (m *Model) From(s walpb.Snapshot) (c Content, ok bool) {
	if s.Index < m.Base.Index {
		return Content{}, false
	}
	c = Content{Metadata: m.Metadata, State: m.State}
	c.Entries = append(c.Entries, m.Entries[s.Index-m.Base.Index:]...)
	return c, true
}

// A Generator makes ops that a raft member could: whatever was overwritten was not committed, by a
// log with terms that do not fall; whatever was installed was not in the log.
type Generator struct {
	*Model
	rand *rand.Rand

	MaxData int // bytes of an entry's data
	Reopens bool

	term, vote uint64
	// Received, but lost in a restart before they were installed; still what is committed.
	truth []walpb.Snapshot
	then  []Op // to come next
}

// NewGenerator returns one that starts from the model and applies each op to it.
func NewGenerator(m *Model, r *rand.Rand) *Generator {
	return &Generator{Model: m, rand: r, MaxData: 200, Reopens: true, term: m.State.Term, vote: m.State.Vote}
}

// Next returns the next op.
func (g *Generator) Next() Op {
	op := g.next()
	g.Apply(op)
	return op
}

func (g *Generator) next() Op {
	if len(g.then) > 0 {
		op := g.then[0]
		g.then = g.then[1:]
		return op
	}
	switch n := g.rand.IntN(100); {
	case n < 6 && g.Reopens:
		return Op{Kind: Reopen}
	case n < 14 && g.State.Commit > 0 && g.State.Commit >= g.Base.Index:
		index := g.Base.Index + g.rand.Uint64N(g.State.Commit-g.Base.Index+1)
		if index == 0 {
			break
		}
		return Op{Kind: SaveSnapshot, Snapshot: g.snapshot(index, g.Term(index))}
	case n < 18:
		return g.receive()
	}
	return g.save()
}

// receive makes a snapshot that a leader sent, and what follows.
func (g *Generator) receive() Op {
	g.rise(30)
	commit := g.State.Commit
	lowest := commit + 1
	term := max(1, g.Term(commit))
	for _, s := range g.truth {
		lowest, term = max(lowest, s.Index), max(term, s.Term)
	}
	s := g.snapshot(lowest+g.rand.Uint64N(8), term+g.rand.Uint64N(g.term-min(g.term, term)+1))
	for _, t := range g.truth {
		if t.Index == s.Index {
			s.Term = t.Term
		}
	}
	if s.Index <= g.Last() && g.Term(s.Index) == s.Term {
		return g.save() // the log has the entry: raft would not install it
	}
	op := Op{Kind: SaveSnapshot, Snapshot: s, Received: true}
	if g.Reopens && g.rand.IntN(4) == 0 {
		g.truth = append(g.truth, s)
		g.then = append(g.then, Op{Kind: Reopen})
		return op
	}
	g.truth = nil
	save := Op{Installs: true, State: walpb.HardState{Term: max(g.term, s.Term), Vote: g.vote, Commit: s.Index}}
	g.term = save.State.Term
	last := s.Term
	for i := range g.rand.Uint64N(3) {
		last += g.rand.Uint64N(g.term - last + 1)
		save.Entries = append(save.Entries, g.entry(s.Index+1+i, last))
	}
	g.then = append(g.then, save)
	return op
}

// rise begins a new term with a chance of percent.
func (g *Generator) rise(percent int) {
	if g.term == 0 || g.rand.IntN(100) < percent {
		g.term += 1 + g.rand.Uint64N(2)
		g.vote = g.rand.Uint64N(4)
	}
}

func (g *Generator) save() Op {
	g.rise(12)
	var op Op
	last, prev := g.Last(), uint64(0)
	if g.rand.IntN(10) > 0 {
		first := last + 1
		if last > g.State.Commit && g.rand.IntN(4) == 0 {
			first = g.State.Commit + 1 + g.rand.Uint64N(last-g.State.Commit)
		}
		prev = g.Term(first - 1)
		for i := range g.rand.Uint64N(6) {
			term := g.term
			if g.rand.IntN(3) == 0 {
				term = prev + g.rand.Uint64N(g.term-prev+1)
			}
			if i == 0 && first <= last && term == g.Term(first) {
				break // that would be the same entry
			}
			op.Entries = append(op.Entries, g.entry(first+i, term))
			prev = term
		}
	}
	after := *g.Model
	after.Apply(Op{Entries: op.Entries})
	commit := g.State.Commit
	if g.rand.IntN(2) == 0 && after.Last() > commit {
		commit += g.rand.Uint64N(after.Last() - commit + 1)
	}
	for _, t := range g.truth {
		if commit >= t.Index && after.Term(t.Index) != t.Term {
			commit = min(commit, t.Index-1)
		}
	}
	state := walpb.HardState{Term: g.term, Vote: g.vote, Commit: commit}
	if state != g.State || g.rand.IntN(8) == 0 {
		op.State = state
	}
	return op
}

func (g *Generator) entry(index, term uint64) walpb.Entry {
	e := walpb.Entry{Type: walpb.EntryType(max(0, g.rand.IntN(12)-9)), Term: term, Index: index}
	size := 0
	switch n := g.rand.IntN(100); {
	case n < 8:
		return e
	case n < 16:
	case n < 90:
		size = g.rand.IntN(200)
	default:
		size = g.rand.IntN(g.MaxData + 1)
	}
	e.Data = make([]byte, size)
	if g.rand.IntN(10) > 0 {
		for i := range e.Data {
			e.Data[i] = byte(g.rand.Uint32())
		}
	}
	return e
}

func (g *Generator) snapshot(index, term uint64) walpb.Snapshot {
	c := &raftpb.ConfState{}
	for range g.rand.IntN(4) {
		c.Voters = append(c.Voters, g.rand.Uint64()>>g.rand.IntN(64))
	}
	if g.rand.IntN(4) == 0 {
		c.Learners = []uint64{g.rand.Uint64N(9)}
		c.VotersOutgoing = []uint64{g.rand.Uint64N(9), 1}
		c.LearnersNext = []uint64{7}
	}
	if g.rand.IntN(2) == 0 {
		c.AutoLeave = new(g.rand.IntN(2) == 0)
	}
	b, err := proto.Marshal(c)
	if err != nil {
		panic(err) // a message of numbers
	}
	return walpb.Snapshot{Index: index, Term: term, ConfState: append([]byte{}, b...)}
}
