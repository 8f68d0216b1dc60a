// Package load is what the rig does with a log and its snapshots, and what it knows must be there
// afterwards.
//
// A [History] is the life of one store, a log and the snapshots beside it, through several crashes.
// [History.Live] is one life of it: it opens the store, saves, overwrites, snapshots, installs,
// releases, closes and opens again, and at each acknowledgement writes a [Mark], which says what is
// owed from then on. [Recover] opens what a crash has left, in the steps of a program that starts
// again, and compares it with what is owed.
//
// What is owed comes from a list of what was attempted. It shares no code with package wal.
package load

import (
	"encoding/binary"
	"fmt"
	"hash/crc64"

	"github.com/stele-wal/stele/walpb"
)

// A record is one record of the log: comparable with ==.
type record struct {
	kind  walpb.Type
	term  uint64
	index uint64 // of a hard state, the commit
	vote  uint64
	sum   uint64 // of the bytes it carries
}

var polynomial = crc64.MakeTable(crc64.ECMA)

func sum(b []byte) uint64 { return crc64.Checksum(b, polynomial) }

func entryRecord(e walpb.Entry) record {
	return record{kind: walpb.TypeEntry, term: e.Term, index: e.Index, sum: sum(e.Data)}
}

func stateRecord(s walpb.HardState) record {
	return record{kind: walpb.TypeState, term: s.Term, index: s.Commit, vote: s.Vote}
}

func snapshotRecord(s walpb.Snapshot) record {
	return record{kind: walpb.TypeSnapshot, term: s.Term, index: s.Index, sum: sum(s.ConfState)}
}

func (r record) String() string { return fmt.Sprintf("%v %d/%d", r.kind, r.index, r.term) }

func hardState(r record) walpb.HardState {
	return walpb.HardState{Term: r.term, Vote: r.vote, Commit: r.index}
}

// lastState returns the hard state after some records.
func lastState(records []record) record {
	for i := len(records) - 1; i >= 0; i-- {
		if records[i].kind == walpb.TypeState {
			return records[i]
		}
	}
	return record{kind: walpb.TypeState}
}

// meaning is what records add up to.
type meaning struct {
	base, baseTerm uint64   // the snapshot that the entries follow
	entries        []record // consecutive, from base+1 on
	state          record
	snapshots      []record // all records of snapshots
	pending        int      // the position of the record of a snapshot that waits for its commit, or -1
}

// fold works out what records mean, in the plainest way there is. A snapshot of what the log does
// not have was installed: it replaces the log when the commit reaches it.
func fold(records []record) meaning {
	m := meaning{pending: -1, state: record{kind: walpb.TypeState}}
	for i, r := range records {
		switch r.kind {
		case walpb.TypeEntry:
			m.put(r)
		case walpb.TypeSnapshot:
			m.snapshots = append(m.snapshots, r)
			if r.index > m.state.index && !m.has(r.index, r.term) {
				m.pending = i
			}
		case walpb.TypeState:
			m.state = r
			if m.pending < 0 || r.index < records[m.pending].index {
				continue
			}
			if s := records[m.pending]; !m.has(s.index, s.term) {
				m.base, m.baseTerm, m.entries = s.index, s.term, nil
				for _, e := range records[m.pending+1 : i] {
					if e.kind == walpb.TypeEntry {
						m.put(e)
					}
				}
			}
			m.pending = -1
		}
	}
	return m
}

// put appends an entry, in the place of all from its index on. One that does not follow belongs to
// a log that has not begun.
func (m *meaning) put(r record) {
	if r.index > m.base && r.index <= m.last()+1 {
		m.entries = append(m.entries[:r.index-m.base-1:r.index-m.base-1], r)
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
	if index < m.base || index >= m.last() {
		return nil
	}
	return m.entries[index-m.base:]
}

// Marker is in every entry's data, over and over: a disk can tell by it which writes are those of a
// log's entries.
var Marker = []byte("\xa7stele-entry\xa7")

// entry returns the entry of an index and a term. There is only one, so that what a crash took and
// is sent again has the same bytes.
func entry(index, term uint64) walpb.Entry {
	h := mix(index, term)
	var size uint64
	switch h >> 8 % 16 {
	case 0:
		return walpb.Entry{Index: index, Term: term} // no data at all, as a new leader's first entry
	case 1, 2:
		size = 3000 + h>>16%9000
	case 3, 4, 5:
		size = 600 + h>>16%2400
	default:
		size = h >> 16 % 600
	}
	return walpb.Entry{Index: index, Term: term, Data: fill(size, h)}
}

// fill returns bytes in which Marker comes again and again.
func fill(size, h uint64) []byte {
	b := make([]byte, 0, size+64)
	for uint64(len(b)) < size {
		b = append(b, Marker...)
		b = binary.LittleEndian.AppendUint64(b, h)
		h = mix(h, uint64(len(b)))
	}
	return b[:size]
}

// mix returns a number that has little to do with either.
func mix(a, b uint64) uint64 {
	h := (a*0x9e3779b97f4a7c15 ^ b*0xbf58476d1ce4e5b9) * 0x94d049bb133111eb
	h ^= h >> 31
	h *= 0x5851f42d4c957f2d
	return h ^ h>>29
}
