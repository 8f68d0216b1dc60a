// Package history says what the entries, hard states and snapshot records of a log add up to, and
// which of them contradict each other. It knows values only: no bytes, no files.
package history

import (
	"fmt"
	"math"

	"github.com/stele-wal/stele/walpb"
)

// A History is what the entries, hard states and snapshot records of a log add up to. Both sides
// ask it: the Writer before it writes, the readers before they believe. It keeps the terms of the
// log, and the entries themselves only where Keep says so. The zero History is that of a log of
// which nothing was read.
//
// A snapshot record is of one of two kinds, and does not say which. A local one names an entry that
// the log holds, and changes nothing. One that was installed from a leader replaces the log; but
// only once the hard state that commits it is there as well, because a crash may come between the
// two, and then the log before it still stands. Until one or the other is certain, a History
// follows both lines.
//
// Writer and readers ask in two steps. The first may refuse and changes nothing; the second cannot
// fail. For the Writer these are Admits and Take, AdmitsSnapshot and TakeSnapshot. Readers have
// both in one: Entry, HardState and Snapshot take what they do not refuse. They refuse less, since
// some writers write in another order, and a reader waits for the rest: see Owes.
type History struct {
	State walpb.HardState // the last one

	line    line
	pending *install // the snapshot that waits for its commit; nil if none does

	// loose has the latest records if they are entries after a gap: a snapshot record of the index
	// before them has to follow. It is nil otherwise.
	loose *line

	// ahead is the index of a snapshot record beyond the commit that was read before the line
	// began; 0 once it is committed.
	ahead uint64

	written uint64 // the index of the last entry, or highest if that is higher
	highest uint64 // the highest index of a snapshot record
}

// install is a snapshot record beyond the commit whose entry the log does not hold.
type install struct {
	snapshot walpb.Snapshot
	line     line // what the log is if the snapshot replaced it
	passed   bool // an entry at or below its index came after it: the log before it went on
}

// Keep makes the History keep the entries after an index. It is called before anything is taken.
func (h *History) Keep(after uint64) { h.line.keep, h.line.after = true, after }

// Reset makes the History that of a log of which nothing was read, which keeps what it kept.
func (h *History) Reset() { *h = History{line: *h.line.another()} }

// Keeps reports whether an entry of that index would be kept.
func (h *History) Keeps(index uint64) bool { return h.line.keep && index > h.line.after }

// Last returns the index of the last entry, or of the snapshot that stands for it.
func (h *History) Last() uint64 { return h.line.last }

// Base returns the index before the first entry.
func (h *History) Base() uint64 { return h.line.base }

// Term returns the term of an entry, or of the snapshot that the log begins with, if it is known.
func (h *History) Term(index uint64) (term uint64, known bool) { return h.line.term(index) }

// NextIndex returns the index that names the next segment: no entry in it is below.
func (h *History) NextIndex() uint64 {
	if h.written == math.MaxUint64 {
		return h.written // no entry comes after this one
	}
	return h.written + 1
}

// What the Writer asks.

// Admits returns why these may not be saved next, the hard state after the entries, or nil. A zero
// hard state is none.
func (h *History) Admits(s walpb.HardState, entries []walpb.Entry) error {
	for i := range entries {
		e := &entries[i]
		if i == 0 {
			if err := h.admitsEntry(e.Index, e.Term); err != nil {
				return err
			}
		} else if before := &entries[i-1]; e.Index != before.Index+1 || e.Index == 0 {
			return fmt.Errorf("entry %d/%d does not follow %d/%d", e.Term, e.Index, before.Term, before.Index)
		} else if e.Term < before.Term {
			return fmt.Errorf("entry %d/%d has a lower term than the one before it, %d/%d", e.Term, e.Index, before.Term, before.Index)
		}
	}
	if s.IsZero() {
		return nil
	}
	return h.admitsState(s, entries)
}

// Take takes what Admits admitted.
func (h *History) Take(s walpb.HardState, entries []walpb.Entry) {
	n := len(entries)
	if n > 0 && h.goesOn(entries[0].Index, entries[0].Term) && entries[n-1].Term == entries[0].Term && h.pending == nil && !h.line.keep {
		// However many they are, all that they change is where the line ends.
		h.line.last = entries[n-1].Index
		h.written = max(h.line.last, h.highest)
	} else {
		for i := range entries {
			h.takeEntry(entries[i])
		}
	}
	if !s.IsZero() {
		h.takeState(s)
	}
}

// AdmitsSnapshot returns why a snapshot record may not be saved next, or nil.
func (h *History) AdmitsSnapshot(s walpb.Snapshot) error {
	if s.Index > h.State.Commit || s.Index > h.line.last {
		return nil
	}
	if term, known := h.line.term(s.Index); known && term != s.Term {
		return fmt.Errorf("the snapshot record %d/%d contradicts the committed entry %d/%d", s.Term, s.Index, term, s.Index)
	}
	return nil
}

