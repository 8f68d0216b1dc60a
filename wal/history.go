package wal

import (
	"fmt"

	"github.com/stele-wal/stele/walpb"
)

// A history is what the entries, hard states and snapshot records of a log add up to. It is the one
// place that knows which of them contradict each other, and both sides ask it: the Writer before it
// writes, the readers before they believe. It keeps the terms of the log, and the entries
// themselves only where it is told to.
//
// A snapshot record is of one of two kinds, and does not say which. A local one names an entry that
// the log holds, and changes nothing. One that was installed from a leader replaces the log; but
// only once the hard state that commits it is there as well, because a crash may come between the
// two, and then the log in front of it still stands. Until one or the other is certain, a history
// follows both lines.
//
// Some writers put what they write in another order, and a reader waits for the rest: see owes.
type history struct {
	state   walpb.HardState
	line    line
	pending *install
	loose   *line  // entries after a gap, the latest records: a snapshot record of the index before them has to follow
	ahead   uint64 // the index of a snapshot record beyond the commit that was met before the line began; 0 once it is committed
	written uint64 // the index of the last entry written, or of the highest snapshot record: what names the next segment
	highest uint64 // the highest index of a snapshot record
}

// install is a snapshot record beyond the commit whose entry the log does not hold.
type install struct {
	snapshot walpb.Snapshot
	line     line // what the log is if the snapshot replaced it
	passed   bool // an entry at or below its index came after it: the log in front of it went on
}

// refusesEntry returns why no writer would write this entry next, or nil.
func (h *history) refusesEntry(index, term uint64) error {
	if index == 0 {
		return fmt.Errorf("an entry has index 0")
	}
	if index <= h.state.Commit && (index <= h.reach() || !h.line.started()) {
		return fmt.Errorf("entry %d/%d would overwrite what is committed up to %d", term, index, h.state.Commit)
	}
	return nil
}

// admitsEntry returns why an entry cannot come next, or nil.
func (h *history) admitsEntry(index, term uint64) error {
	if err := h.refusesEntry(index, term); err != nil {
		return err
	}
	err := h.line.admits(index, term)
	if err != nil && h.pending != nil && h.pending.line.admits(index, term) == nil {
		return nil
	}
	return err
}

// refusesState returns why no writer would write this hard state next, or nil.
func (h *history) refusesState(s walpb.HardState) error {
	switch {
	case s.Term < h.state.Term:
		return fmt.Errorf("the hard state's term falls from %d to %d", h.state.Term, s.Term)
	case s.Commit < h.state.Commit:
		return fmt.Errorf("the hard state's commit falls from %d to %d", h.state.Commit, s.Commit)
	}
	return nil
}

