package walpb

import (
	"encoding/binary"
	"math"
	"strconv"
)

// A Type says what the data of a record is. Types that have no name here can be encoded and
// decoded: whether to accept one is up to the log.
type Type uint8

const (
	TypeMetadata Type = 1 // data is the owner's metadata, opaque
	TypeEntry    Type = 2 // data is an Entry
	TypeState    Type = 3 // data is a HardState
	TypeCRC      Type = 4 // no data; CRC is the chain so far, which seeds the chain of a segment
	TypeSnapshot Type = 5 // data is a Snapshot
)

// String returns the word for t: "metadata", "entry", "state", "crc" or "snapshot", and "type(9)"
// for a type without a name.
func (t Type) String() string {
	switch t {
	case TypeMetadata:
		return "metadata"
	case TypeEntry:
		return "entry"
	case TypeState:
		return "state"
	case TypeCRC:
		return "crc"
	case TypeSnapshot:
		return "snapshot"
	}
	return "type(" + strconv.Itoa(int(t)) + ")"
}

// A Record is one record of a log, without the frame around it.
//
// The checksums are values like any other here: Append writes what it is given, and Unmarshal does
// not compare them. The log does, with [Checksum] and [HeadSum], because only it knows the chain
// and the place.
type Record struct {
	// Type says what Data is.
	Type Type

	// CRC is the chain including Data: Checksum(chain before, Data).
	CRC uint32

	// SyncedTo is an offset in bytes within the segment. Every byte below it was durable before
	// this record was encoded, so damage below it is damage to durable data. 0 claims nothing and
	// is not written. Only a record with HeaderCRC may carry another value.
	SyncedTo uint64

	// HeaderCRC is the HeadSum of the record, with the seed that the log derives from its place.
	// It means nothing unless HasHeaderCRC.
	HeaderCRC uint32

	// HasHeaderCRC is whether the record carries HeaderCRC. It is false in all that etcd writes.
	HasHeaderCRC bool

	// Data is nil if the record has none, which is not the same as having empty data: `1a 00` on
	// disk.
	Data []byte
}

// The fields of a record on disk, in the order in which they are written. Data comes last, out of
// the order of the numbers, so that all that is written before it has a size that is known before
// the data is.
const (
	tagRecordType      = 1<<3 | wireVarint
	tagRecordCRC       = 2<<3 | wireVarint
	tagRecordSyncedTo  = 4<<3 | wireVarint
	tagRecordHeaderCRC = 5<<3 | wireFixed32
	tagRecordData      = 3<<3 | wireBytes

	lastRecordField = 5 // above it, fields are unknown
)

// Size returns len(r.Append(nil)).
func (r *Record) Size() int {
	return r.HeadSize(r.dataLen()) + len(r.Data)
}

// Append appends the encoded record to b and returns the longer slice. It allocates only if b has
// less than Size bytes to spare. What Unmarshal accepts and has no unknown fields, Append gives
// back byte for byte.
//
// A record that has SyncedTo but not HeaderCRC is encoded as it is, and Unmarshal will refuse it.
func (r *Record) Append(b []byte) []byte {
	return append(r.AppendHead(b, r.dataLen()), r.Data...)
}

// HeadSize returns len(r.AppendHead(nil, dataLen)).
func (r *Record) HeadSize(dataLen int) int {
	n := 1 + uvarintSize(uint64(r.Type)) + 1 + uvarintSize(uint64(r.CRC))
	if r.SyncedTo != 0 {
		n += 1 + uvarintSize(r.SyncedTo)
	}
	if r.HasHeaderCRC {
		n += 1 + 4
	}
	if dataLen >= 0 {
		n += 1 + uvarintSize(uint64(dataLen))
	}
	return n
}

