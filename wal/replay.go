package wal

import (
	"bytes"
	"fmt"
	"iter"

	"github.com/stele-wal/stele/walpb"
)

// A Log is what the records of a log add up to, from a snapshot on.
type Log struct {
	Metadata []byte          // as given to Create
	State    walpb.HardState // the last one saved
	Snapshot walpb.Snapshot  // the one replayed from, as recorded
	Entries  []walpb.Entry   // those that stand, from Snapshot.Index+1 on
}

// Replay is what records mean: it folds them into the log that a consensus system goes on from,
// starting at a snapshot that is recorded in them. The zero Snapshot is the one that every log
// begins with.
//
// Which entries stand is decided by three rules. An entry voids every earlier one at or above its
// index, whether or not it comes after the snapshot. A snapshot record whose entry the log does not
// hold, or holds with another term, was installed from a leader, and replaces the log once a hard
// state commits it, before or after. What contradicts these rules, a term or a commit that falls,
// and a commit or entries beyond a gap that no snapshot record fills, is a *CorruptError that names
// the place.
//
// The result owns its memory. Otherwise the error is
//
//   - ErrSnapshotNotFound if no record of the snapshot is among the records: read from 0, or choose
//     another snapshot,
//   - ErrSnapshotMismatch if it is recorded with another term, the last time if it is so more than
//     once,
//   - ErrSnapshotOutdated if a later snapshot took the place of entries after it,
//   - or the first error of seq. A missing segment does not count if the snapshot's record is
//     behind it, and by the names of the segments no entry after the snapshot was in it.
//
// With a *CorruptError or an error of the file system, the Log is what the records before it add up
// to; it is nil with the others.
func Replay(seq iter.Seq2[Record, error], from walpb.Snapshot) (*Log, error) {
	var (
		fold     = newFold()
		matched  bool
		whole    bool
		gap      error
		before   *Log  // up to the first gap behind the snapshot's record
		missing  error // and that gap
		mismatch error // the snapshot's record had another term the last time
		failed   error
		snapshot walpb.Snapshot
	)
	sum := func() *Log {
		if matched && fold.history.uninstalled(from.Index) {
			fold.history.line = line{}
		}
		return &Log{Metadata: fold.metadata, State: fold.history.state, Snapshot: snapshot, Entries: fold.entries(from)}
	}
	fold.keep(from.Index)
	for r, err := range seq {
		if isGap(err) {
			if matched && before == nil {
				// The record may stand behind the gap as well, and then it matters less what is
				// missing.
				before, missing = sum(), err
			}
			gap, matched = err, false
			fold = newFold()
			fold.keep(from.Index)
			continue
		}
		if err == nil {
			err = fold.record(&r)
		}
		if err != nil {
			failed = err
			break
		}
		if r.Type == walpb.TypeSnapshot && fold.snap.Index == from.Index {
			if fold.snap.Term != from.Term {
				matched = false
				mismatch = fmt.Errorf("wal: %s: offset %d: snapshot %d/%d: %w: %d", r.Segment, r.Offset, from.Term, from.Index, ErrSnapshotMismatch, fold.snap.Term)
				continue
			}
			matched, whole, snapshot, mismatch = true, fold.whole(), fold.snap, nil
			snapshot.ConfState = bytes.Clone(snapshot.ConfState)
		}
	}
	if mismatch != nil {
		return nil, mismatch
	}
	if failed == nil {
		failed = fold.end()
	}
	log := sum()
	bridged := gap == nil || matched && whole && fold.history.state.Commit <= max(from.Index, fold.history.line.last)
	switch {
	case before != nil && (failed != nil || !bridged):
		return before, missing
	case failed != nil:
		return log, failed
	case !bridged:
		return log, gap
	case !matched:
		return nil, fmt.Errorf("wal: snapshot %d/%d: %w", from.Term, from.Index, ErrSnapshotNotFound)
	case len(log.Entries) > 0 && log.Entries[0].Index != from.Index+1, fold.history.line.base > from.Index:
		return nil, fmt.Errorf("wal: snapshot %d/%d: %w: the log now begins after %d", from.Term, from.Index, ErrSnapshotOutdated, fold.history.line.base)
	case fold.history.state.Commit > max(from.Index, fold.history.line.last):
		return nil, fmt.Errorf("wal: snapshot %d/%d: %w: the log is committed up to %d, and its entries end at %d", from.Term, from.Index, ErrSnapshotOutdated, fold.history.state.Commit, max(from.Index, fold.history.line.last))
	}
	return log, nil
}

