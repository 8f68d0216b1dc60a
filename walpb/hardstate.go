package walpb

// A HardState is what a member must not forget: the data of a record of TypeState, and raft's own
// message.
type HardState struct {
	Term   uint64 // the latest term that the member has seen
	Vote   uint64 // the member it voted for in that term, 0 if it has not voted
	Commit uint64 // up to which index the log is known to be committed
}

const (
	tagHardStateTerm   = 1<<3 | wireVarint
	tagHardStateVote   = 2<<3 | wireVarint
	tagHardStateCommit = 3<<3 | wireVarint

	lastHardStateField = 3 // above it, fields are unknown
)

// IsZero reports whether nothing was ever recorded: term, vote and commit are 0. A log does not
// write such a hard state.
func (s *HardState) IsZero() bool {
	return *s == HardState{}
}

// Size returns len(s.Append(nil)).
func (s *HardState) Size() int {
	return 1 + uvarintSize(s.Term) + 1 + uvarintSize(s.Vote) + 1 + uvarintSize(s.Commit)
}

// Append appends the encoded hard state to b and returns the longer slice. It allocates only if b
// has less than Size bytes to spare. What Unmarshal accepts, Append gives back byte for byte.
func (s *HardState) Append(b []byte) []byte {
	b = appendUvarint(append(b, tagHardStateTerm), s.Term)
	b = appendUvarint(append(b, tagHardStateVote), s.Vote)
	return appendUvarint(append(b, tagHardStateCommit), s.Commit)
}

// Unmarshal sets *s to the hard state that b encodes. It does not allocate unless it fails.
//
// If b is not a hard state that etcd or this package would have written, Unmarshal returns an error
// that wraps ErrMalformed, and *s is as before. That is the case if
//   - b ends within a field, or a varint is longer than its value needs;
//   - a field is unknown, has the wrong wire type, or stands twice or out of order;
//   - term, vote or commit is missing: nothing else distinguishes an entry without data, in a
//     record whose type has changed.
func (s *HardState) Unmarshal(b []byte) error {
	return s.unmarshal(b, strict)
}

// UnmarshalLenient is like Unmarshal, but skips unknown fields and takes a missing one for 0. It is
// for the data of a record whose HeaderCRC was found right.
func (s *HardState) UnmarshalLenient(b []byte) error {
	return s.unmarshal(b, lenient)
}

func (s *HardState) unmarshal(b []byte, m mode) error {
	var got HardState
	rank := 0  // the last branch taken, as in Record.Unmarshal
	found := 0 // how many branches were
	for i := 0; i < len(b); {
		if rank < 1 && at(b, i, tagHardStateTerm) {
			v, end := readUvarint(b, i+1)
			if end < 0 {
				return malformedField("hard state", b, i, "")
			}
			got.Term, rank, i = v, 1, end
			found++
		}
		if rank < 2 && at(b, i, tagHardStateVote) {
			v, end := readUvarint(b, i+1)
			if end < 0 {
				return malformedField("hard state", b, i, "")
			}
			got.Vote, rank, i = v, 2, end
			found++
		}
		if rank < 3 && at(b, i, tagHardStateCommit) {
			v, end := readUvarint(b, i+1)
			if end < 0 {
				return malformedField("hard state", b, i, "")
			}
			got.Commit, rank, i = v, 3, end
			found++
		}
		if i < len(b) {
			end, err := skipUnknown("hard state", b, i, lastHardStateField, m)
			if err != nil {
				return err
			}
			i = end
		}
	}
	if m == strict && found < 3 {
		return malformed("hard state", len(b), "field missing")
	}
	*s = got
	return nil
}