// admitsEntry returns why an entry may not be saved next, or nil.
func (h *History) admitsEntry(index, term uint64) error {
	if h.goesOn(index, term) {
		return nil
	}
	if err := h.refusesEntry(index, term); err != nil {
		return err
	}
	err := h.line.admits(index, term)
	if err != nil && h.pending != nil && h.pending.line.admits(index, term) == nil {
		return nil
	}
	return err
}

// goesOn reports whether an entry is the one after the last, in the same term. Nearly every entry
// is, and with such a one nothing can be wrong.
func (h *History) goesOn(index, term uint64) bool {
	runs := h.line.runs
	return h.loose == nil && index > 0 && index-1 == h.line.last && len(runs) > 0 && runs[len(runs)-1].term == term
}

// admitsState returns why a hard state may not be saved after entries, or nil. A commit that
// reaches the pending snapshot decides whether that has replaced the log. What lies between the two
// logs is in neither.
func (h *History) admitsState(s walpb.HardState, entries []walpb.Entry) error {
	if err := h.refusesState(s); err != nil {
		return err
	}
	if s.Term == h.State.Term && s.Vote != h.State.Vote && h.State.Vote != 0 {
		return fmt.Errorf("the hard state's vote in term %d changes from %d to %d", s.Term, h.State.Vote, s.Vote)
	}
	taken, last := h.line.takes(entries)
	if p := h.pending; p != nil && s.Commit >= p.snapshot.Index && h.line.lacksAfter(taken, p.snapshot.Index, p.snapshot.Term) {
		if p.passed || len(entries) > 0 && entries[0].Index <= p.snapshot.Index {
			return p.refuses(s.Commit)
		}
		_, last = p.line.takes(entries)
	}
	if s.Commit > last && (h.line.started() || h.pending != nil) {
		return fmt.Errorf("the hard state commits %d, but the last entry is %d", s.Commit, last)
	}
	return nil
}

// What readers ask.

// Entry takes the next entry of the log, or returns why it cannot be.
func (h *History) Entry(e walpb.Entry) error {
	if err := h.refusesEntry(e.Index, e.Term); err != nil {
		return err
	}
	if err := h.follows(e.Index, e.Term); err != nil {
		return err
	}
	h.takeEntry(e)
	return nil
}

// HardState takes the next hard state of the log, or returns why it cannot be.
func (h *History) HardState(s walpb.HardState) error {
	if err := h.refusesState(s); err != nil {
		return err
	}
	p := h.pending
	if p != nil && p.passed && s.Commit >= p.snapshot.Index && h.line.lacks(p.snapshot.Index, p.snapshot.Term) {
		return p.refuses(s.Commit)
	}
	h.takeState(s)
	return nil
}

// Snapshot takes the next snapshot record of the log, or returns why it cannot be.
func (h *History) Snapshot(s walpb.Snapshot) error {
	if err := h.AdmitsSnapshot(s); err != nil {
		return err
	}
	if h.fills(s) {
		if err := h.loose.follows(s.Index, s.Term); err != nil {
			return err
		}
	}
	h.TakeSnapshot(s)
	return nil
}

// refusesEntry returns why no writer would write this entry next, or nil.
func (h *History) refusesEntry(index, term uint64) error {
	if index == 0 {
		return fmt.Errorf("an entry has index 0")
	}
	if index <= h.State.Commit && (index <= h.reach() || !h.line.started()) {
		return fmt.Errorf("entry %d/%d would overwrite what is committed up to %d", term, index, h.State.Commit)
	}
	return nil
}

// reach returns the index of the last entry, on whichever line it is.
func (h *History) reach() uint64 {
	if h.loose != nil {
		return h.loose.last
	}
	return h.line.last
}

// follows returns why an entry is on no line, or nil.
func (h *History) follows(index, term uint64) error {
	refused := h.line.admits(index, term)
	switch {
	case refused == nil:
		return nil
	case h.pending != nil && h.pending.line.admits(index, term) == nil:
		return nil
	case h.loose != nil && h.loose.admits(index, term) == nil:
		return nil
	case h.loosens(index):
		return nil
	}
	return refused
}

// loosens reports whether an entry that no line admits is the first after a gap, which a snapshot
// record may fill.
func (h *History) loosens(index uint64) bool {
	return h.loose == nil && h.pending == nil && index-1 > h.line.last
}

// refusesState returns why no writer would write this hard state next, or nil.
func (h *History) refusesState(s walpb.HardState) error {
	switch {
	case s.Term < h.State.Term:
		return fmt.Errorf("the hard state's term falls from %d to %d", h.State.Term, s.Term)
	case s.Commit < h.State.Commit:
		return fmt.Errorf("the hard state's commit falls from %d to %d", h.State.Commit, s.Commit)
	}
	return nil
}

// refuses returns why a commit cannot reach a snapshot that waits for it, where the log has gone on
// with another entry at its index: one of the two was not committed.
func (p *install) refuses(commit uint64) error {
	return fmt.Errorf("the hard state commits %d, but the log has gone on with another entry after the snapshot record %d/%d", commit, p.snapshot.Term, p.snapshot.Index)
}

