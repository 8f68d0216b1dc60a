package wal

import (
	"iter"

	"github.com/stele-wal/stele/walpb"
)

// A Record is a record of a log, with its place.
type Record struct {
	Segment string // the file name of its segment
	Offset  int64  // of its frame in the segment, in bytes
	Size    int64  // of its frame, in bytes
	walpb.Record
}

// Records returns what is on disk: every good record of the log in dir, in order, from the segment
// that holds what follows the entry or snapshot at index from; with from 0, from the first segment.
// dir may also be the path of one segment. It takes no lock and writes nothing, and it may be used
// on a log that is being written: it then gives the records that were written when it was called,
// and perhaps some that were written since. The segments are opened before the first record is
// given, so that a Release meanwhile does no harm.
//
// The data of a record is valid until the next one is asked for. Memory use does not depend on the
// size of the log, but on that of the largest record.
//
// If the log's end is clean, or torn, the sequence just ends. If what was durable is damaged, the
// last pair has a *CorruptError, which says where and why. If a segment is missing the pair has one
// as well, and a caller who asks on gets the records behind the gap: they are of use if they begin
// with a snapshot record. If the log could not be read the pair has what the file system said;
// ErrNoLog, also an fs.ErrNotExist, if there is none; ErrForeign if the directory holds a .wal file
// that is not a segment.
//
// The sequence may be used more than once, each time from the beginning, and by several goroutines
// at once.
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

// Snapshots returns the snapshot records from which the log can be replayed, in the order in which
// they were written: those that the last hard state commits and whose following entries are all
// there; of several of one index with different terms, the last. Each can be given to Replay with
// the same records. Missing segments are passed over if after them there is such a record. Memory
// use is that of the snapshot records.
//
// Its error is the first one of seq, of a record that cannot be decoded, or of one that contradicts
// those before it; or a *CorruptError if the log ends without what has to follow.
func Snapshots(seq iter.Seq2[Record, error]) ([]walpb.Snapshot, error) {
	var rd reading
	for r, err := range seq {
		if err := rd.take(&r, err); err != nil {
			return nil, err
		}
	}
	if err := rd.end(); err != nil {
		return nil, err
	}
	return rd.history.Replayable(rd.snapshots, rd.gap != nil), nil
}
