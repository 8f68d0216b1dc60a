package main

import (
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// overwrites knows which entries of a log were overwritten. An entry at an index voids all earlier
// ones at or above it.
type overwrites struct {
	events []overwrite // those that still void something, rising in both fields
	seen   int         // how many entries voids was asked about
}

type overwrite struct {
	number int // of the entry that overwrote others, among all entries
	index  uint64
}

// overwrites reads the log ahead. It ignores what it cannot read, as the reader that prints reports
// it.
func (a *app) overwrites(t *target) (o overwrites) {
	var (
		d     decoded
		count int
		last  uint64
	)
	for r, err := range wal.ScanAll(t.path, a.options()) {
		if d.decode(&r); err != nil || r.Type != walpb.TypeEntry || d.err != nil {
			continue
		}
		if count++; d.index <= last {
			// What an earlier event with a higher index voids, this one voids as well.
			for len(o.events) > 0 && o.events[len(o.events)-1].index >= d.index {
				o.events = o.events[:len(o.events)-1]
			}
			o.events = append(o.events, overwrite{count, d.index})
		}
		last = d.index
	}
	return o
}

// voids reports whether a record is an entry that was overwritten. It has to be asked about every
// record, in order.
func (o *overwrites) voids(d *decoded) bool {
	if d.Type != walpb.TypeEntry || d.err != nil {
		return false
	}
	o.seen++
	for len(o.events) > 0 && o.events[0].number <= o.seen {
		o.events = o.events[1:]
	}
	return len(o.events) > 0 && o.events[0].index <= d.index
}
