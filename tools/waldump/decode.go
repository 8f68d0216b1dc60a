package main

import (
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// decoded is a record with what its data means.
type decoded struct {
	wal.Record
	err error // the data is not what the type says

	// One of these is that of this record, by its type; the others are of earlier ones.
	entry walpb.Entry
	state walpb.HardState
	snap  walpb.Snapshot

	term, index uint64 // of the entry, hard state or snapshot record; 0 if it has none
	overwritten bool   // the entry, by a later one
}

func (d *decoded) decode(r *wal.Record) {
	d.Record, d.err, d.term, d.index, d.overwritten = *r, nil, 0, 0, false
	switch r.Type {
	case walpb.TypeEntry:
		d.err = r.UnmarshalData(&d.entry)
		d.term, d.index = d.entry.Term, d.entry.Index
	case walpb.TypeState:
		d.err = r.UnmarshalData(&d.state)
		d.term = d.state.Term
	case walpb.TypeSnapshot:
		d.err = r.UnmarshalData(&d.snap)
		d.term, d.index = d.snap.Term, d.snap.Index
	}
}
