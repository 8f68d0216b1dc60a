package oracle

import (
	"encoding/binary"
	"math"

	"github.com/stele-wal/stele/walpb"
)

// OwnTypes are types of entries that are none of raft's.
var OwnTypes = []walpb.EntryType{3, 127, 128, math.MaxInt32, -1, math.MinInt32}

// IsOwn reports whether a type is none of raft's.
func IsOwn(t walpb.EntryType) bool { return t < walpb.EntryNormal || t > walpb.EntryConfChangeV2 }

// A Source gives entries, and remembers them. The zero source has given none.
type Source struct {
	given map[[3]uint64]walpb.Entry
}

// Entry returns the entry of an index and a term. The larger the scale, the larger is the largest.
func (s *Source) Entry(index, term uint64, scale int) walpb.Entry {
	const most = 20_000
	key := [3]uint64{index, term, uint64(scale)}
	e, ok := s.given[key]
	if !ok {
		if s.given == nil || len(s.given) > most {
			s.given = map[[3]uint64]walpb.Entry{}
		}
		e = content(index, term, scale)
		s.given[key] = e
	}
	return e
}

// content returns the entry of an index and a term. There is only one, because frames that recur
// are those after which a trimmed tail can come back.
func content(index, term uint64, scale int) walpb.Entry {
	e := walpb.Entry{Index: index, Term: term}
	h := (index*0x9e3779b97f4a7c15 ^ term*0xbf58476d1ce4e5b9) * 0x94d049bb133111eb
	h ^= h >> 31
	switch h % 11 {
	case 0:
		e.Type = walpb.EntryConfChange
	case 1:
		e.Type = walpb.EntryConfChangeV2
	case 2:
		e.Type = OwnTypes[h>>20%uint64(len(OwnTypes))]
	}
	var size uint64
	switch h >> 8 % 8 {
	case 0:
		return e // no data at all, as a new leader's first entry
	case 1, 2, 3:
		size = h >> 16 % 60
	case 4, 5:
		size = 100 + h>>16%500
	case 6:
		size = 500 + h>>16%1200
	case 7:
		size = h >> 16 % (uint64(scale)*3 + 1)
	}
	e.Data = make([]byte, size)
	for i := range e.Data {
		if i%8 == 0 {
			h = h*0x5851f42d4c957f2d + 0x14057b7ef767814f
		}
		e.Data[i] = byte(h >> (8 * (i % 8)))
	}
	if h>>40%7 == 0 {
		forged(e.Data, index, term, h)
	}
	// Long zeros are where a disk's zeroed sector and an entry's own bytes look alike.
	if size > 1024 && h>>60 < 4 {
		clear(e.Data[200:])
	}
	if size >= 8 && h>>56&3 == 0 {
		binary.LittleEndian.PutUint64(e.Data[size/8*8-8:], 0x10)
	}
	return e
}

// ConfState returns raft's message in one of its forms. Most often, it has one voter.
func ConfState(index uint64) []byte {
	one := binary.AppendUvarint([]byte{0x08}, index%5+1)
	switch index * 0x9e3779b97f4a7c15 >> 60 {
	case 0:
		return nil // not known
	case 1:
		return []byte{} // no member
	case 2:
		// Two voters and a learner.
		return append(one, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x10, 0x09)
	case 3:
		return append(one, 0x18, 0x07, 0x18, 0x08, 0x20, 0x07, 0x28, 0x01) // on the way from others
	case 4:
		return append(one, 0x28, 0x00) // as etcd before 3.7 writes it
	case 5:
		return append(one, 0x7a, 0x02, 'n', 'o') // with a field of later days
	}
	return one
}
