package walpb

import (
	"math"
	"strconv"
)

// An EntryType says what the data of an entry means to raft. The numbers are raft's.
type EntryType int32

const (
	EntryNormal       EntryType = 0 // a command of the application, or empty
	EntryConfChange   EntryType = 1 // a change of one member
	EntryConfChangeV2 EntryType = 2 // a change of any number of members
)

// String returns the word for t: "normal", "confchange" or "confchangev2", and "entrytype(7)" for a
// type without a name.
func (t EntryType) String() string {
	switch t {
	case EntryNormal:
		return "normal"
	case EntryConfChange:
		return "confchange"
	case EntryConfChangeV2:
		return "confchangev2"
	}
	return "entrytype(" + strconv.Itoa(int(t)) + ")"
}

// An Entry is one entry of the replicated log: the data of a record of TypeEntry, and raft's own
// message.
type Entry struct {
	Type  EntryType
	Term  uint64
	Index uint64
	Data  []byte // nil if the entry has none, which is not the same as empty
}

const (
	tagEntryType  = 1<<3 | wireVarint
	tagEntryTerm  = 2<<3 | wireVarint
	tagEntryIndex = 3<<3 | wireVarint
	tagEntryData  = 4<<3 | wireBytes

	lastEntryField = 4 // above it, fields are unknown

	// maxEntryHead is the size of the longest head: each field with its tag, each varint at its
	// longest.
	maxEntryHead = 1 + 10 + 1 + 10 + 1 + 10 + 1 + 10
)

// Size returns len(e.Append(nil)).
func (e *Entry) Size() int {
	return e.HeadSize() + len(e.Data)
}

// Append appends the encoded entry to b and returns the longer slice. It allocates only if b has
// less than Size bytes to spare. UnmarshalLenient gives the entry back, and so does Unmarshal if
// the type has a name.
func (e *Entry) Append(b []byte) []byte {
	return append(e.AppendHead(b), e.Data...)
}

// HeadSize returns len(e.AppendHead(nil)).
func (e *Entry) HeadSize() int {
	n := 1 + uvarintSize(e.Term) + 1 + uvarintSize(e.Index)
	if e.Type != 0 {
		n += 1 + uvarintSize(uint64(e.Type))
	}
	if e.Data != nil {
		n += 1 + uvarintSize(uint64(len(e.Data)))
	}
	return n
}

// AppendHead appends all of the entry that stands before the content of Data, and returns the
// longer slice; the caller appends Data. It allocates only if b has less than HeadSize bytes to
// spare.
func (e *Entry) AppendHead(b []byte) []byte {
	if e.Type != 0 {
		b = appendUvarint(append(b, tagEntryType), uint64(e.Type))
	}
	b = appendUvarint(append(b, tagEntryTerm), e.Term)
	b = appendUvarint(append(b, tagEntryIndex), e.Index)
	if e.Data != nil {
		b = appendUvarint(append(b, tagEntryData), uint64(len(e.Data)))
	}
	return b
}

// Checksum returns the chain continued over the encoded entry: Checksum(chain, e.Append(nil)). A
// record carries it before the bytes that it is of, so the log needs it before it encodes them. It
// does not allocate.
func (e *Entry) Checksum(chain uint32) uint32 {
	var head [maxEntryHead]byte
	return Checksum(updateShort(chain, e.AppendHead(head[:0])), e.Data)
}

// Unmarshal sets *e to the entry that b encodes, in either dialect. Data aliases b. It does not
// allocate unless it fails.
//
// A field that is not there is 0, or nil: users of etcd's 3.7 log may leave them out. If b is not
// an entry that etcd or this package would have written, Unmarshal returns an error that wraps
// ErrMalformed, and *e is as before. That is the case if
//   - b ends within a field, or a varint is longer than its value needs;
//   - a field is unknown, has the wrong wire type, or stands twice or out of order;
//   - the type is none of the three.
func (e *Entry) Unmarshal(b []byte) error {
	return e.unmarshal(b, strict)
}

// UnmarshalLenient is like Unmarshal, but skips unknown fields and takes any type that fits 32
// bits. It is for the data of a record whose HeaderCRC was found right, where an unknown field is
// not damage.
func (e *Entry) UnmarshalLenient(b []byte) error {
	return e.unmarshal(b, lenient)
}

// UnmarshalHead sets Type, Term and Index from the first bytes of an encoded entry, and leaves Data
// as it is. It is for an entry of which only the beginning is at hand: b need not hold what stands
// after the index, and that is not looked at. If b does not begin as an entry does the error wraps
// ErrMalformed and *e is as before.
func (e *Entry) UnmarshalHead(b []byte) error {
	var kind, term, index uint64
	i := 0
	if at(b, i, tagEntryType) {
		kind, i = headVarint(b, i, tagEntryType)
	}
	term, i = headVarint(b, i, tagEntryTerm)
	index, i = headVarint(b, i, tagEntryIndex)
	if i < 0 || kind > math.MaxInt32 {
		return malformed("entry", 0, "no term and index")
	}
	e.Type, e.Term, e.Index = EntryType(kind), term, index
	return nil
}

func (e *Entry) unmarshal(b []byte, m mode) error {
	var (
		kind        EntryType
		term, index uint64
		data        []byte
	)
	rank := 0 // the last branch taken, as in Record.Unmarshal; here any field may be missing
	for i := 0; i < len(b); {
		if rank < 1 && at(b, i, tagEntryType) {
			v, end := readUvarint(b, i+1)
			t := EntryType(v)
			if end < 0 || uint64(t) != v || m == strict && v > uint64(EntryConfChangeV2) {
				return malformedField("entry", b, i, "no such type")
			}
			kind, rank, i = t, 1, end
		}
		if rank < 2 && at(b, i, tagEntryTerm) {
			v, end := readUvarint(b, i+1)
			if end < 0 {
				return malformedField("entry", b, i, "")
			}
			term, rank, i = v, 2, end
		}
		if rank < 3 && at(b, i, tagEntryIndex) {
			v, end := readUvarint(b, i+1)
			if end < 0 {
				return malformedField("entry", b, i, "")
			}
			index, rank, i = v, 3, end
		}
		if rank < 4 && at(b, i, tagEntryData) {
			content, end := readBytes(b, i+1)
			if end < 0 {
				return malformedField("entry", b, i, "")
			}
			data, rank, i = content, 4, end
		}
		if i < len(b) {
			end, err := skipUnknown("entry", b, i, lastEntryField, m)
			if err != nil {
				return err
			}
			i = end
		}
	}
	*e = Entry{Type: kind, Term: term, Index: index, Data: data}
	return nil
}
