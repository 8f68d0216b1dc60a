package load

import (
	"slices"
	"sync"

	"github.com/stele-wal/stele/walpb"
)

// A kind is in which file a snapshot is.
type kind uint8

const (
	value kind = iota // a Snapshot of package snap
	body              // a Body
)

// kindOf says in which file the snapshot of an index is.
func kindOf(index uint64) kind { return kind(mix(index, 7) >> 3 % 2) }

// A file is that of a snapshot.
type file struct{ index, term uint64 }

// Owed is what a store must hold at some moment, and what it may hold. It never changes. The zero
// Owed is that of a store that does not exist.
type Owed struct {
	created  bool
	records  []record // that were attempted
	acked    int      // so many of them must be there
	released bool     // the first of them need not be there any more
	files    []file   // snapshots that must be there
	gone     []string // segments and snapshots that must not be there
}

// AckedBy returns what is owed if only those records count as acknowledged that were so when
// earlier was owed.
func (o Owed) AckedBy(earlier Owed) Owed {
	o.acked = min(o.acked, earlier.acked)
	return o
}

// A Mark says from which position on something is owed.
type Mark struct {
	At int
	Owed
}

// marks is what is owed, as it changes. Acknowledgements come from other goroutines.
type marks struct {
	position func() int

	mu  sync.Mutex
	now Owed
	all []Mark
}

// change changes what is owed, from here on. Slices are only ever appended to or replaced, so that
// what was owed before stays as it was.
func (m *marks) change(f func(now *Owed)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.now)
	m.all = append(m.all, Mark{m.position(), m.now})
}

// attempt says that records are about to be written. A hard state that changes nothing is none:
// segments begin with such. It returns how many records there are then.
func (m *marks) attempt(records ...record) (count int) {
	m.change(func(now *Owed) {
		for _, r := range records {
			if r.kind == walpb.TypeState && r == lastState(now.records) {
				continue
			}
			now.records = append(now.records, r)
		}
		count = len(now.records)
	})
	return count
}

// ack says that the first count records are durable.
func (m *marks) ack(count int) {
	m.change(func(now *Owed) { now.acked = max(now.acked, count) })
}

// saved says that a snapshot is durable.
func (m *marks) saved(f file) {
	m.change(func(now *Owed) {
		if !slices.Contains(now.files, f) {
			now.files = append(slices.Clone(now.files), f)
		}
	})
}

// meaning returns what the records that were attempted mean.
func (m *marks) meaning() meaning {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fold(m.now.records)
}

// At returns what is owed at a position: what the last mark at or before it says. before is what
// was owed before the first.
func At(all []Mark, position int, before Owed) Owed {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].At <= position {
			return all[i].Owed
		}
	}
	return before
}
