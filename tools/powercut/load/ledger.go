package load

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"bufio"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
)

// A Ledger is what Members have reported, one after the other, on one store.
type Ledger struct {
	entries  map[uint64]uint64 // index to term, of those that no snapshot stands for
	snapshot uint64            // the newest
	count    int
}

// NewLedger returns an empty Ledger.
func NewLedger() *Ledger { return &Ledger{entries: map[uint64]uint64{}} }

// Acknowledged returns how many entries were acknowledged.
func (l *Ledger) Acknowledged() int { return l.count }

// Read takes what a Member has reported. A last line that is cut short does not count.
func (l *Ledger) Read(reports io.Reader) error {
	r := bufio.NewReader(reports)
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var what string
		var f file
		if _, err := fmt.Sscan(line, &what, &f.index, &f.term); err != nil {
			return fmt.Errorf("a member reports %q: %w", strings.TrimSpace(line), err)
		}
		if what == "snapshot" {
			l.snapshot = max(l.snapshot, f.index)
			continue
		}
		if _, twice := l.entries[f.index]; twice {
			return oracle.Failf(oracle.Lost, "entry %d was acknowledged twice", f.index)
		}
		l.entries[f.index] = f.term
		l.count++
	}
}

// Judge compares the store in dir, which no process has open, with what was reported. The error is
// an *oracle.Failure.
func (l *Ledger) Judge(dir string) error {
	s, err := observe(dir)
	if err != nil {
		return err
	}
	newest := s.Newest()
	if newest.Index < l.snapshot {
		return oracle.Failf(oracle.Lost, "the newest snapshot record is %d, not %d", newest.Index, l.snapshot)
	}
	if newest.Index > 0 {
		if err := loads(dir, file{newest.Index, newest.Term}); err != nil {
			return oracle.Failf(oracle.Lost, "the snapshot of %d/%d: %v", newest.Term, newest.Index, err)
		}
	}
	terms := map[uint64]uint64{}
	for _, e := range s.Log.Entries {
		if want := entry(e.Index, e.Term); !bytes.Equal(want.Data, e.Data) {
			return oracle.Failf(oracle.Invented, "entry %d/%d has other data", e.Term, e.Index)
		}
		terms[e.Index] = e.Term
	}
	maps.DeleteFunc(l.entries, func(index, _ uint64) bool { return index <= newest.Index })
	for _, index := range slices.Sorted(maps.Keys(l.entries)) {
		if got := terms[index]; got != l.entries[index] {
			return oracle.Failf(oracle.Lost, "entry %d/%d is not there (the log has term %d)", index, l.entries[index], got)
		}
	}
	return nil
}

// loads reads a snapshot of a Member.
func loads(dir string, f file) error {
	s, err := snap.ReadOnly(snapDir(dir), nil).Load(f.index, f.term)
	if err == nil && !bytes.Equal(s.Data, state(f)) {
		err = fmt.Errorf("it has other data")
	}
	return err
}
