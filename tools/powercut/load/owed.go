package load

import (
	"slices"
	"sync"

	"github.com/stele-wal/stele/fuzz/oracle"
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
	model *oracle.Model // of the log; nil before Create was acknowledged
	files []file        // snapshots that must be there
	gone  []string      // segments and snapshots that must not be there
}

// created is what is owed of a log that was just created: the record of the empty snapshot.
func created() Owed {
	m := oracle.NewModel()
	m.Settle(len(m.Records))
	return Owed{model: m}
}

// AckedBy returns what is owed if only those records count as acknowledged that were so when
// earlier was owed.
func (o Owed) AckedBy(earlier Owed) Owed {
	if o.model != nil {
		o.model = o.model.Clone()
		o.model.Acked = min(o.model.Acked, earlier.acked())
	}
	return o
}

// acked returns how many records must be there.
func (o Owed) acked() int {
	if o.model == nil {
		return 0
	}
	return o.model.Acked
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

// change changes what is owed, from here on. f may change the model, and replace or append to the
// slices; what was owed before stays as it was.
func (m *marks) change(f func(now *Owed)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now.model != nil {
		m.now.model = m.now.model.Clone()
	}
	f(&m.now)
	m.all = append(m.all, Mark{m.position(), m.now})
}

// attempt says that records are about to be written. It returns how many records there are then.
func (m *marks) attempt(records ...oracle.Record) (count int) {
	m.change(func(now *Owed) {
		for _, r := range records {
			now.model.Attempt(r)
		}
		count = len(now.model.Records)
	})
	return count
}

// ack says that the first count records are durable.
func (m *marks) ack(count int) {
	m.change(func(now *Owed) { now.model.Acked = max(now.model.Acked, count) })
}

// saved says that a snapshot is durable.
func (m *marks) saved(f file) {
	m.change(func(now *Owed) {
		if !slices.Contains(now.files, f) {
			now.files = append(slices.Clone(now.files), f)
		}
	})
}

// state returns the hard state of the records that were attempted.
func (m *marks) state() oracle.Record {
	return m.now.model.State(len(m.now.model.Records))
}

// meaning returns what the records that were attempted mean.
func (m *marks) meaning() oracle.Meaning {
	m.mu.Lock()
	defer m.mu.Unlock()
	return oracle.Fold(m.now.model.Records)
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
