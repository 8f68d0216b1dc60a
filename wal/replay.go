package wal

import (
	"fmt"
	"iter"

	"github.com/stele-wal/stele/wal/internal/history"
	"github.com/stele-wal/stele/walpb"
)

// A Log is what the records of a log add up to, from a snapshot on.
type Log struct {
	Metadata []byte          // as given to Create
	State    walpb.HardState // the last one; a crash may have left entries of a later term after it
	Snapshot walpb.Snapshot  // the one replayed from, as recorded
	Entries  []walpb.Entry   // those that stand, from Snapshot.Index+1 on
}

// Replay returns the log that a consensus system goes on from: what the records of seq add up to,
// starting at a snapshot that is recorded in them. The zero Snapshot is the one that every log
// begins with. The result owns its memory.
//
// Three rules say which entries stand:
//
//   - An entry voids every earlier one at or above its index, whether or not it comes after the
//     snapshot.
//   - A snapshot record whose entry the log does not hold, or holds with another term, was
//     installed from a leader. It replaces the log once a hard state commits it, before or after.
//   - Terms and commits do not fall, and every commit and every gap in the entries is filled, by
//     entries or by a snapshot record. What contradicts that is a *CorruptError at its place.
//
// The error is
//
//   - ErrSnapshotNotFound if no record of the snapshot is among the records: read from 0, or choose
//     another snapshot,
//   - ErrSnapshotMismatch if it is recorded with another term, the last time if it is so more than
//     once,
//   - ErrSnapshotOutdated if a later snapshot took the place of entries after it,
//   - or the first error of seq. A missing segment is none if the snapshot's record is after it,
//     and by the names of the segments no entry after the snapshot was in it.
//
// With a *CorruptError or an error of the file system, the Log is what the records before it add up
// to; it is nil with the others.
func Replay(seq iter.Seq2[Record, error], from walpb.Snapshot) (*Log, error) {
	p := replay{from: from}
	p.history.Keep(from.Index)
	var failed error
	for r, err := range seq {
		if failed = p.next(&r, err); failed != nil {
			break
		}
	}
	return p.result(failed)
}

// replay is a reading that ends in a Log.
type replay struct {
	reading
	from     walpb.Snapshot
	found    *history.Record // that of from, since the last gap; nil if there is none
	mismatch error           // the last record of from's index has another term

	before  *Log  // up to the first gap after a record of from
	missing error // and that gap
}

// next takes the next pair of a sequence of records.
func (p *replay) next(r *Record, err error) error {
	if isGap(err) {
		if p.found != nil && p.before == nil {
			// The record may be there after the gap as well, and then it matters less what is
			// missing.
			p.before, p.missing = p.log(), err
		}
		p.found = nil
	}
	if err := p.take(r, err); err != nil {
		return err
	}
	if r.Type != walpb.TypeSnapshot || p.snapshot.Index != p.from.Index {
		return nil
	}
	p.found, p.mismatch = &p.snapshots[len(p.snapshots)-1], nil
	if p.found.Term != p.from.Term {
		p.mismatch = fmt.Errorf("wal: %s: offset %d: snapshot %d/%d: %w: %d", r.Segment, r.Offset, p.from.Term, p.from.Index, ErrSnapshotMismatch, p.found.Term)
		p.found = nil
	}
	return nil
}

// log returns what the records add up to from the snapshot on.
func (p *replay) log() *Log {
	log := &Log{Metadata: p.metadata}
	if p.found != nil {
		p.history.StartAt(p.from)
		log.Snapshot = p.found.Snapshot
	}
	log.State, log.Entries = p.history.State, p.history.Entries()
	return log
}

// result returns what Replay does, once the sequence has ended or failed.
func (p *replay) result(failed error) (*Log, error) {
	if p.mismatch != nil {
		return nil, p.mismatch
	}
	if failed == nil {
		failed = p.owes()
	}
	log := p.log()
	last := max(p.from.Index, p.history.Last())
	bridged := p.gap == nil || p.found != nil && p.found.Whole && p.history.State.Commit <= last
	switch {
	case p.before != nil && (failed != nil || !bridged):
		return p.before, p.missing
	case failed != nil:
		return log, failed
	case !bridged:
		return log, p.gap
	case p.found == nil:
		return nil, fmt.Errorf("wal: snapshot %d/%d: %w", p.from.Term, p.from.Index, ErrSnapshotNotFound)
	case len(log.Entries) > 0 && log.Entries[0].Index != p.from.Index+1, p.history.Base() > p.from.Index:
		return nil, fmt.Errorf("wal: snapshot %d/%d: %w: the log now begins after %d", p.from.Term, p.from.Index, ErrSnapshotOutdated, p.history.Base())
	case p.history.State.Commit > last:
		return nil, fmt.Errorf("wal: snapshot %d/%d: %w: the log is committed up to %d, and its entries end at %d", p.from.Term, p.from.Index, ErrSnapshotOutdated, p.history.State.Commit, last)
	}
	return log, nil
}
