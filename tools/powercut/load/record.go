// Package load is what the rig does with a log and its snapshots, and what it knows must be there
// afterwards.
//
// A [History] is the life of one store, a log and the snapshots beside it, through several crashes.
// [History.Live] is one life of it: it opens the store, saves, overwrites, snapshots, installs,
// releases, closes and opens again, and at each acknowledgement writes a [Mark], which says what is
// owed from then on. [Recover] opens what a crash has left, in the steps of a program that starts
// again, and compares it with what is owed.
//
// What is owed is kept and judged by package oracle, which shares no code with package wal.
package load

import (
	"encoding/binary"

	"github.com/stele-wal/stele/walpb"
)

// Marker is in every entry's data, over and over: a disk can tell by it which writes are those of a
// log's entries.
var Marker = []byte("\xa7stele-entry\xa7")

// entry returns the entry of an index and a term. There is only one, so that what a crash took and
// is sent again has the same bytes.
func entry(index, term uint64) walpb.Entry {
	h := mix(index, term)
	var size uint64
	switch h >> 8 % 16 {
	case 0:
		// No data at all, as a new leader's first entry.
		return walpb.Entry{Index: index, Term: term}
	case 1, 2:
		size = 3000 + h>>16%9000
	case 3, 4, 5:
		size = 600 + h>>16%2400
	default:
		size = h >> 16 % 600
	}
	return walpb.Entry{Index: index, Term: term, Data: fill(size, h)}
}

// fill returns bytes in which Marker comes again and again.
func fill(size, h uint64) []byte {
	b := make([]byte, 0, size+64)
	for uint64(len(b)) < size {
		b = append(b, Marker...)
		b = binary.LittleEndian.AppendUint64(b, h)
		h = mix(h, uint64(len(b)))
	}
	return b[:size]
}

// mix returns a number that has little to do with either.
func mix(a, b uint64) uint64 {
	h := (a*0x9e3779b97f4a7c15 ^ b*0xbf58476d1ce4e5b9) * 0x94d049bb133111eb
	h ^= h >> 31
	h *= 0x5851f42d4c957f2d
	return h ^ h>>29
}
