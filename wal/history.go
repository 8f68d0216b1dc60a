package wal

import (
	"fmt"

	"github.com/stele-wal/stele/walpb"
)

// A history is what the entries, hard states and snapshot records of a log add up to. It is the one place that knows
// which of them contradict each other, and both sides ask it: the Writer before it writes, the readers before they
// believe. It keeps the terms of the log, and the entries themselves only where it is told to.
//
// A snapshot record is of one of two kinds, and does not say which. A local one names an entry that the log holds, and
// changes nothing. One that was installed from a leader replaces the log; but only once the hard state that commits it
// is there as well, because a crash may come between the two, and then the log in front of it still stands. Until one
// or the other is certain, a history follows both lines.
type history struct {
	state   walpb.HardState
	line    line
	pending *install
	ahead   uint64 // the index of a snapshot record beyond the commit that was met before the line began; 0 once it is committed
	written uint64 // the index of the last entry written, or of the highest snapshot record: what names the next segment
	highest uint64 // the highest index of a snapshot record
}

// install is a snapshot record beyond the commit whose entry the log does not hold.
type install struct {
	snapshot walpb.Snapshot
	line     line // what the log is if the snapshot replaced it
}

// line is one log as a consensus protocol sees it: consecutive entries after a base.
type line struct {
	rooted bool   // base is known; it is not when reading began in the middle of a log
	base   uint64 // the index before the first entry
	last   uint64 // the index of the last entry, or base
	runs   []run  // the terms of base and of the entries after it, rising in both fields

	keep    bool          // collect entries
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

// started tells whether the line holds anything that an entry could follow.
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

// lacks tells whether the line certainly has no entry of that index and term.
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
		return fmt.Errorf("entry %d/%d leaves a gap after %d", index, term, l.last)
	}
	if l.rooted && index <= l.base {
		return fmt.Errorf("entry %d/%d is not after the snapshot %d that the log begins with", index, term, l.base)
	}
	if before, known := l.term(index - 1); known && term < before {
		return fmt.Errorf("entry %d/%d has a lower term than the one before it, %d/%d", index, term, index-1, before)
	}
	return nil
}

// takes returns the entries that the line takes of consecutive ones, which is all from the first on that it admits, and its last index
// then.
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

// admitsEntry returns why an entry cannot come next, or nil.
func (h *history) admitsEntry(index, term uint64) error {
	if index == 0 {
		return fmt.Errorf("an entry has index 0")
	}
	if index <= h.state.Commit {
		return fmt.Errorf("entry %d/%d would overwrite what is committed up to %d", index, term, h.state.Commit)
	}
	err := h.line.admits(index, term)
	if err != nil && h.pending != nil && h.pending.line.admits(index, term) == nil {
		return nil
	}
	return err
}

// admitsState returns why a hard state cannot come next behind entries, or nil. A commit that reaches the pending snapshot decides
// whether that has replaced the log. What lies between the two logs is in neither.
func (h *history) admitsState(s walpb.HardState, entries []walpb.Entry) error {
	taken, last := h.line.takes(entries)
	if p := h.pending; p != nil && s.Commit >= p.snapshot.Index && h.line.lacksAfter(taken, p.snapshot.Index, p.snapshot.Term) {
		_, last = p.line.takes(entries)
	}
	switch {
	case s.Term < h.state.Term:
		return fmt.Errorf("the hard state's term falls from %d to %d", h.state.Term, s.Term)
	case s.Commit < h.state.Commit:
		return fmt.Errorf("the hard state's commit falls from %d to %d", h.state.Commit, s.Commit)
	case s.Commit > last && (h.line.started() || h.pending != nil):
		return fmt.Errorf("the hard state commits %d, but the last entry is %d", s.Commit, last)
	}
	return nil
}

// admitsSnapshot returns why a snapshot record cannot come next, or nil.
func (h *history) admitsSnapshot(s walpb.Snapshot) error {
	if s.Index > h.state.Commit || s.Index > h.line.last {
		return nil
	}
	if term, known := h.line.term(s.Index); known && term != s.Term {
		return fmt.Errorf("the snapshot record %d/%d contradicts the committed entry %d/%d", s.Index, s.Term, s.Index, term)
	}
	return nil
}

