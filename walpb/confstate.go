package walpb

import "encoding/binary"

// The fields of raft's ConfState: four lists of members, and whether to leave the joint
// configuration alone.
const (
	lastMemberList = 4
	autoLeave      = 5
)

// CheckConfState returns an error that wraps ErrMalformed unless b is a ConfState that etcd's raft
// can decode: every etcd that reads a snapshot record decodes it, and panics if it cannot. Unknown
// fields are taken, as raft takes them.
func CheckConfState(b []byte) error {
	for i := 0; i < len(b); {
		tag, n := binary.Uvarint(b[i:])
		field, wire := tag>>3, tag&7
		if n <= 0 || field == 0 || field > maxFieldNumber {
			return malformed("conf state", i, "no tag of a field")
		}
		start := i
		i += n
		switch {
		case wire == wireVarint:
			_, n = binary.Uvarint(b[i:])
			if n <= 0 {
				return malformed("conf state", start, "a number that does not end")
			}
			i += n
		case wire == wireBytes && field != autoLeave:
			size, n := binary.Uvarint(b[i:])
			if n <= 0 || size > uint64(len(b)-i-n) {
				return malformed("conf state", start, "a field that does not end")
			}
			i += n
			if field <= lastMemberList && !packed(b[i:i+int(size)]) {
				return malformed("conf state", start, "a list that is not one of members")
			}
			i += int(size)
		case wire == wireFixed32 && field > autoLeave && len(b)-i >= 4:
			i += 4
		case wire == wireFixed64 && field > autoLeave && len(b)-i >= 8:
			i += 8
		default:
			return malformed("conf state", start, "a field of the wrong type")
		}
	}
	return nil
}

// packed reports whether b is a sequence of varints.
func packed(b []byte) bool {
	for len(b) > 0 {
		_, n := binary.Uvarint(b)
		if n <= 0 {
			return false
		}
		b = b[n:]
	}
	return true
}
