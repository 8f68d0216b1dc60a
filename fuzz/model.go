package fuzz

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"

	"github.com/stele-wal/stele/walpb"
)

// A record is one record of the log as the model knows it: comparable with ==.
type record struct {
	kind  walpb.Type
	term  uint64
	index uint64 // of a hard state, the commit
	vote  uint64 // of an entry, its type
	sum   uint64 // of the bytes it carries
}

var sumSeed = maphash.MakeSeed() // sums are only compared with sums of the same process

func entryRecord(e walpb.Entry) record {
	return record{kind: walpb.TypeEntry, term: e.Term, index: e.Index, vote: uint64(e.Type), sum: maphash.Bytes(sumSeed, e.Data)}
}

func stateRecord(s walpb.HardState) record {
	return record{kind: walpb.TypeState, term: s.Term, index: s.Commit, vote: s.Vote}
}

func snapshotRecord(s walpb.Snapshot) record {
	return record{kind: walpb.TypeSnapshot, term: s.Term, index: s.Index, sum: maphash.Bytes(sumSeed, s.ConfState)}
}

// A model is what was attempted on a log, and how much of it must be there.
type model struct {
	records []record
	acked   int  // so many of the records must be there: they were acknowledged, or an Open has shown them
	created bool // Create was acknowledged, or an Open has succeeded

	starts map[string]int  // how many records stand before a segment, of those that a Release may remove
	gone   map[string]bool // segments that must not come back: their Release was acknowledged
}

func newModel() *model {
	// Every log begins with the record of the empty snapshot.
	return &model{records: []record{snapshotRecord(walpb.Snapshot{})}, starts: map[string]int{}, gone: map[string]bool{}}
}

// state returns the hard state after the first n records.
func (m *model) state(n int) record {
	for i := n - 1; i >= 0; i-- {
		if m.records[i].kind == walpb.TypeState {
			return m.records[i]
		}
	}
	return record{kind: walpb.TypeState}
}

// attempt adds a record that is about to be written. A hard state that changes nothing is none:
// segments begin with such.
func (m *model) attempt(r record) {
	if r.kind == walpb.TypeState && r == m.state(len(m.records)) {
		return
	}
	m.records = append(m.records, r)
}

// meaning is what records add up to.
type meaning struct {
	base, baseTerm uint64   // the snapshot that the log begins with
	entries        []record // consecutive, from base+1 on
	state          record
	snapshots      []place // all records of snapshots
	pending        int     // the position of the record of a snapshot that waits for its commit, or -1
}

// mayRelease takes note of the segments that a log may begin with once Release was called with an
// index: those up to the last that begins at or below it and at or below the newest usable
// snapshot, and whose beginning is not behind that one's record. s is the log before that.
func (m *model) mayRelease(s *seen, index uint64) {
	known := fold(m.records)
	newest := place{at: -1}
	for _, n := range known.snapshots {
		if n.index <= known.state.index && n.index >= newest.index {
			newest = n
		}
	}
	last := -1
	at := func(s1 start) int { return s.count - len(s.records) + s1.at }
	for i, start := range s.starts {
		var seq, first uint64
		fmt.Sscanf(start.segment, "%x-%x.wal", &seq, &first)
		if first <= min(index, newest.index) && at(start) <= newest.at {
			last = i
		}
	}
	for _, start := range s.starts[:last+1] {
		m.starts[start.segment] = at(start)
	}
}

// place is a record with its position.
type place struct {
	record
	at int
}

// fold works out what records mean, in the plainest way there is. A snapshot that was installed
// replaces the log when the commit reaches it.
func fold(records []record) meaning {
	m := meaning{pending: -1, state: record{kind: walpb.TypeState}}
	for i, r := range records {
		switch r.kind {
		case walpb.TypeEntry:
			m.put(r)
		case walpb.TypeSnapshot:
			m.snapshots = append(m.snapshots, place{r, i})
			switch {
			case r.index > m.state.index && !m.has(r.index, r.term):
				m.pending = i
			case r.index > m.last(): // others than we commit it first, and have written what follows it
				m.install(r, records[:i])
			}
		case walpb.TypeState:
			m.state = r
			if m.pending < 0 || r.index < records[m.pending].index {
				continue
			}
			if s := records[m.pending]; !m.has(s.index, s.term) {
				m.install(s, records[m.pending+1:i])
			}
			m.pending = -1
		}
	}
	return m
}

