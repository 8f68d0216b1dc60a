package oracle

import (
	"slices"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Meaning is what records add up to.
type Meaning struct {
	Base, baseTerm uint64   // of the snapshot that the log begins with
	entries        []Record // consecutive, from Base+1 on
	State          Record   // the last hard state
	Snapshots      []Place  // all snapshot records
	Pending        int      // the position of the snapshot record that waits for its commit, or -1
}

// A Place is a record with its position.
type Place struct {
	Record
	At int
}

// Fold works out what records mean, in the plainest way there is. A snapshot that was installed
// replaces the log when the commit reaches it.
func Fold(records []Record) Meaning {
	m := Meaning{Pending: -1, State: noState}
	for i, r := range records {
		switch r.Kind {
		case walpb.TypeEntry:
			m.put(r)
		case walpb.TypeSnapshot:
			m.Snapshots = append(m.Snapshots, Place{r, i})
			switch {
			case r.Index > m.State.Index && !m.Has(r.Index, r.Term):
				m.Pending = i
			// Others than we commit it first, and have written what follows it.
			case r.Index > m.Last():
				m.install(r, records[:i])
			}
		case walpb.TypeState:
			m.State = r
			if m.Pending < 0 || r.Index < records[m.Pending].Index {
				continue
			}
			if s := records[m.Pending]; !m.Has(s.Index, s.Term) {
				m.install(s, records[m.Pending+1:i])
			}
			m.Pending = -1
		}
	}
	return m
}

// install makes the log the one that follows a snapshot.
func (m *Meaning) install(s Record, followed []Record) {
	m.Base, m.baseTerm, m.entries = s.Index, s.Term, nil
	for _, e := range followed {
		if e.Kind == walpb.TypeEntry {
			m.put(e)
		}
	}
}

// put appends an entry, in the place of all from its index on. One that does not follow belongs to
// a log that has not begun.
func (m *Meaning) put(r Record) {
	if r.Index > m.Base && r.Index <= m.Last()+1 {
		m.entries = append(m.entries[:r.Index-m.Base-1], r)
	}
}

// Last returns the index of the last entry, or that of the snapshot before it.
func (m *Meaning) Last() uint64 { return m.Base + uint64(len(m.entries)) }

// Term returns the term of an entry; 0 if the log does not have it.
func (m *Meaning) Term(index uint64) uint64 {
	switch {
	case index == m.Base:
		return m.baseTerm
	case index < m.Base || index > m.Last():
		return 0
	}
	return m.entries[index-m.Base-1].Term
}

// Has reports whether the log has an entry, or begins with its snapshot.
func (m *Meaning) Has(index, term uint64) bool {
	return index >= m.Base && index <= m.Last() && m.Term(index) == term
}

// After returns the entries after an index.
func (m *Meaning) After(index uint64) []Record {
	if index < m.Base || index >= m.Last() {
		return nil
	}
	return m.entries[index-m.Base:]
}

// Replayable reports whether a log that holds these of the records can be replayed from a snapshot
// record: it is committed, and all that follows it is there.
func (m *Meaning) Replayable(snapshot Record, held []Record) bool {
	after := m.After(snapshot.Index)
	return m.Base <= snapshot.Index && snapshot.Index <= m.State.Index && (len(after) == 0 || slices.Contains(held, after[0]))
}

// Is reports whether this is what a log says, which was replayed from one of the committed
// snapshots.
func (m *Meaning) Is(l *wal.Log) bool {
	from := func(s Place) bool { return s.Record == SnapshotRecord(l.Snapshot) && s.Index <= m.State.Index }
	same := func(e walpb.Entry, r Record) bool { return EntryRecord(e) == r }
	return StateRecord(l.State) == m.State && slices.ContainsFunc(m.Snapshots, from) &&
		slices.EqualFunc(l.Entries, m.After(l.Snapshot.Index), same)
}
