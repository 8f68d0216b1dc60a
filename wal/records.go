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
// dir may also be the path of one segment.
//
// It takes no lock and writes nothing, and it may be used on a log that is being written: it then
// gives the records that were written when it was called, and perhaps some that were written since.
// It opens a segment when it comes to it, and has two open at most. Segments that a Release has
// removed before it came to them are a gap, with an error that is also an fs.ErrNotExist.
//
// The data of a record is valid until the next one is asked for. Memory use does not depend on the
// size of the log, but on that of the largest record.
//
// If the log's end is clean, or torn, the sequence just ends. Otherwise its last pair has an error:
//
//   - a *CorruptError, which says where and why, if what was durable is damaged. If segments are
//     missing, a caller that asks on gets the records after the gap: they are of use if they hold a
//     snapshot record to go on from, as after a Release they do,
//   - ErrNoLog, also an fs.ErrNotExist, if there is no log,
//   - ErrForeign if the directory holds a .wal file that is not a segment,
//   - or what the file system said.
//
// The sequence may be used more than once, each time from the beginning, and by several goroutines
// at once.
func Records(dir string, from uint64, opts *Options) iter.Seq2[Record, error] {
	return records(dir, from, opts, false)
}

// ScanAll is Records for a program that inspects a damaged log. It gives every good record from the
// first segment on. Where Records would end because what was durable is damaged, ScanAll gives the
// *CorruptError in its place and goes on after it, wherever records prove to be records: by a right
// header_crc, or by the link that the chain makes from the frame before them. A frame that was
// found only by its header_crc, or only by the link that it makes to the next, is not given, since
// nothing covers its data.
//
// What is given after damage is good, but what it means is unknown: do not Replay it. Check says
// which records contradict each other, and what the end of the log is. In all other ways ScanAll is
// like Records, with the same errors.
func ScanAll(path string, opts *Options) iter.Seq2[Record, error] {
	return records(path, 0, opts, true)
}

func records(dir string, from uint64, opts *Options, resume bool) iter.Seq2[Record, error] {
	o := opts.withDefaults()
	return func(yield func(Record, error) bool) {
		l, err := openLog(o.FS, dir, from)
		if err != nil {
			yield(Record{}, err)
			return
		}
		s := l.scan()
		s.resumes = resume
		s.records()(yield)
	}
}

// Snapshots returns the snapshot records from which the log can be replayed, in the order in which
// they were written: those that the last hard state commits and whose following entries are all
// there; of several of one index with different terms, the last. Each can be given to Replay with
// the same records. Memory use is that of the snapshot records.
//
// The error is
//
//   - the first one of seq, but for a gap that a snapshot record after it supersedes,
//   - or a *CorruptError at a record that cannot be decoded, or that contradicts those before it,
//     or after which others had to follow that are not there.
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

// Newest returns the snapshot with the highest index, the last if there are several. It is not ok
// if there is none.
func Newest(snapshots []walpb.Snapshot) (newest walpb.Snapshot, ok bool) {
	for _, s := range snapshots {
		if !ok || s.Index >= newest.Index {
			newest, ok = s, true
		}
	}
	return newest, ok
}
