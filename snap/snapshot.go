package snap

import (
	"encoding/binary"
	"math"

	"github.com/stele-wal/stele/walpb"
)

// A Snapshot is the state of a consensus system at an index, whole.
type Snapshot struct {
	Index     uint64 // of the last entry that it stands for
	Term      uint64 // of that entry
	ConfState []byte // the members at that index, as raft encodes them; nil if not known
	Data      []byte // the state itself, the owner's own bytes
}

// Record returns what the log has to record of the snapshot once it is saved. It shares ConfState.
func (s *Snapshot) Record() walpb.Snapshot {
	return walpb.Snapshot{Index: s.Index, Term: s.Term, ConfState: s.ConfState}
}

// The messages of a file, all proto2; see FORMAT.md, chapter 3. Every tag that we know is one byte.
const (
	tagFileCRC  = 1<<3 | wireVarint
	tagFileData = 2<<3 | wireBytes

	tagSnapshotData     = 1<<3 | wireBytes
	tagSnapshotMetadata = 2<<3 | wireBytes

	tagMetadataConfState = 1<<3 | wireBytes
	tagMetadataIndex     = 2<<3 | wireVarint
	tagMetadataTerm      = 3<<3 | wireVarint

	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5

	// maxEnvelope is the most bytes that a file has before its content, which the checksum covers.
	maxEnvelope = 1 + 5 + 1 + 10
)

// Append appends the file's bytes to b and returns the longer slice. They are what etcd 3.7 writes.
// s may be used by others at the same time.
func (s *Snapshot) Append(b []byte) []byte {
	head, tail := s.encode()
	return append(append(append(b, head...), s.Data...), tail...)
}

// encode returns what is before and after Data in the file. It does not copy Data, which may be
// most of the memory.
func (s *Snapshot) encode() (head, tail []byte) {
	var metadata []byte
	if s.ConfState != nil {
		metadata = binary.AppendUvarint(append(metadata, tagMetadataConfState), uint64(len(s.ConfState)))
		metadata = append(metadata, s.ConfState...)
	}
	metadata = binary.AppendUvarint(append(metadata, tagMetadataIndex), s.Index)
	metadata = binary.AppendUvarint(append(metadata, tagMetadataTerm), s.Term)

	var inner []byte // what the content begins with
	if s.Data != nil {
		inner = binary.AppendUvarint(append(inner, tagSnapshotData), uint64(len(s.Data)))
	}
	tail = binary.AppendUvarint(append(tail, tagSnapshotMetadata), uint64(len(metadata)))
	tail = append(tail, metadata...)

	crc := walpb.Checksum(walpb.Checksum(walpb.Checksum(0, inner), s.Data), tail)
	head = binary.AppendUvarint(append(head, tagFileCRC), uint64(crc))
	head = binary.AppendUvarint(append(head, tagFileData), uint64(len(inner)+len(s.Data)+len(tail)))
	return append(head, inner...), tail
}

// Unmarshal sets *s to the snapshot whose file has the bytes b, as any etcd 3 or this package wrote
// them. ConfState and Data alias b. If the bytes are anything else the error is a *CorruptError
// without a name, and *s is as before.
//
// What the checksum does not cover is accepted only as it is written: fields in order, once, and
// varints as short as they can be. What it covers may have unknown fields. A missing number is 0.
func (s *Snapshot) Unmarshal(b []byte) error {
	crc, n, err := parseEnvelope(b, int64(len(b)))
	if err != nil {
		return err
	}
	content := b[n:]
	if sum := walpb.Checksum(0, content); sum != crc {
		return corrupt(int64(n), "checksum mismatch: the content has %08x and the file says %08x", sum, crc)
	}
	got, err := parseContent(content, n)
	if err != nil {
		return err
	}
	*s = got
	return nil
}

// parseEnvelope reads the beginning of a file of that size, of which b is all or the first
// maxEnvelope bytes: the checksum, and the length of the content, with which the file has to end.
// It returns where the content begins.
func parseEnvelope(b []byte, size int64) (crc uint32, n int, err error) {
	if size == 0 {
		return 0, 0, corrupt(0, "the file is empty")
	}
	if b[0] != tagFileCRC {
		return 0, 0, corrupt(0, "no checksum")
	}
	v, k := shortUvarint(b[1:])
	if k == 0 || v > math.MaxUint32 {
		return 0, 0, corrupt(1, "malformed checksum")
	}
	crc, n = uint32(v), 1+k
	if n == len(b) || b[n] != tagFileData {
		return 0, 0, corrupt(int64(n), "no content")
	}
	v, k = shortUvarint(b[n+1:])
	if k == 0 {
		return 0, 0, corrupt(int64(n+1), "malformed length")
	}
	n += 1 + k
	if left := uint64(size - int64(n)); v != left {
		return 0, 0, corrupt(int64(n), "the content has %d bytes and the file says %d", left, v)
	}
	return crc, n, nil
}

// parseContent reads raftpb.Snapshot, whose checksum is right: a mistake in it was written this
// way. at is where it begins in the file.
func parseContent(b []byte, at int) (s Snapshot, err error) {
	err = eachField(b, at, func(f field) bool {
		switch {
		case f.number == 1 && f.wire == wireBytes:
			s.Data = f.bytes
		case f.number == 2 && f.wire == wireBytes:
			err := eachField(f.bytes, f.at, func(f field) bool {
				switch {
				case f.number == 1 && f.wire == wireBytes:
					s.ConfState = f.bytes
				case f.number == 2 && f.wire == wireVarint:
					s.Index = f.value
				case f.number == 3 && f.wire == wireVarint:
					s.Term = f.value
				default:
					return f.number > 3
				}
				return true
			})
			return err == nil
		default:
			return f.number > 2
		}
		return true
	})
	return s, err
}

// A field of a message. Fixed32 and fixed64 are skipped.
type field struct {
	number uint64
	wire   byte
	value  uint64 // of a varint
	bytes  []byte
	at     int // where bytes begin in the file
}

// eachField calls take with each field of the message b, whose numbers must increase. It returns an
// error when take returns false. at is where b begins in the file.
func eachField(b []byte, at int, take func(field) bool) error {
	last := uint64(0)
	for i := 0; i < len(b); {
		start := i
		tag, k := binary.Uvarint(b[i:])
		f := field{number: tag >> 3, wire: byte(tag & 7)}
		if k <= 0 || f.number <= last {
			return corrupt(int64(at+start), "malformed field")
		}
		i += k
		last = f.number
		left := uint64(len(b) - i)
		var skip uint64
		switch f.wire {
		case wireVarint, wireBytes:
			f.value, k = binary.Uvarint(b[i:])
			if k <= 0 {
				return corrupt(int64(at+start), "malformed field")
			}
			i += k
			left -= uint64(k)
			if f.wire == wireBytes {
				skip = f.value
			}
		case wireFixed32:
			skip = 4
		case wireFixed64:
			skip = 8
		default:
			return corrupt(int64(at+start), "malformed field")
		}
		if skip > left {
			return corrupt(int64(at+start), "a field is longer than its message")
		}
		f.at = at + i
		f.bytes = b[i : i+int(skip) : i+int(skip)]
		i += int(skip)
		if !take(f) {
			return corrupt(int64(at+start), "unexpected field")
		}
	}
	return nil
}

// shortUvarint reads a varint that is as short as its value allows. n is 0 if there is none.
func shortUvarint(b []byte) (v uint64, n int) {
	v, n = binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, 0
	}
	return v, n
}
