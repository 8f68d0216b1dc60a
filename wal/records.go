package wal

import (
	"bytes"
	"errors"
	"iter"
	"slices"

	"github.com/stele-wal/stele/walpb"
)

// A Record is a record of a log, with its place.
type Record struct {
	Segment string // the file name of its segment
	Offset  int64  // of its frame in the segment, in bytes
	Size    int64  // of its frame, in bytes
	walpb.Record
}

// Records returns what is on disk: every good record of the log in dir, in order, from the segment that holds what
// follows the entry or snapshot at index from; with from 0, from the first segment. dir may also be the path of one
// segment. It takes no lock and writes nothing, and it may be used on a log that is being written: it then gives the
// records that were written when it was called, and perhaps some that were written since. The segments are opened before
// the first record is given, so that a Release meanwhile does no harm.
//
// The data of a record is valid until the next one is asked for. Memory use does not depend on the size of the log, but
// on that of the largest record.
//
// If the log's end is clean, or torn, the sequence just ends. If what was durable is damaged, the last pair has
// a *CorruptError, which says where and why. If a segment is missing the pair has one as well, and a caller who asks on
// gets the records behind the gap: they are of use if they begin with a snapshot record. If the log could not be read the
// pair has what the file system said; ErrNoLog, also an fs.ErrNotExist, if there is none; ErrForeign if the directory holds
// a .wal file that is not a segment.
//
// The sequence may be used more than once, each time from the beginning, and by several goroutines at once.
func Records(dir string, from uint64, opts *Options) iter.Seq2[Record, error] {
	o := opts.withDefaults()
	return func(yield func(Record, error) bool) {
		l, _, err := openLog(o.FS, dir, from)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer l.close()
		newScanner(&l).records()(yield)
	}
}

// Snapshots returns the snapshot records from which the log can be replayed, in the order in which they were written:
// those that the last hard state commits; of several of one index with different terms, the last. It passes missing segments over as long as there is a usable snapshot record
// behind them and, by the names of the segments between, all that follows it is there. Its error is the first one of seq, of a
// record that cannot be decoded, or of one that contradicts those before it.
func Snapshots(seq iter.Seq2[Record, error]) ([]walpb.Snapshot, error) {
	var (
		snapshots []walpb.Snapshot
		recs      []recorded
		fold      fold
		gap       error
	)
	for r, err := range seq {
		if isGap(err) {
			snapshots, recs, fold, gap = nil, nil, newFold(), err
			continue
		}
		if err == nil {
			err = fold.record(&r)
		}
		if err != nil {
			return nil, err
		}
		if r.Type == walpb.TypeSnapshot {
			s := fold.snap
			s.ConfState = bytes.Clone(s.ConfState)
			snapshots = slices.DeleteFunc(snapshots, func(o walpb.Snapshot) bool { return o.Index == s.Index && o.Term != s.Term })
			snapshots = append(snapshots, s)
			recs = append(recs, recorded{index: s.Index, whole: fold.whole()})
		}
	}
	if gap != nil && !passed(recs, &fold.history) {
		return nil, gap
	}
	usable := snapshots[:0]
	for _, s := range snapshots {
		if s.Index <= fold.history.state.Commit {
			usable = append(usable, s)
		}
	}
	return usable, nil
}

// passed tells whether the snapshot records behind a gap make the missing segments needless, in a log that comes to h: all that is
// committed after the newest of them must be there.
func passed(records []recorded, h *history) bool {
	newest := newestUsable(records, h.state.Commit)
	return newest >= 0 && records[newest].whole && h.state.Commit <= max(records[newest].index, h.line.last)
}

// isGap tells whether err says that segments are missing, behind which reading can go on.
func isGap(err error) bool {
	if err == nil {
		return false
	}
	var corrupt *CorruptError
	return errors.As(err, &corrupt) && corrupt.Kind == MissingSegment
}