// admits returns why Save may not write these, or nil. Nothing is changed.
func (h *history) admits(s walpb.HardState, entries []walpb.Entry) error {
	for i := range entries {
		e := &entries[i]
		if i == 0 {
			if err := h.admitsEntry(e.Index, e.Term); err != nil {
				return err
			}
		} else if before := &entries[i-1]; e.Index != before.Index+1 {
			return fmt.Errorf("entry %d/%d does not follow on %d/%d", e.Index, e.Term, before.Index, before.Term)
		} else if e.Term < before.Term {
			return fmt.Errorf("entry %d/%d has a lower term than the one before it, %d/%d", e.Index, e.Term, before.Index, before.Term)
		}
	}
	if s.IsZero() {
		return nil
	}
	return h.admitsState(s, entries)
}

// entry takes the next entry of the log, or returns why it cannot be.
func (h *history) entry(e walpb.Entry) error {
	if err := h.admitsEntry(e.Index, e.Term); err != nil {
		return err
	}
	if h.line.admits(e.Index, e.Term) == nil {
		h.line.push(e)
	}
	if h.pending != nil && h.pending.line.admits(e.Index, e.Term) == nil {
		h.pending.line.push(e)
	}
	h.written = max(e.Index, h.highest)
	return nil
}

// hardState takes the next hard state of the log, or returns why it cannot be.
func (h *history) hardState(s walpb.HardState) error {
	if err := h.admitsState(s, nil); err != nil {
		return err
	}
	h.state = s
	if s.Commit >= h.ahead {
		h.ahead = 0
	}
	if h.pending != nil && s.Commit >= h.pending.snapshot.Index {
		if h.line.lacks(h.pending.snapshot.Index, h.pending.snapshot.Term) {
			h.adopt()
		}
		h.pending = nil
	}
	return nil
}

// uninstalled tells whether the line, as far as it was read, holds nothing but what follows a snapshot that was never committed. from
// is where reading began: the index of a snapshot that is committed, and whatever the log holds behind that was read.
//
// Then the line is not the log's. For had it gone on from before that snapshot, entries between the two would have been read.
func (h *history) uninstalled(from uint64) bool {
	return h.ahead > 0 && h.line.base == h.ahead && from < h.ahead && h.state.Commit == from
}

// settle ends the reading of a log with these snapshot records: if it holds no entry, it begins with the newest that is usable, and one
// beyond the commit waits for it.
func (h *history) settle(records []recorded) {
	newest := newestUsable(records, h.state.Commit)
	if newest < 0 || h.line.started() {
		return
	}
	h.line.startsAt(records[newest].index, records[newest].term)
	for _, r := range records {
		if r.index > h.state.Commit {
			h.await(walpb.Snapshot{Index: r.index, Term: r.term})
		}
	}
}

// await has a snapshot that the log lacks wait for its commit.
func (h *history) await(s walpb.Snapshot) {
	h.pending = &install{snapshot: s, line: line{keep: h.line.keep, after: h.line.after}}
	h.pending.line.startsAt(s.Index, s.Term)
}

// adopt makes the line that follows the pending snapshot the log.
func (h *history) adopt() {
	h.line = h.pending.line
	h.pending = nil
}

// snapshot takes the next snapshot record of the log, or returns why it cannot be.
func (h *history) snapshot(s walpb.Snapshot) error {
	if err := h.admitsSnapshot(s); err != nil {
		return err
	}
	h.highest = max(h.highest, s.Index)
	h.written = max(h.written, s.Index)
	switch {
	case s.Index == 0:
		// Behind a commit it is not what the log begins with.
		if !h.line.started() && h.state.Commit == 0 {
			h.line.startsAt(0, 0)
		}
	case !h.line.started():
		// Reading began in the middle of the log, perhaps behind the entry that this record names.
		if s.Index > h.state.Commit {
			h.ahead = s.Index
		}
	case s.Index > h.state.Commit && h.line.lacks(s.Index, s.Term):
		h.await(s)
	}
	return nil
}