// fills reports whether a snapshot record is the one that loose entries wait for.
func (h *History) fills(s walpb.Snapshot) bool {
	return h.line.started() && s.Index > 0 && h.loose != nil && s.Index == h.loose.base
}

// What both sides take. None of these can fail.

// takeEntry takes an entry that follows admits.
func (h *History) takeEntry(e walpb.Entry) {
	taken := h.line.admits(e.Index, e.Term) == nil
	if taken {
		h.line.push(e)
	}
	if p := h.pending; p != nil {
		p.passed = p.passed || taken && e.Index <= p.snapshot.Index
		if p.line.admits(e.Index, e.Term) == nil {
			p.line.push(e)
			taken = true
		}
	}
	switch {
	case taken:
		h.loose = nil // an entry voids every one at or above its index
	case h.loose != nil:
		h.loose.push(e)
	default:
		h.loose = h.line.another()
		h.loose.push(e)
	}
	h.written = max(e.Index, h.highest)
}

func (h *History) takeState(s walpb.HardState) {
	h.State = s
	if s.Commit >= h.ahead {
		h.ahead = 0
	}
	if p := h.pending; p != nil && s.Commit >= p.snapshot.Index {
		if h.line.lacks(p.snapshot.Index, p.snapshot.Term) {
			h.adopt()
		}
		h.pending = nil
	}
}

// TakeSnapshot takes what AdmitsSnapshot admitted.
func (h *History) TakeSnapshot(s walpb.Snapshot) {
	h.highest = max(h.highest, s.Index)
	h.written = max(h.written, s.Index)
	switch {
	case s.Index == 0:
		// After a commit it is not what the log begins with.
		if !h.line.started() && h.State.Commit == 0 {
			h.line.startsAt(0, 0)
		}
	case !h.line.started():
		// Reading began in the middle of the log, perhaps after the entry that this record names.
		if s.Index > h.State.Commit {
			h.ahead = s.Index
		}
	case h.fills(s):
		h.loose.rootAt(s.Index, s.Term)
		h.pending, h.loose = &install{snapshot: s, line: *h.loose}, nil
		if s.Index <= h.State.Commit {
			h.adopt()
		}
	case h.loose == nil && h.line.lacks(s.Index, s.Term):
		h.await(s)
		if s.Index <= h.State.Commit { // the hard state that commits it came first
			h.adopt()
		}
	}
}

// await has a snapshot that the log lacks wait for its commit.
func (h *History) await(s walpb.Snapshot) {
	h.pending = &install{snapshot: s, line: *h.line.another()}
	h.pending.line.startsAt(s.Index, s.Term)
}

// adopt makes the line that follows the pending snapshot the log.
func (h *History) adopt() {
	h.line = h.pending.line
	h.pending, h.loose = nil, nil
}

// What is known at the end of a log.

// Owing reports whether other records have to follow.
func (h *History) Owing() bool {
	return h.loose != nil || h.line.started() && h.State.Commit > h.line.last
}

// Owes returns why a log cannot end here, because other records have to follow, or nil.
//
// Our Writer never leaves it so, and etcd's raft asks for the order that ours keeps: first the
// record of a snapshot that a leader sent, then the hard state that commits it and entries. But
// etcd up to 3.3.20 and 3.4.7, the raftexample of that time and its copies, and Hyperledger
// Fabric's orderer save hard state and entries first, and the backup that etcd's tools write has
// its snapshot record last.
func (h *History) Owes() error {
	switch {
	case h.loose != nil:
		return fmt.Errorf("entries from %d on leave a gap after %d, and no record of a snapshot at %d follows", h.loose.base+1, h.line.last, h.loose.base)
	case h.Owing():
		return fmt.Errorf("the hard state commits %d, but the last entry is %d, and no record of a snapshot follows", h.State.Commit, h.line.last)
	}
	return nil
}

// StartAt makes the log the one that follows a snapshot which is recorded in it.
func (h *History) StartAt(s walpb.Snapshot) {
	if h.uninstalled(s.Index) {
		h.line = line{}
	}
	// A reader that replays from an installed snapshot has that snapshot, and so has what the hard
	// state would have committed.
	if p := h.pending; p != nil && p.snapshot.Index == s.Index && p.snapshot.Term == s.Term {
		h.adopt()
	}
}

// Entries returns the entries that were kept and stand, nil if there are none.
func (h *History) Entries() []walpb.Entry {
	if len(h.line.entries) == 0 {
		return nil // not the empty rest of entries that were overwritten
	}
	return h.line.entries
}

// uninstalled reports whether the line, as far as it was read, holds nothing but what follows a
// snapshot that was never committed. from is where reading began: the index of a snapshot that is
// committed, and whatever the log holds after that was read.
//
// Then the line is not the log's. For had it gone on from before that snapshot, entries between the
// two would have been read.
func (h *History) uninstalled(from uint64) bool {
	return h.ahead > 0 && h.line.base == h.ahead && from < h.ahead && h.State.Commit == from
}
