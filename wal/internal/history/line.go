package history

import (
	"fmt"
	"slices"

	"github.com/stele-wal/stele/walpb"
)

// line is one log as a consensus protocol sees it: consecutive entries after a base.
type line struct {
	rooted bool   // base is known; it is not when reading began in the middle of a log
	base   uint64 // the index before the first entry
	last   uint64 // the index of the last entry, or base
	runs   []run  // the terms of base and of the entries after it, rising in both fields

	keep    bool          // entries are kept
	after   uint64        // but only those after this index
	entries []walpb.Entry // consecutive, ending at last
}

// run says that the entries from first on have this term, up to the next run.
type run struct{ first, term uint64 }

// startsAt makes the line the one that follows a snapshot.
func (l *line) startsAt(index, term uint64) {
	l.rooted, l.base, l.last = true, index, index
	l.runs = append(l.runs[:0], run{index, term})
	l.entries = nil
}

// another returns an empty line that keeps what l keeps.
func (l *line) another() *line { return &line{keep: l.keep, after: l.after} }

// follows returns why a line of which nothing is known before its first entry cannot be the one
// that follows a snapshot right before that, or nil.
func (l *line) follows(index, term uint64) error {
	if first, known := l.term(index + 1); known && first < term {
		return fmt.Errorf("entry %d/%d has a lower term than the snapshot record before it, %d/%d", first, index+1, term, index)
	}
	return nil
}

// rootAt makes the line the one that follows a snapshot right before its first entry.
func (l *line) rootAt(index, term uint64) {
	l.rooted, l.base = true, index
	l.runs = slices.Insert(l.runs, 0, run{index, term})
}

// started reports whether the line holds anything that an entry could follow.
func (l *line) started() bool { return l.rooted || len(l.runs) > 0 }

// term returns the term of the entry at index, if the line knows it.
func (l *line) term(index uint64) (term uint64, known bool) {
	if index > l.last {
		return 0, false
	}
	for i := len(l.runs) - 1; i >= 0; i-- {
		if l.runs[i].first <= index {
			return l.runs[i].term, true
		}
	}
	return 0, false
}

// lacks reports whether the line certainly has no entry of that index and term.
func (l *line) lacks(index, term uint64) bool {
	if index > l.last {
		return true
	}
	t, known := l.term(index)
	return known && t != term
}

// admits returns why an entry cannot come next on this line, or nil.
func (l *line) admits(index, term uint64) error {
	if !l.started() {
		return nil
	}
	if index-1 > l.last {
		return fmt.Errorf("entry %d/%d leaves a gap after %d", term, index, l.last)
	}
	if l.rooted && index <= l.base {
		return fmt.Errorf("entry %d/%d is not after the snapshot %d that the log begins with", term, index, l.base)
	}
	if before, known := l.term(index - 1); known && term < before {
		return fmt.Errorf("entry %d/%d has a lower term than the one before it, %d/%d", term, index, before, index-1)
	}
	return nil
}

// takes returns the entries that the line takes of consecutive ones, which is all from the first on
// that it admits, and its last index then.
func (l *line) takes(entries []walpb.Entry) (taken []walpb.Entry, last uint64) {
	for i := range entries {
		if l.admits(entries[i].Index, entries[i].Term) == nil {
			return entries[i:], entries[len(entries)-1].Index
		}
	}
	return nil, l.last
}

// lacksAfter is lacks once the line has taken entries that end with its last index.
func (l *line) lacksAfter(taken []walpb.Entry, index, term uint64) bool {
	if len(taken) == 0 || index < taken[0].Index {
		return l.lacks(index, term)
	}
	at := index - taken[0].Index
	return at >= uint64(len(taken)) || taken[at].Term != term
}

// push appends an entry that the line admits, which voids every entry at or above its index.
func (l *line) push(e walpb.Entry) {
	if !l.started() {
		l.base = e.Index - 1
	}
	for len(l.runs) > 0 && l.runs[len(l.runs)-1].first >= e.Index {
		l.runs = l.runs[:len(l.runs)-1]
	}
	if len(l.runs) == 0 || l.runs[len(l.runs)-1].term != e.Term {
		l.runs = append(l.runs, run{e.Index, e.Term})
	}
	l.base = min(l.base, e.Index-1)
	l.last = e.Index
	if l.keep {
		if n := len(l.entries); n > 0 && l.entries[n-1].Index >= e.Index {
			first := l.entries[0].Index
			l.entries = l.entries[:max(e.Index, first)-first]
		}
		if e.Index > l.after {
			l.entries = append(l.entries, e)
		}
	}
}
