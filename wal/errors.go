package wal

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/stele-wal/stele/fileutil"
)

// Errors on which a caller may branch. They are wrapped: compare with errors.Is.
var (
	// ErrNoLog says that a directory holds no segment, or is not there. It is also an
	// fs.ErrNotExist.
	ErrNoLog error = noLog{}

	// ErrExists says that Create found a log. It is also an fs.ErrExist.
	ErrExists error = exists{}

	// ErrClosed is what a Writer returns after Close, and the zero Writer always. It is
	// fs.ErrClosed.
	ErrClosed = fs.ErrClosed

	// ErrLocked says that another Writer, or an etcd, has the log open. It is fileutil.ErrLocked.
	ErrLocked = fileutil.ErrLocked

	// ErrInvalid says that Save or SaveSnapshot was given what the log cannot hold: an index that
	// does not follow, a term or commit that falls, a vote that changes within its term, a commit
	// beyond the last entry, an entry type or a ConfState that no etcd can read. Nothing was
	// written.
	ErrInvalid = errors.New("invalid")

	// ErrTooLarge says that a record would be larger than Options.MaxRecord. Nothing was written.
	ErrTooLarge = errors.New("record too large")

	// ErrNoSpace says that the disk, or a quota, has no space for what was to be saved. It comes
	// with the error of the file system. Nothing was written, and the Writer can be used as before:
	// save the same again once there is space. A Release makes some.
	//
	// A file system that cannot reserve space, or that needs more to write a page a second time, as
	// btrfs does, may fail the write instead. Then close the Writer and Open the log.
	ErrNoSpace = errors.New("no space")

	// ErrSnapshotNotFound says that the snapshot to replay from is not recorded in the segments
	// that were read.
	ErrSnapshotNotFound = errors.New("snapshot record not found")

	// ErrSnapshotMismatch says that the snapshot to replay from is recorded with another term.
	ErrSnapshotMismatch = errors.New("snapshot record has another term")

	// ErrSnapshotOutdated says that the entries after the snapshot to replay from are not all in
	// the log, because a later snapshot took their place: replay from that one.
	ErrSnapshotOutdated = errors.New("a later snapshot replaced what followed")

	// ErrForeign says that a directory holds a name that ends in .wal and is no segment's, or
	// something other than a file under a segment's name. Whether it belongs to the log cannot be
	// known: move it away.
	ErrForeign = errors.New("not a segment")
)

type noLog struct{}

func (noLog) Error() string        { return "no log here: no segment (*.wal)" }
func (noLog) Is(target error) bool { return target == fs.ErrNotExist }

type exists struct{}

func (exists) Error() string        { return "a log is here already" }
func (exists) Is(target error) bool { return target == fs.ErrExist }

// A Kind is how a log stopped being good.
type Kind uint8

const (
	BadLength      Kind = iota + 1 // a length word that no writer wrote, or one beyond the file
	BadPadding                     // padding that is not zero
	BadRecord                      // bytes that are no record
	BadHeader                      // a header_crc that does not match
	BadChecksum                    // a chain that does not match
	BadSeed                        // a segment that does not continue the checksum before it
	BadHead                        // a segment that does not begin with a checksum and metadata
	ZeroLength                     // a length word of zero with something after it
	ShortFile                      // a file that ends inside a length word
	Contradiction                  // a good record that those before it do not allow
	MissingSegment                 // a sequence number that is not there
	DoubleSegment                  // a sequence number that is there twice
	LostEnd                        // a log that ends before a place up to which it was durable
)

var kindNames = [...]string{"", "bad length", "bad padding", "bad record", "header checksum mismatch", "checksum mismatch",
	"segment does not continue the one before it", "bad head", "zero length", "file ends inside a length word", "contradiction", "missing segment", "segment is there twice", "the end of the log is lost"}

// String returns the kind in words: empty for the zero Kind, kind(n) for a value that is none.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// A CorruptError says that what a log had made durable is damaged or gone, and where. Everything
// before the place is good and was returned.
type CorruptError struct {
	Segment string // the segment's file name; for a missing segment, the next one's
	Offset  int64  // in the segment, in bytes: where the first frame that is not good begins
	Kind    Kind
	Detail  string // what was found there
	Because string // why it is not a torn tail

	// What the records before the place add up to, if Open, Snapshots, Replay or Check read them:
	// the index of the last entry, and the commit of the last hard state.
	LastIndex, Commit uint64
}

// Error names the segment, the offset and the reason.
func (e *CorruptError) Error() string {
	s := fmt.Sprintf("wal: %s: offset %d: %s", e.Segment, e.Offset, e.Kind)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Because != "" {
		s += " (corrupt: " + e.Because + ")"
	}
	return s
}

// contradiction returns the error of a good record that those before it do not allow.
func contradiction(r *Record, err error) *CorruptError {
	_, because := decide(evidenceOf(contradicts, inLast))
	return &CorruptError{Segment: r.Segment, Offset: r.Offset, Kind: Contradiction, Detail: r.Type.String() + " record: " + err.Error(), Because: because}
}

// foreign returns the error of a name that ends in .wal and is no segment's, or that of something
// special.
func foreign(dir, name, special string) error {
	if special != "" {
		return fmt.Errorf("wal: %s: %s: %w but %s: move it away", dir, name, ErrForeign, special)
	}
	return fmt.Errorf("wal: %s: %s: %w's name: move it away", dir, name, ErrForeign)
}
