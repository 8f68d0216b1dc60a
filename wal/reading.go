package wal

import (
	"bytes"
	"errors"

	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/wal/internal/history"
	"github.com/stele-wal/stele/walpb"
)

// A reading is what the records of a log add up to since the last gap in its segments, or since
// reading began if there is none. Open, Replay, Snapshots and Check all read with one, so that they
// cannot disagree on what a log means.
type reading struct {
	history   history.History
	snapshots history.Records
	metadata  []byte
	gap       error // the last gap; nil if there is none

	sequence uint64 // the sequence number of the segment that is being read
	lowest   uint64 // the lowest index in the names of the segments that began since the gap
	begun    bool   // one has begun
	owed     place  // of the first record since which others have to follow; zero while none have
	arena    arena  // holds the data of the entries that are kept

	// The last message of each type. Its bytes alias the record, but for those of an entry that is
	// kept.
	entry    walpb.Entry
	state    walpb.HardState
	snapshot walpb.Snapshot
}

// place is where a record is.
type place struct {
	segment string
	offset  int64
}

// take takes the next pair of a sequence of records. A gap is no error yet: what is after it may do
// without what is missing, which end knows. The error is err, or a *CorruptError of a record that
// cannot be decoded, or contradicts those before it. Reading can go on after restart.
func (rd *reading) take(r *Record, err error) error {
	if err == nil {
		err = rd.record(r)
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		corrupt.LastIndex, corrupt.Commit = rd.history.Last(), rd.history.State.Commit
	}
	if isGap(err) {
		rd.restart()
		rd.gap = err
		return nil
	}
	return err
}

// restart forgets what the records so far add up to: nothing is known of those that come next and
// are lost.
func (rd *reading) restart() {
	rd.history.Reset()
	rd.snapshots, rd.begun, rd.owed = nil, false, place{}
}

// record takes a record.
func (rd *reading) record(r *Record) error {
	if r.Offset == 0 {
		rd.begin(r.Segment)
	}
	if err := rd.decode(r); err != nil {
		return contradiction(r, err)
	}
	switch owing := rd.history.Owing(); {
	case !owing:
		rd.owed = place{}
	case rd.owed == place{}:
		rd.owed = place{r.Segment, r.Offset}
	}
	return nil
}

// begin takes the name of the next segment.
func (rd *reading) begin(segment string) {
	sequence, index, ok := frame.ParseSegmentName(segment)
	if !ok {
		return
	}
	rd.sequence = sequence
	if !rd.begun || index < rd.lowest {
		rd.lowest, rd.begun = index, true
	}
}

// decode decodes what a record holds, and asks the history whether it can come next.
func (rd *reading) decode(r *Record) error {
	switch r.Type {
	case walpb.TypeMetadata:
		if rd.metadata == nil && r.Data != nil {
			rd.metadata = append([]byte{}, r.Data...)
		}
	case walpb.TypeEntry:
		if err := r.UnmarshalData(&rd.entry); err != nil {
			return err
		}
		if rd.history.Keeps(rd.entry.Index) {
			rd.entry.Data = rd.arena.copy(rd.entry.Data)
		}
		return rd.history.Entry(rd.entry)
	case walpb.TypeState:
		if err := r.UnmarshalData(&rd.state); err != nil {
			return err
		}
		return rd.history.HardState(rd.state)
	case walpb.TypeSnapshot:
		if err := r.UnmarshalData(&rd.snapshot); err != nil {
			return err
		}
		if err := rd.history.Snapshot(rd.snapshot); err != nil {
			return err
		}
		s := rd.snapshot
		s.ConfState = bytes.Clone(s.ConfState)
		rd.snapshots = append(rd.snapshots, history.Record{Snapshot: s, Segment: rd.sequence, Whole: rd.whole()})
	}
	return nil
}

// whole reports whether the log holds all that follows the last snapshot record, if segments are
// missing before the first one that was read: if one that began since has a name that says so.
// Release removes those before that one, and in a crash any of them may have gone.
func (rd *reading) whole() bool {
	return rd.begun && (rd.lowest == 0 || rd.lowest-1 <= rd.snapshot.Index)
}

// end returns why the log cannot end here, a *CorruptError, or nil: segments are missing, and no
// snapshot record after them makes them unnecessary, or other records have to follow.
func (rd *reading) end() error {
	if rd.gap != nil && !rd.history.Supersedes(rd.snapshots) {
		return rd.gap
	}
	return rd.owes()
}

// owes returns the error of a log that ends without records that have to follow, at the first
// record that asks for them.
func (rd *reading) owes() error {
	err := rd.history.Owes()
	if err == nil {
		return nil
	}
	return &CorruptError{Segment: rd.owed.segment, Offset: rd.owed.offset, Kind: LostEnd, Detail: err.Error(),
		Because:   "a commit comes after what it commits, or with the snapshot record that replaces the log; Fabric's orderer, and an etcd before 3.3.21 or 3.4.8, leave this if they crash while they install a snapshot",
		LastIndex: rd.history.Last(), Commit: rd.history.State.Commit}
}

// isGap reports whether err is a gap in the segments. Reading can go on after it.
func isGap(err error) bool {
	if err == nil {
		return false
	}
	var corrupt *CorruptError
	return errors.As(err, &corrupt) && corrupt.Kind == MissingSegment
}
