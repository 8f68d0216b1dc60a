// Package frame has the bytes of one frame and of a segment's name: how a record is put into a
// frame, and how a frame is read. It knows one frame at a time, and of no log. FORMAT.md, chapters
// 2, 5, 6 and 10, has the reasons.
package frame

import (
	"math"

	"github.com/stele-wal/stele/walpb"
)

const (
	WordSize   = 8    // the length word before every record, and the alignment of frames
	SectorSize = 512  // what a disk writes whole, or tears
	PageSize   = 4096 // what the Writer writes whole

	// MaxHead bounds the part of a record before the content of its data: every field that this
	// package writes, at its longest.
	MaxHead = 64

	// MaxEntryHead bounds the part of an entry before the content of its data.
	MaxEntryHead = 44

	// MaxExtra bounds what a frame takes beside the content of its record's data.
	MaxExtra = WordSize + MaxHead + WordSize

	// MaxLength is the size of the largest record that fits in memory with its padding. It matters
	// where an int has 32 bits.
	MaxLength = math.MaxInt - WordSize
)

// Pages are whole sectors, and sectors whole words: these do not compile otherwise.
const (
	_ = -uint(PageSize % SectorSize)
	_ = -uint(SectorSize % WordSize)
)

// A length word holds the record's size in its low 56 bits. Its top byte is zero if the record ends
// on a multiple of eight, and else 0x80 plus the number of zero bytes that pad it.
const (
	sizeBits = 1<<56 - 1
	padded   = 1 << 63
)

// LengthWord returns the length word of a record of size bytes. ParseLengthWord is its inverse.
func LengthWord(size int) uint64 {
	word := uint64(size)
	if pad := Padding(size); pad != 0 {
		word |= padded | uint64(pad)<<56
	}
	return word
}

// Padding returns the number of zero bytes that follow a record of size bytes.
func Padding(size int) int { return -size & (WordSize - 1) }

// Length returns the size that a length word states, whatever its top byte says.
func Length(word uint64) int64 { return int64(word & sizeBits) }

// ParseLengthWord returns the sizes that a length word states. It is not ok if no writer wrote it
// so: a reserved bit set, padding that does not complete the record to a multiple of eight, or a
// length of zero. Words without padding whose record needs some are those of etcd 2.x, which did
// not pad.
func ParseLengthWord(word uint64) (size int64, pad int, ok bool) {
	size = Length(word)
	top := byte(word >> 56)
	if size == 0 {
		return 0, 0, false
	}
	if top == 0 {
		return size, 0, true
	}
	pad = Padding(int(size & (WordSize - 1)))
	return size, pad, pad != 0 && top == 0x80|byte(pad)
}

// Identity is what the header_crc of every record of a segment starts from, so that a record of
// another segment, another log or an earlier life of this segment does not pass for one of this.
// Once the metadata of the segment is known, it is continued over that.
func Identity(seq uint64, seed uint32) uint32 {
	return walpb.ChecksumWord(walpb.ChecksumWord(0, seq), uint64(seed))
}

// HeaderSeed continues an identity with the place of one frame and its length word. A header_crc is
// the checksum of the record's own header, continued from here.
func HeaderSeed(identity uint32, offset int64, word uint64) uint32 {
	return walpb.ChecksumWord(walpb.ChecksumWord(identity, uint64(offset)), word)
}
