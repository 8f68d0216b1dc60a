// Package oracle knows what a log must hold, and judges what is there.
//
// A [Model] is a plain list of the records that were attempted, and how many of them must be there.
// [Fold] works out what records mean; [Observe] reads a log as its readers show it, and
// [Model.Judge] compares the two. It shares no code with package wal.
//
// What must not be is [Lost] (it was acknowledged, or an earlier Open had shown it), [Invented] (it
// was never attempted, or it has come back) or [Refused] (a legal call returned an error).
package oracle

import (
	"fmt"
	"maps"
	"slices"

	"github.com/stele-wal/stele/walpb"
)

// A Model is what was attempted on a log, and how much of it must be there.
type Model struct {
	Records []Record // those that were attempted
	Acked   int      // the first Acked must be there: acknowledged, or shown by an Open
	Created bool     // Create was acknowledged, or an Open has succeeded

	Starts map[string]int  // segment that the log may begin with -> records before it
	Gone   map[string]bool // segments that must not come back: their Release was acknowledged
}

// NewModel returns that of a log that is about to be created. Every log begins with the record of
// the empty snapshot.
func NewModel() *Model {
	return &Model{Records: []Record{SnapshotRecord(walpb.Snapshot{})}, Starts: map[string]int{}, Gone: map[string]bool{}}
}

// State returns the hard state after the first n records.
func (m *Model) State(n int) Record { return LastState(m.Records[:n], noState) }

// Attempt adds a record that is about to be written. A hard state that changes nothing is none:
// segments begin with such.
func (m *Model) Attempt(r Record) {
	if r.Kind == walpb.TypeState && r == m.State(len(m.Records)) {
		return
	}
	m.Records = append(m.Records, r)
}

// MayRelease takes note of the segments that a log may begin with once Release was called with an
// index: those up to the last that begins at or below it and at or below the newest usable
// snapshot, and whose beginning is not after that one's record. s is the log before that.
func (m *Model) MayRelease(s *Seen, index uint64) {
	known := Fold(m.Records)
	newest := Place{At: -1}
	for _, n := range known.Snapshots {
		if n.Index <= known.State.Index && n.Index >= newest.Index {
			newest = n
		}
	}
	last := -1
	at := func(s1 Start) int { return s.Count - len(s.Records) + s1.at }
	for i, start := range s.Starts {
		var seq, first uint64
		fmt.Sscanf(start.Segment, "%x-%x.wal", &seq, &first)
		if first <= min(index, newest.Index) && at(start) <= newest.At {
			last = i
		}
	}
	for _, start := range s.Starts[:last+1] {
		m.Starts[start.Segment] = at(start)
	}
}

// Clone returns a copy that can go another way.
func (m *Model) Clone() *Model {
	c := *m
	c.Records = slices.Clip(m.Records)
	c.Starts, c.Gone = maps.Clone(m.Starts), maps.Clone(m.Gone)
	return &c
}

// Settle makes the first records all there is: an Open has shown them and no others. It returns the
// others.
func (m *Model) Settle(count int) (lost []Record) {
	lost = slices.Clone(m.Records[count:])
	m.Records = slices.Clip(m.Records[:count]) // a clone may have the others
	m.Acked, m.Created = count, true
	return lost
}
