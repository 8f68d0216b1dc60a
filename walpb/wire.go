package walpb

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"strconv"
)

// ErrMalformed is wrapped by every error of this package: the bytes are not what etcd or this package writes.
// The error's text adds the message, the offset in the bytes given and the reason.
var ErrMalformed = errors.New("malformed")

// A malformedError puts its text together only when asked: a search behind damage tries many places and
// looks at few of the errors.
type malformedError struct {
	message string
	offset  int
	why     string
}

func malformed(message string, offset int, why string) error {
	return &malformedError{message, offset, why}
}

func (e *malformedError) Error() string {
	return "walpb: malformed " + e.message + ": offset " + strconv.Itoa(e.offset) + ": " + e.why
}

func (e *malformedError) Unwrap() error { return ErrMalformed }

// A mode says how an unknown field is taken.
type mode uint8

const (
	strict  mode = iota // for damage
	vouched             // for a field of a later version, as the bytes are known to be sound
)

// unknown returns why a field whose tag the message does not have is refused, or "" if it is to be skipped.
// Last is the highest field number that the message has.
func (m mode) unknown(tag, last uint64) string {
	if tag>>3 <= last {
		return "wrong wire type"
	}
	if m == strict {
		return "unknown field"
	}
	return ""
}

// The wire types of protocol buffers, but for the groups, which are never written.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

const maxFieldNumber = 1<<29 - 1

// readField reads the field that begins at b[i], where i < len(b). It returns its tag, its value and the
// offset behind it. The value of a bytes field is its length n, and its content is b[end-n : end]. If there is
// no field, why says what is wrong.
func readField(b []byte, i int) (tag, v uint64, end int, why string) {
	// Every tag that we know, and most varints but checksums, are of one byte.
	if tag = uint64(b[i]); tag < 0x80 {
		i++
	} else if tag, i, why = readUvarint(b, i); why != "" {
		return 0, 0, 0, why
	}
	if tag>>3 == 0 || tag>>3 > maxFieldNumber {
		return 0, 0, 0, "no such field number"
	}
	switch tag & 7 {
	case wireVarint, wireBytes:
		if i < len(b) && b[i] < 0x80 {
			v = uint64(b[i])
			i++
		} else if v, i, why = readUvarint(b, i); why != "" {
			return 0, 0, 0, why
		}
		if tag&7 == wireVarint {
			return tag, v, i, ""
		}
		if v > uint64(len(b)-i) {
			return 0, 0, 0, "field is longer than the message"
		}
		return tag, v, i + int(v), ""
	case wireFixed32:
		if len(b)-i < 4 {
			return 0, 0, 0, "message ends within a field"
		}
		return tag, uint64(binary.LittleEndian.Uint32(b[i:])), i + 4, ""
	case wireFixed64:
		if len(b)-i < 8 {
			return 0, 0, 0, "message ends within a field"
		}
		return tag, binary.LittleEndian.Uint64(b[i:]), i + 8, ""
	}
	return 0, 0, 0, "no such wire type"
}

// readUvarint reads the varint at b[i:] and returns it with the offset behind it. It takes only the shortest
// encoding of a number. If there is none, why says what is wrong.
func readUvarint(b []byte, i int) (v uint64, end int, why string) {
	for shift := 0; i < len(b); shift += 7 {
		c := b[i]
		i++
		if c >= 0x80 {
			if shift == 63 {
				return 0, 0, "varint does not fit 64 bits"
			}
			v |= uint64(c&0x7f) << shift
			continue
		}
		if shift == 63 && c > 1 {
			return 0, 0, "varint does not fit 64 bits"
		}
		if c == 0 && shift > 0 {
			return 0, 0, "varint is longer than its value needs"
		}
		return v | uint64(c)<<shift, i, ""
	}
	return 0, 0, "message ends within a varint"
}

// appendUvarint is the inverse of readUvarint: readUvarint(appendUvarint(nil, v), 0) == v.
func appendUvarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// uvarintSize returns len(appendUvarint(nil, v)).
func uvarintSize(v uint64) int {
	// Seven bits a byte, and one byte for 0; 9/64 is near enough to 1/7 for all lengths up to 64.
	return (bits.Len64(v|1)*9 + 64) / 64
}