// admitsState returns why Save may not write a hard state after entries, or nil. A commit that
// reaches the pending snapshot decides whether that has replaced the log. What lies between the two
// logs is in neither.
func (h *history) admitsState(s walpb.HardState, entries []walpb.Entry) error {
	if err := h.refusesState(s); err != nil {
		return err
	}
	if s.Term == h.state.Term && s.Vote != h.state.Vote && h.state.Vote != 0 {
		return fmt.Errorf("the hard state's vote in term %d changes from %d to %d", s.Term, h.state.Vote, s.Vote)
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

// refuses returns why a commit cannot reach a snapshot that waits for it, where the log has gone on
// with another entry at its index: one of the two was not committed.
func (p *install) refuses(commit uint64) error {
	return fmt.Errorf("the hard state commits %d, but the log has gone on with another entry after the snapshot record %d/%d", commit, p.snapshot.Term, p.snapshot.Index)
}

// admitsSnapshot returns why a snapshot record cannot come next, or nil.
func (h *history) admitsSnapshot(s walpb.Snapshot) error {
	if s.Index > h.state.Commit || s.Index > h.line.last {
		return nil
	}
	if term, known := h.line.term(s.Index); known && term != s.Term {
		return fmt.Errorf("the snapshot record %d/%d contradicts the committed entry %d/%d", s.Term, s.Index, term, s.Index)
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

// reach returns the index of the last entry read, on whichever line it is.
func (h *history) reach() uint64 {
	if h.loose != nil {
		return h.loose.last
	}
	return h.line.last
}

// owing reports whether other records have to follow.
func (h *history) owing() bool {
	return h.loose != nil || h.line.started() && h.state.Commit > h.line.last
}

// owes returns why a log cannot end here, because other records have to follow, or nil.
//
// Our Writer never leaves it so, and etcd's raft asks for the order that ours keeps: first the
// record of a snapshot that a leader sent, then the hard state that commits it and entries. But
// etcd up to 3.3.20 and 3.4.7, the raftexample of that time and its copies, and Hyperledger
// Fabric's orderer save hard state and entries first, and the backup that etcd's tools write has
// its snapshot record last.
func (h *history) owes() error {
	switch {
	case h.loose != nil:
		return fmt.Errorf("entries from %d on leave a gap after %d, and no record of a snapshot at %d follows", h.loose.base+1, h.line.last, h.loose.base)
	case h.owing():
		return fmt.Errorf("the hard state commits %d, but the last entry is %d, and no record of a snapshot follows", h.state.Commit, h.line.last)
	}
	return nil
}

// entry takes the next entry of the log, or returns why it cannot be. Of one that admitsEntry
// admits, it never returns an error.
func (h *history) entry(e walpb.Entry) error {
	if err := h.refusesEntry(e.Index, e.Term); err != nil {
		return err
	}
	refused := h.line.admits(e.Index, e.Term)
	if refused == nil {
		h.line.push(e)
	}
	taken := refused == nil
	if h.pending != nil && taken && e.Index <= h.pending.snapshot.Index {
		h.pending.passed = true
	}
	if h.pending != nil && h.pending.line.admits(e.Index, e.Term) == nil {
		h.pending.line.push(e)
		taken = true
	}
	switch {
	case taken:
		h.loose = nil // an entry voids every one at or above its index
	case h.loose != nil && h.loose.admits(e.Index, e.Term) == nil:
		h.loose.push(e)
	case h.loose == nil && h.pending == nil && e.Index-1 > h.line.last:
		h.loose = &line{keep: h.line.keep, after: h.line.after}
		h.loose.push(e)
	default:
		return refused
	}
	h.written = max(e.Index, h.highest)
	return nil
}

// hardState takes the next hard state of the log, or returns why it cannot be. Of one that
// admitsState admits, it never returns an error.
func (h *history) hardState(s walpb.HardState) error {
	if err := h.refusesState(s); err != nil {
		return err
	}
	if p := h.pending; p != nil && p.passed && s.Commit >= p.snapshot.Index && h.line.lacks(p.snapshot.Index, p.snapshot.Term) {
		return p.refuses(s.Commit)
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

// uninstalled reports whether the line, as far as it was read, holds nothing but what follows a
// snapshot that was never committed. from is where reading began: the index of a snapshot that is
// committed, and whatever the log holds after that was read.
//
// Then the line is not the log's. For had it gone on from before that snapshot, entries between the
// two would have been read.
func (h *history) uninstalled(from uint64) bool {
	return h.ahead > 0 && h.line.base == h.ahead && from < h.ahead && h.state.Commit == from
}

// replayable reports whether the log, read to its end, can be replayed from a snapshot record.
func (h *history) replayable(r recorded) bool {
	l := &h.line
	if h.uninstalled(r.index) {
		l = &line{}
	}
	return r.index <= h.state.Commit && l.base <= r.index && h.state.Commit <= max(r.index, l.last)
}

// settle ends the reading of a log with these snapshot records: if it holds no entry, it begins
// with the newest that is usable, and one beyond the commit waits for it.
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
	h.pending, h.loose = nil, nil
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
		// After a commit it is not what the log begins with.
		if !h.line.started() && h.state.Commit == 0 {
			h.line.startsAt(0, 0)
		}
	case !h.line.started():
		// Reading began in the middle of the log, perhaps after the entry that this record names.
		if s.Index > h.state.Commit {
			h.ahead = s.Index
		}
	case h.loose != nil && s.Index == h.loose.base:
		if err := h.loose.follows(s.Index, s.Term); err != nil {
			return err
		}
		h.pending, h.loose = &install{snapshot: s, line: *h.loose}, nil
		if s.Index <= h.state.Commit {
			h.adopt()
		}
	case h.loose == nil && h.line.lacks(s.Index, s.Term):
		h.await(s)
		if s.Index <= h.state.Commit { // the hard state that commits it came first
			h.adopt()
		}
	}
	return nil
}
