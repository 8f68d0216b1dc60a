package walpb

// A Snapshot is what the log knows of a snapshot, whose own bytes are in a file elsewhere: the data
// of a record of TypeSnapshot.
type Snapshot struct {
	Index uint64 // the last index that the snapshot stands for
	Term  uint64 // the term of that entry

	// ConfState is the members at that index, as raft encodes them, and opaque here. It is nil if
	// they are not recorded, as etcd before 3.5 did not.
	ConfState []byte
}

const (
	tagSnapshotIndex     = 1<<3 | wireVarint
	tagSnapshotTerm      = 2<<3 | wireVarint
	tagSnapshotConfState = 3<<3 | wireBytes

	lastSnapshotField = 3 // above it, fields are unknown
)

// Size returns len(s.Append(nil)).
func (s *Snapshot) Size() int {
	n := 1 + uvarintSize(s.Index) + 1 + uvarintSize(s.Term)
	if s.ConfState != nil {
		n += 1 + uvarintSize(uint64(len(s.ConfState))) + len(s.ConfState)
	}
	return n
}

// Append appends the encoded snapshot record's data to b and returns the longer slice. It allocates
// only if b has less than Size bytes to spare. What Unmarshal accepts, Append gives back byte for
// byte.
func (s *Snapshot) Append(b []byte) []byte {
	b = appendUvarint(append(b, tagSnapshotIndex), s.Index)
	b = appendUvarint(append(b, tagSnapshotTerm), s.Term)
	if s.ConfState != nil {
		b = appendUvarint(append(b, tagSnapshotConfState), uint64(len(s.ConfState)))
		b = append(b, s.ConfState...)
	}
	return b
}

// Unmarshal sets *s to the snapshot that b encodes. ConfState aliases b and is not looked into. It
// does not allocate unless it fails.
//
// If b is not a snapshot record that etcd or this package would have written, Unmarshal returns an
// error that wraps ErrMalformed, and *s is as before. That is the case if
//   - b ends within a field, or a varint is longer than its value needs;
//   - a field is unknown, has the wrong wire type, or stands twice or out of order;
//   - index or term is missing.
func (s *Snapshot) Unmarshal(b []byte) error {
	return s.unmarshal(b, strict)
}

// UnmarshalLenient is like Unmarshal, but skips unknown fields and takes a missing one for 0. It is
// for the data of a record whose HeaderCRC was found right.
func (s *Snapshot) UnmarshalLenient(b []byte) error {
	return s.unmarshal(b, lenient)
}

func (s *Snapshot) unmarshal(b []byte, m mode) error {
	var got Snapshot
	rank := 0  // the last branch taken, as in Record.Unmarshal
	found := 0 // how many of index and term there were
	for i := 0; i < len(b); {
		if rank < 1 && at(b, i, tagSnapshotIndex) {
			v, end := readUvarint(b, i+1)
			if end < 0 {
				return malformedField("snapshot", b, i, "")
			}
			got.Index, rank, i = v, 1, end
			found++
		}
		if rank < 2 && at(b, i, tagSnapshotTerm) {
			v, end := readUvarint(b, i+1)
			if end < 0 {
				return malformedField("snapshot", b, i, "")
			}
			got.Term, rank, i = v, 2, end
			found++
		}
		if rank < 3 && at(b, i, tagSnapshotConfState) {
			content, end := readBytes(b, i+1)
			if end < 0 {
				return malformedField("snapshot", b, i, "")
			}
			got.ConfState, rank, i = content, 3, end
		}
		if i < len(b) {
			end, err := skipUnknown("snapshot", b, i, lastSnapshotField, m)
			if err != nil {
				return err
			}
			i = end
		}
	}
	if m == strict && found < 2 {
		return malformed("snapshot", len(b), "index or term is missing")
	}
	*s = got
	return nil
}
