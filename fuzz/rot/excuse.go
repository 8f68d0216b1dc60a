package rot

import (
	"bytes"
	"path"

	"github.com/stele-wal/stele/walpb"
)

// A Excuse is why damage cannot be detected; see wal/FORMAT.md, chapter 11.
type Excuse string

// What cannot be detected.
const (
	// Without the mark: the end of a log that was not closed. All that was lost is of the last
	// batch, and after it are zeros.
	LastBatch Excuse = "the last batch is gone, with nothing after it"
	// Without the mark: the last segment ends earlier, with a frame, and after it are zeros, or
	// nothing. What was lost may be of several batches.
	EndGone Excuse = "the end of the last segment is gone, from the end of a frame on"
	// Without the mark: the last segments are lost, and their names.
	SegmentsGone Excuse = "the last segment is gone, name and all"
	// In a log without witnesses, a hard state has become an entry: its three numbers are those of
	// one, and in a few places, as before a snapshot record, one more entry contradicts nothing.
	StateAsEntry Excuse = "without a witness: a hard state passes for an entry"
	// In a log without witnesses, a segment has another number than its own, and no segment stands
	// before it that would have to have the one before. If others are missing in between that is
	// reported, but not that this is an old one.
	OtherNumber Excuse = "without a witness: a segment under another number than its own"
)

// excuse returns why it cannot be detected that a log ends where a reading ended; empty if there is
// no reason. The log must look to the last byte like one that was never longer.
func (l *Log) excuse(tree map[string][]byte, r *reading) Excuse {
	if l.marked(tree) {
		return ""
	}
	for name, b := range tree {
		if path.Ext(name) != ".wal" || path.Base(name) < r.last {
			continue
		}
		if path.Base(name) > r.last || len(bytes.TrimRight(b[r.end:], "\x00")) > 0 {
			return ""
		}
	}
	switch {
	case r.to >= l.batch:
		return LastBatch
	case r.last == l.segments[len(l.segments)-1].name:
		return EndGone
	}
	return SegmentsGone
}

// excuseWrong returns why it cannot be detected that a fault changed what the log says.
func (l *Log) excuseWrong(f *fault) Excuse {
	if f.renames && !l.witnessed() {
		return OtherNumber
	}
	e := &f.edits[0]
	for i := range l.frames {
		r := &l.frames[i]
		const typeAt = 9 // after the length word and the tag of the type
		if f.kind == Flip && l.segments[r.segment].name == e.name && int64(r.offset)+typeAt == e.at &&
			!r.HasHeaderCRC && r.Type == walpb.TypeState && walpb.Type(e.data[0]) == walpb.TypeEntry {
			return StateAsEntry
		}
	}
	return ""
}

// marked reports whether the log in tree has the mark that it had.
func (l *Log) marked(tree map[string][]byte) bool {
	good, ok := l.files[mark]
	return ok && bytes.Equal(good, tree[path.Join(dir, mark)])
}

// witnessed reports whether all records of the log carry a header_crc.
func (l *Log) witnessed() bool {
	for i := range l.frames {
		if !l.frames[i].HasHeaderCRC {
			return false
		}
	}
	return true
}