// install makes the log the one that follows a snapshot.
func (m *meaning) install(s record, followed []record) {
	m.base, m.baseTerm, m.entries = s.index, s.term, nil
	for _, e := range followed {
		if e.kind == walpb.TypeEntry {
			m.put(e)
		}
	}
}

// put appends an entry, in the place of all from its index on. One that does not follow belongs to
// a log that has not begun.
func (m *meaning) put(r record) {
	if r.index > m.base && r.index <= m.last()+1 {
		m.entries = append(m.entries[:r.index-m.base-1], r)
	}
}

func (m *meaning) last() uint64 { return m.base + uint64(len(m.entries)) }

// term returns the term of an entry; 0 if the log does not have it.
func (m *meaning) term(index uint64) uint64 {
	switch {
	case index == m.base:
		return m.baseTerm
	case index < m.base || index > m.last():
		return 0
	}
	return m.entries[index-m.base-1].term
}

func (m *meaning) has(index, term uint64) bool {
	return index >= m.base && index <= m.last() && m.term(index) == term
}

// after returns the entries behind an index.
func (m *meaning) after(index uint64) []record {
	switch {
	case index < m.base:
		return nil
	case index >= m.last():
		return nil
	}
	return m.entries[index-m.base:]
}

// replayable reports whether a log that holds these of the records can be replayed from a snapshot
// record: it is committed, and all that follows it is there.
func (m *meaning) replayable(snapshot record, held []record) bool {
	after := m.after(snapshot.index)
	return m.base <= snapshot.index && snapshot.index <= m.state.index && (len(after) == 0 || slices.Contains(held, after[0]))
}

// ownTypes are types of entries that are none of raft's.
var ownTypes = []walpb.EntryType{3, 127, 128, math.MaxInt32, -1, math.MinInt32}

func isOwn(t walpb.EntryType) bool { return t < walpb.EntryNormal || t > walpb.EntryConfChangeV2 }

// content returns the entry of an index and a term. There is only one, because frames that recur
// are what a trimmed tail can come back behind.
func content(index, term uint64, scale int) walpb.Entry {
	e := walpb.Entry{Index: index, Term: term}
	h := (index*0x9e3779b97f4a7c15 ^ term*0xbf58476d1ce4e5b9) * 0x94d049bb133111eb
	h ^= h >> 31
	switch h % 11 {
	case 0:
		e.Type = walpb.EntryConfChange
	case 1:
		e.Type = walpb.EntryConfChangeV2
	case 2:
		e.Type = ownTypes[h>>20%uint64(len(ownTypes))]
	}
	var size uint64
	switch h >> 8 % 8 {
	case 0:
		return e // no data at all, as a new leader's first entry
	case 1, 2, 3:
		size = h >> 16 % 60
	case 4, 5:
		size = 100 + h>>16%500
	case 6:
		size = 500 + h>>16%1200
	case 7:
		size = h >> 16 % (uint64(scale)*3 + 1)
	}
	e.Data = make([]byte, size)
	for i := range e.Data {
		if i%8 == 0 {
			h = h*0x5851f42d4c957f2d + 0x14057b7ef767814f
		}
		e.Data[i] = byte(h >> (8 * (i % 8)))
	}
	if h>>40%7 == 0 {
		forged(e.Data, index, term, h)
	}
	// Long zeros are where a disk's zeroed sector and an entry's own bytes look alike.
	if size > 1024 && h>>60 < 4 {
		clear(e.Data[200:])
	}
	if size >= 8 && h>>56&3 == 0 {
		binary.LittleEndian.PutUint64(e.Data[size/8*8-8:], 0x10)
	}
	return e
}
