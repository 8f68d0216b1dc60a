package walpb

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"strconv"
)

// ErrMalformed is wrapped by every error of this package: the bytes are not what etcd or this
// package writes. The error's text adds the message, the offset in the bytes given and the reason.
var ErrMalformed = errors.New("malformed")

// A malformedError puts its text together only when asked: a search after damage tries many places
// and looks at few of the errors.
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

// A mode says what an unknown field is.
type mode uint8

const (
	strict  mode = iota // damage
	lenient             // a field of a later version: header_crc covers it
)

// The wire types of protocol buffers, without the groups, which are never written.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

const maxFieldNumber = 1<<29 - 1

// noField is the offset after what is not there. The reading functions run several times for each
// record, and this costs them less than an error; whyNoField finds the reason again when one is
// needed.
const noField = -1

// at reports whether there is a field with that tag at b[i:]. All tags that we know are one byte.
func at(b []byte, i int, tag byte) bool {
	return i < len(b) && b[i] == tag
}

// readUvarint reads the varint at b[i:], which must be the shortest for its value, and returns it
// with the offset after it, or noField.
func readUvarint(b []byte, i int) (v uint64, end int) {
	if i < len(b) && b[i] < 0x80 {
		return uint64(b[i]), i + 1
	}
	if len(b)-i >= 8 {
		// The last byte of a varint is the first whose high bit is clear. If it is among these
		// eight, take them apart at once: every record has a checksum of five bytes, and a loop
		// would be most of the decoding.
		word := binary.LittleEndian.Uint64(b[i:])
		if stop := ^word & 0x8080808080808080; stop != 0 {
			word &= stop ^ (stop - 1)
			word = word&0x007f007f007f007f | word&0x7f007f007f007f00>>1
			word = word&0x00003fff00003fff | word&0x3fff00003fff0000>>2
			word = word&0x000000000fffffff | word&0x0fffffff00000000>>4
			return word, shortest(b, i+bits.TrailingZeros64(stop)/8+1)
		}
	}
	return readUvarintByByte(b, i)
}

// readUvarintByByte is readUvarint for the rest: near the end of b, and of more than eight bytes.
func readUvarintByByte(b []byte, i int) (v uint64, end int) {
	for shift := 0; i < len(b); shift += 7 {
		c := b[i]
		i++
		if shift == 63 && c > 1 {
			return 0, noField
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, shortest(b, i)
		}
	}
	return 0, noField
}

// shortest returns end, the offset after a varint of two bytes or more, or noField if fewer would
// have done.
func shortest(b []byte, end int) int {
	if b[end-1] == 0 {
		return noField
	}
	return end
}

// readBytes reads the length at b[i:] and the bytes that follow, and returns them with the offset
// after them, or noField.
func readBytes(b []byte, i int) (content []byte, end int) {
	n, i := readUvarint(b, i)
	if i < 0 || n > uint64(len(b)-i) {
		return nil, noField
	}
	end = i + int(n)
	return b[i:end:end], end
}

// readTag reads the tag at b[i:] and returns it with the offset after it, or noField.
func readTag(b []byte, i int) (tag uint64, end int) {
	tag, end = readUvarint(b, i)
	if tag>>3 == 0 || tag>>3 > maxFieldNumber {
		return tag, noField
	}
	return tag, end
}

// skipField returns the offset after the field at b[i:], whatever it is, or noField.
func skipField(b []byte, i int) (end int) {
	tag, i := readTag(b, i)
	if i < 0 {
		return noField
	}
	switch tag & 7 {
	case wireVarint:
		_, end = readUvarint(b, i)
	case wireFixed64:
		end = i + 8
	case wireBytes:
		_, end = readBytes(b, i)
	case wireFixed32:
		end = i + 4
	default:
		return noField
	}
	if end > len(b) {
		return noField
	}
	return end
}

// skipUnknown returns the offset after the field at b[i:], which its message does not expect there.
// It is an error if there is no whole field, if the message has a field of that number, the highest
// being last, or if the mode is strict.
func skipUnknown(message string, b []byte, i int, last uint64, m mode) (end int, err error) {
	if end = skipField(b, i); end < 0 {
		return 0, malformed(message, i, whyNoField(b, i))
	}
	if tag, _ := readTag(b, i); tag>>3 <= last {
		return 0, malformed(message, i, "field repeated, out of order or of the wrong wire type")
	}
	if m == strict {
		return 0, malformed(message, i, "unknown field")
	}
	return end, nil
}

// malformedField returns the error for the field at b[i:], whose tag is known: it is cut short or
// misspelt, or the reason is why.
func malformedField(message string, b []byte, i int, why string) error {
	if skipField(b, i) < 0 {
		why = whyNoField(b, i)
	}
	return malformed(message, i, why)
}

// whyNoField says why skipField finds no field at b[i].
func whyNoField(b []byte, i int) string {
	tag, after := readUvarint(b, i)
	if after < 0 {
		return whyNoUvarint(b, i)
	}
	if _, end := readTag(b, i); end < 0 {
		return "no such field number"
	}
	switch tag & 7 {
	case wireVarint, wireBytes:
		if _, end := readUvarint(b, after); end < 0 {
			return whyNoUvarint(b, after)
		}
		return "field is longer than the message"
	case wireFixed32, wireFixed64:
		return "field is longer than the message"
	}
	return "no such wire type"
}

// whyNoUvarint says why readUvarint finds no varint at b[i:].
func whyNoUvarint(b []byte, i int) string {
	for n := 1; i < len(b); n++ {
		c := b[i]
		i++
		switch {
		case n == 10 && c > 1:
			return "varint does not fit 64 bits"
		case c < 0x80:
			return "varint is longer than its value needs"
		}
	}
	return "message ends within a varint"
}

// appendUvarint is the inverse of readUvarint: readUvarint(appendUvarint(nil, v), 0) == v.
func appendUvarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<7:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, byte(v)|0x80, byte(v>>7))
	case v < 1<<21:
		return append(b, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14))
	case v < 1<<28:
		return append(b, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21))
	case v < 1<<35:
		return append(b, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21)|0x80, byte(v>>28))
	}
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