// AppendHead appends all of the record that stands before the content of its data, and returns the
// longer slice; the caller appends dataLen bytes of data. A negative dataLen says that the record
// has no data. r.Data is not looked at. AppendHead allocates only if b has less than
// HeadSize(dataLen) bytes to spare.
func (r *Record) AppendHead(b []byte, dataLen int) []byte {
	if word, ok := r.firstWord(); ok {
		b = binary.LittleEndian.AppendUint64(b, word)
	} else {
		b = appendUvarint(append(b, tagRecordType), uint64(r.Type))
		b = appendUvarint(append(b, tagRecordCRC), uint64(r.CRC))
	}
	if r.SyncedTo != 0 {
		b = appendUvarint(append(b, tagRecordSyncedTo), r.SyncedTo)
	}
	if r.HasHeaderCRC {
		b = binary.LittleEndian.AppendUint32(append(b, tagRecordHeaderCRC), r.HeaderCRC)
	}
	if dataLen >= 0 {
		b = appendUvarint(append(b, tagRecordData), uint64(dataLen))
	}
	return b
}

// firstWord returns the fields type and crc, encoded, if they take eight bytes, the lowest first.
// They do in 15 of 16 records: a checksum of 28 bits or fewer has a shorter varint. One word is a
// fraction of the work of eight bytes, both to write and to sum.
func (r *Record) firstWord() (word uint64, ok bool) {
	crc := uint64(r.CRC)
	word = tagRecordType | uint64(r.Type)<<8 | tagRecordCRC<<16 |
		(crc&0x7f|crc<<1&0x7f00|crc<<2&0x7f0000|crc<<3&0x7f000000|crc<<4&0xf00000000|0x80808080)<<24
	return word, r.CRC >= 1<<28 && r.Type < 0x80
}

// HeadSum returns the head sum that the record will have once encoded with dataLen bytes of data,
// negative if it has none. It is what HeadSum(seed, b) returns for the encoded record b, whatever
// r.HeaderCRC is. HasHeaderCRC and SyncedTo must be set before, since both are covered; r.Data is
// not looked at. It does not allocate.
//
// It sums the bytes that AppendHead appends without having them written, in its order.
func (r *Record) HeadSum(seed uint32, dataLen int) uint32 {
	sum := ^seed
	if word, ok := r.firstWord(); ok {
		sum = sumWord(sum, word)
	} else {
		sum = sumUvarint(sumByte(sum, tagRecordType), uint64(r.Type))
		sum = sumUvarint(sumByte(sum, tagRecordCRC), uint64(r.CRC))
	}
	if r.SyncedTo != 0 {
		sum = sumUvarint(sumByte(sum, tagRecordSyncedTo), r.SyncedTo)
	}
	if r.HasHeaderCRC {
		sum = sumByte(sum, tagRecordHeaderCRC) // the one field whose value is not covered
	}
	if dataLen >= 0 {
		sum = sumUvarint(sumByte(sum, tagRecordData), uint64(dataLen))
	}
	return ^sum
}

func (r *Record) dataLen() int {
	if r.Data == nil {
		return -1
	}
	return len(r.Data)
}

