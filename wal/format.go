package wal

import (
	"fmt"
	"math"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// Constants of the format; see FORMAT.md, chapters 2, 5 and 10.
const (
	wordSize   = 8    // the length word in front of every record, and the alignment of frames
	sectorSize = 512  // what a disk writes whole, or tears
	pageSize   = 4096 // what the writer writes whole

	// DefaultSegmentSize is the size in bytes at which a segment is full: etcd's 64,000,000, not 64
	// MiB.
	DefaultSegmentSize = 64_000_000

	// DefaultMaxRecord is the largest record in bytes that a Writer writes. etcd 3.4 reads no
	// larger one.
	DefaultMaxRecord = 10<<20 - wordSize

	// maxHead bounds the part of a record before the content of its data, as far as the search
	// behind damage goes: every field that this package writes, at its longest.
	maxHead = 64
)

// Pages are whole sectors, and sectors whole words: these do not compile otherwise.
const (
	_ = -uint(pageSize % sectorSize)
	_ = -uint(sectorSize % wordSize)
	_ = -uint(DefaultSegmentSize % pageSize)
)

// segmentName returns the file name of the segment seq whose first entry is, but for overwrites,
// index. parseSegmentName(segmentName(seq, index)) == seq, index, true.
func segmentName(seq, index uint64) string {
	return fmt.Sprintf("%016x-%016x.wal", seq, index)
}

// parseSegmentName is strict: sixteen lower-case digits, a dash, sixteen digits, ".wal", nothing
// else.
func parseSegmentName(name string) (seq, index uint64, ok bool) {
	if len(name) != 16+1+16+4 || name[16] != '-' || name[33:] != segmentSuffix {
		return 0, 0, false
	}
	seq, ok1 := fileutil.ParseHex(name[:16])
	index, ok2 := fileutil.ParseHex(name[17:33])
	return seq, index, ok1 && ok2
}

const segmentSuffix = ".wal"

// A length word holds the record's size in its low 56 bits. Its top byte is zero if the record ends
// on a multiple of eight, and else 0x80 plus the number of zero bytes that pad it; see FORMAT.md,
// chapter 5.
const (
	wordLength = 1<<56 - 1
	wordPadded = 1 << 63

	// maxLength is the size of the largest record that fits in memory with its padding, and matters
	// where an int has 32 bits.
	maxLength = math.MaxInt - wordSize
)

// lengthWord returns the length word of a record of size bytes. parseLengthWord is its inverse.
func lengthWord(size int) uint64 {
	word := uint64(size)
	if pad := padding(size); pad != 0 {
		word |= wordPadded | uint64(pad)<<56
	}
	return word
}

// padding returns how many zero bytes follow a record of size bytes.
func padding(size int) int { return -size & (wordSize - 1) }

// parseLengthWord returns the sizes that a length word states. It is not ok if no writer wrote it
// so: a reserved bit set, padding that does not complete the record to a multiple of eight, or a
// length of zero. Words without padding whose record needs some are those of etcd 2.x, which did
// not pad.
func parseLengthWord(word uint64) (size int64, pad int, ok bool) {
	size = int64(word & wordLength)
	top := byte(word >> 56)
	if size == 0 {
		return 0, 0, false
	}
	if top == 0 {
		return size, 0, true
	}
	pad = padding(int(size & (wordSize - 1)))
	return size, pad, pad != 0 && top == 0x80|byte(pad)
}

// identity is what the header_crc of every record of a segment starts from, so that a record of
// another segment, another log or another incarnation of this segment does not pass for one of
// this; see FORMAT.md, chapter 6.
func identity(seq uint64, seed uint32) uint32 {
	return walpb.ChecksumWord(walpb.ChecksumWord(0, seq), uint64(seed))
}

// headerSeed goes on from the identity with the place of one frame and its length word. header_crc
// is the sum of the record's own header, continued from here.
func headerSeed(identity uint32, offset int64, word uint64) uint32 {
	return walpb.ChecksumWord(walpb.ChecksumWord(identity, uint64(offset)), word)
}