// A fold takes records one by one, decodes what they hold, and asks a history whether it can be so.
type fold struct {
	history  history
	metadata []byte
	arena    arena
	lowest   uint64 // of the indexes in the names of the segments that began since the fold did
	begun    bool   // one has
	owed     place  // of the first record since which others have to follow, while they have

	// The last message of each type. Their bytes alias the record, unless they were copied to be
	// kept.
	entry walpb.Entry
	state walpb.HardState
	snap  walpb.Snapshot
}

// place is where a record stands.
type place struct {
	segment string
	offset  int64
}

func newFold() fold { return fold{} }

// begin takes the name of the next segment.
func (f *fold) begin(segment string) {
	if _, index, ok := parseSegmentName(segment); ok && (!f.begun || index < f.lowest) {
		f.lowest, f.begun = index, true
	}
}

// whole tells whether the log holds all that follows the last snapshot record, if segments are
// missing before the first one that the fold has seen: if one that began since has a name that says
// so. Release removes those before that one, and in a crash any of them may have gone.
func (f *fold) whole() bool { return f.begun && (f.lowest == 0 || f.lowest-1 <= f.snap.Index) }

// keep makes the fold collect the entries after an index.
func (f *fold) keep(after uint64) {
	f.history.line.keep, f.history.line.after = true, after
}

// record takes the next record. Its error is a *CorruptError at the record's place.
func (f *fold) record(r *Record) error {
	if r.Offset == 0 {
		f.begin(r.Segment)
	}
	if err := f.decode(r); err != nil {
		c := contradiction(r, err)
		c.LastIndex, c.Commit = f.history.line.last, f.history.state.Commit
		return c
	}
	switch owing := f.history.owing(); {
	case !owing:
		f.owed = place{}
	case f.owed == place{}:
		f.owed = place{r.Segment, r.Offset}
	}
	return nil
}

// end returns the error of a log that ends without records that have to follow, a *CorruptError at
// the first one that asks for them.
func (f *fold) end() error {
	err := f.history.owes()
	if err == nil {
		return nil
	}
	return &CorruptError{Segment: f.owed.segment, Offset: f.owed.offset, Kind: LostEnd, Detail: err.Error(),
		Because:   "a commit comes after what it commits, or with the snapshot record that replaces the log; Fabric's orderer, and an etcd before 3.3.21 or 3.4.8, leave this if they crash while they install a snapshot",
		LastIndex: f.history.line.last, Commit: f.history.state.Commit}
}

func (f *fold) decode(r *Record) error {
	switch r.Type {
	case walpb.TypeMetadata:
		if f.metadata == nil && r.Data != nil {
			f.metadata = append([]byte{}, r.Data...)
		}
	case walpb.TypeEntry:
		if err := unmarshal(r, &f.entry); err != nil {
			return err
		}
		if f.history.line.keep && f.entry.Index > f.history.line.after {
			f.entry.Data = f.arena.copy(f.entry.Data)
		}
		return f.history.entry(f.entry)
	case walpb.TypeState:
		if err := unmarshal(r, &f.state); err != nil {
			return err
		}
		return f.history.hardState(f.state)
	case walpb.TypeSnapshot:
		if err := unmarshal(r, &f.snap); err != nil {
			return err
		}
		return f.history.snapshot(f.snap)
	}
	return nil
}

// unmarshal decodes the data of a record: leniently if header_crc vouches for its type, and else
// strictly, since a type that was damaged shows in nothing but fields that it does not have.
func unmarshal(r *Record, m interface {
	Unmarshal([]byte) error
	UnmarshalVouched([]byte) error
}) error {
	if r.Vouched {
		return m.UnmarshalVouched(r.Data)
	}
	return m.Unmarshal(r.Data)
}

// entries returns the entries that stand after the snapshot replayed from.
func (f *fold) entries(from walpb.Snapshot) []walpb.Entry {
	h := &f.history
	// Whoever replays from an installed snapshot has its file, and so has what the hard state would
	// have committed.
	if p := h.pending; p != nil && p.snapshot.Index == from.Index && p.snapshot.Term == from.Term {
		h.adopt()
	}
	return h.line.entries
}

// arena copies many small byte slices into few large ones.
type arena struct{ free []byte }

const arenaSize = 1 << 20

// It grows to that, so that a small log takes little.
const firstArena = 4 << 10

// copy returns a copy of b, nil for nil.
func (a *arena) copy(b []byte) []byte {
	switch {
	case len(b) == 0, len(b) > arenaSize/8:
		return bytes.Clone(b) // of nothing is nothing, of empty empty
	case len(b) > cap(a.free)-len(a.free):
		a.free = make([]byte, 0, max(len(b), min(arenaSize, max(firstArena, 2*cap(a.free)))))
	}
	n := len(a.free)
	a.free = append(a.free, b...)
	return a.free[n : n+len(b) : n+len(b)]
}
