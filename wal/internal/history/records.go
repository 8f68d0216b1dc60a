package history

import "github.com/stele-wal/stele/walpb"

// A Record is a snapshot record of a log, with what decides whether the log can do without what is
// before it.
type Record struct {
	walpb.Snapshot
	Segment uint64 // the sequence number of the segment that holds it

	// Whole says that the log holds all that follows the record, if segments are missing before
	// the first one that was read.
	Whole bool
}

// Records are the snapshot records of a log, in the order in which they were written.
type Records []Record

// Newest returns the position of the record with the highest index among those that a commit
// covers, the last if there are several; -1 if there is none.
func (rs Records) Newest(commit uint64) int {
	newest := -1
	for i, r := range rs {
		if r.Index <= commit && (newest < 0 || r.Index >= rs[newest].Index) {
			newest = i
		}
	}
	return newest
}

// Supersedes reports whether the records, which follow missing segments, make these unnecessary:
// the log must hold all that is committed after the newest of them.
func (h *History) Supersedes(rs Records) bool {
	newest := rs.Newest(h.State.Commit)
	return newest >= 0 && rs[newest].Whole && h.State.Commit <= max(rs[newest].Index, h.line.last)
}

// Replayable returns the snapshots from which the log, read to its end, can be replayed, in the
// order of their records; of several of one index, the last. missing says that segments are missing
// before the records.
func (h *History) Replayable(rs Records, missing bool) []walpb.Snapshot {
	term := make(map[uint64]uint64) // of the last record of each index
	for _, r := range rs {
		term[r.Index] = r.Term
	}
	var snapshots []walpb.Snapshot
	for _, r := range rs {
		if r.Term == term[r.Index] && h.replayable(r.Index) && (r.Whole || !missing) {
			snapshots = append(snapshots, r.Snapshot)
		}
	}
	return snapshots
}

// replayable reports whether the log, read to its end, has all that follows a snapshot.
func (h *History) replayable(index uint64) bool {
	l := &h.line
	if h.uninstalled(index) {
		l = &line{}
	}
	return index <= h.State.Commit && l.base <= index && h.State.Commit <= max(index, l.last)
}

// Settle ends the reading of a log that has these snapshot records: if it holds no entry, it begins
// with the newest that is usable, and one beyond the commit waits for it.
func (h *History) Settle(rs Records) {
	newest := rs.Newest(h.State.Commit)
	if newest < 0 || h.line.started() {
		return
	}
	h.line.startsAt(rs[newest].Index, rs[newest].Term)
	for _, r := range rs {
		if r.Index > h.State.Commit {
			h.await(r.Snapshot)
		}
	}
}