// Unmarshal sets *r to the record that b encodes. Data aliases b. It does not allocate unless it
// fails.
//
// If b is not a record that etcd or this package would have written, Unmarshal returns an error
// that wraps ErrMalformed and says what is wrong at which offset of b, and *r is as before. That is
// the case if
//   - b ends within a field, or a varint is longer than its value needs;
//   - a field is unknown, has the wrong wire type, or stands twice or out of order; but if the
//     record has a header_crc, unknown fields are skipped wherever they stand;
//   - type or crc is missing;
//   - type does not fit 8 bits or crc does not fit 32;
//   - synced_to is there, but is 0 or without a header_crc.
//
// Unmarshal checks neither CRC nor HeaderCRC, and takes any type. A caller that relies on
// header_crc compares it with HeadSum(seed, b): until then, a skipped field may have been damage.
func (r *Record) Unmarshal(b []byte) error {
	// Fields are gathered in variables rather than in a Record, which would not fit the registers.
	var (
		kind         Type
		crc          uint32
		syncedTo     uint64
		headerCRC    uint32
		hasHeaderCRC bool
		data         []byte
	)
	// The branches stand in the order of the fields, so that a record is read in one turn of the
	// loop; only after an unknown field there is another. Rank is the last branch taken. A field
	// that comes twice or late finds its branch closed and is left to skipUnknown, which refuses
	// it.
	rank := 0
	unknown := false
	for i := 0; i < len(b); {
		if rank == 0 && at(b, i, tagRecordType) {
			v, end := readUvarint(b, i+1)
			if end < 0 || v > math.MaxUint8 {
				return malformedField("record", b, i, "type does not fit 8 bits")
			}
			kind, rank, i = Type(v), 1, end
		}
		if rank == 1 && at(b, i, tagRecordCRC) {
			v, end := readUvarint(b, i+1)
			if end < 0 || v > math.MaxUint32 {
				return malformedField("record", b, i, "crc does not fit 32 bits")
			}
			crc, rank, i = uint32(v), 2, end
		}
		if rank == 2 && at(b, i, tagRecordSyncedTo) {
			v, end := readUvarint(b, i+1)
			if end < 0 || v == 0 {
				return malformedField("record", b, i, "synced_to is 0")
			}
			syncedTo, rank, i = v, 3, end
		}
		if rank >= 2 && rank < 4 && at(b, i, tagRecordHeaderCRC) {
			if len(b)-i < 5 {
				return malformedField("record", b, i, "")
			}
			headerCRC, hasHeaderCRC = binary.LittleEndian.Uint32(b[i+1:]), true
			rank, i = 4, i+5
		}
		if rank >= 2 && rank < 5 && at(b, i, tagRecordData) {
			content, end := readBytes(b, i+1)
			if end < 0 {
				return malformedField("record", b, i, "")
			}
			data, rank, i = content, 5, end
		}
		if i < len(b) {
			// Whether the record has a header_crc may not be known yet.
			end, err := skipUnknown("record", b, i, lastRecordField, lenient)
			if err != nil {
				return err
			}
			unknown, i = true, end
		}
	}
	switch {
	case rank < 2:
		return malformed("record", len(b), "type or crc is missing")
	case unknown && !hasHeaderCRC:
		return malformed("record", 0, "unknown field in a record without a header_crc")
	case syncedTo != 0 && !hasHeaderCRC:
		return malformed("record", 0, "synced_to in a record without a header_crc")
	}
	*r = Record{Type: kind, CRC: crc, SyncedTo: syncedTo, HeaderCRC: headerCRC, HasHeaderCRC: hasHeaderCRC, Data: data}
	return nil
}

// HeadSum returns the head sum of the encoded record b: its CRC-32C, continued from seed, over
// every byte but the content of data, which CRC covers, and the four bytes of the value of
// header_crc. Tags, lengths and unknown fields are covered. A record with HeaderCRC is sound in
// its place if it is this.
//
// It does not allocate unless it fails, which it does with an error that wraps ErrMalformed, and
// only on bytes that are not a sequence of fields: never on what Unmarshal accepts.
func HeadSum(seed uint32, b []byte) (uint32, error) {
	sum := seed
	from := 0 // b[from:i] is covered and not yet summed
	for i := 0; i < len(b); {
		field := i
		switch b[i] {
		case tagRecordType, tagRecordCRC, tagRecordSyncedTo:
			_, i = readUvarint(b, i+1)
		case tagRecordHeaderCRC:
			if len(b)-i < 5 {
				return 0, malformedField("record", b, field, "")
			}
			sum = update(sum, b[from:i+1])
			i += 5
			from = i
		case tagRecordData:
			var content []byte
			if content, i = readBytes(b, i+1); i < 0 {
				return 0, malformedField("record", b, field, "")
			}
			sum = update(sum, b[from:i-len(content)])
			from = i
		default:
			i = skipField(b, i)
		}
		if i < 0 {
			return 0, malformedField("record", b, field, "")
		}
	}
	return update(sum, b[from:]), nil
}

// A Message is what the data of a record holds: an [Entry], a [HardState] or a [Snapshot].
type Message interface {
	Unmarshal(b []byte) error
	UnmarshalLenient(b []byte) error
}

// UnmarshalData decodes the data of a record into m, whose bytes then alias the record's. It is
// lenient if the record has a header_crc, which covers the type, and else strict: a type that was
// damaged shows in nothing but fields that it does not have. The caller has checked the header_crc,
// and chooses m by the type. The errors are those of m.
func (r *Record) UnmarshalData(m Message) error {
	if r.HasHeaderCRC {
		return m.UnmarshalLenient(r.Data)
	}
	return m.Unmarshal(r.Data)
}
