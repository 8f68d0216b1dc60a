package frame

import (
	"encoding/binary"
	"math"

	"github.com/stele-wal/stele/walpb"
)

// An Encoder puts records into frames, and appends them to pages. It holds what goes on from one
// frame to the next.
type Encoder struct {
	Plain  bool   // records have no witnesses: neither header_crc nor synced_to
	Claims bool   // records have a synced_to
	Chain  uint32 // the checksum of the data of all records up to here, across segments
	Ident  uint32 // what the header_crc of each record of this segment starts from

	// Synced is the offset before which all of the segment is durable, which the next synced_to
	// says.
	Synced int64

	// claimed is the last sector in which a record of this batch has a synced_to, or -1. The first
	// record that begins in a sector has one, and no other needs one.
	claimed int64

	pages   *Pages
	base    int64  // the offset in the segment of the first of pages
	scratch []byte // holds nothing from one call to the next; kept for its memory
}

// Begin starts a new batch. Its frames go to pages, which begin at the offset base of the segment;
// the first of them begins where everything before is durable.
func (e *Encoder) Begin(pages *Pages, base int64) {
	e.pages, e.base, e.claimed = pages, base, -1
	e.Synced = e.offset()
}

// offset returns where the next frame begins.
func (e *Encoder) offset() int64 { return e.base + int64(len(e.pages.Bytes)) }

// Head appends what every segment begins with: the chain that it continues, the log's metadata, and
// the hard state, so that a reader that begins here has one.
func (e *Encoder) Head(seq uint64, metadata []byte, state walpb.HardState) {
	e.Ident = Identity(seq, e.Chain) // of the head only; then it covers the metadata as well
	e.frame(walpb.TypeCRC, nil, nil)
	e.frame(walpb.TypeMetadata, nil, metadata)
	e.Ident = walpb.Checksum(e.Ident, metadata)
	if !state.IsZero() {
		e.State(state)
	}
}

// Entry appends the record of an entry.
func (e *Encoder) Entry(entry *walpb.Entry) {
	e.scratch = entry.AppendHead(e.scratch[:0])
	e.frame(walpb.TypeEntry, e.scratch, entry.Data)
}

// State appends the record of a hard state.
func (e *Encoder) State(s walpb.HardState) {
	e.scratch = s.Append(e.scratch[:0])
	e.frame(walpb.TypeState, e.scratch, nil)
}

// Snapshot appends the record of a snapshot.
func (e *Encoder) Snapshot(s walpb.Snapshot) {
	e.scratch = s.Append(e.scratch[:0])
	e.frame(walpb.TypeSnapshot, e.scratch, nil)
}

// CRC appends a record of the chain. It says that all before it is durable, and nothing else.
func (e *Encoder) CRC() { e.frame(walpb.TypeCRC, nil, nil) }

// frame appends one frame. Its record's data is first and then second. Both are nil for a record
// without data.
//
// The record's head has the checksum of the data, as a varint, and yet stands before it. So the
// data is copied to where it belongs if that varint has its full length, which 15 of 16 have, and
// summed there, in one go: what is summed is what is written. A shorter one moves the data down.
// The head follows into the room left for it.
func (e *Encoder) frame(t walpb.Type, first, second []byte) {
	dataLen := len(first) + len(second)
	if first == nil && second == nil {
		dataLen = -1
	}
	offset := e.offset()
	r := walpb.Record{Type: t, CRC: math.MaxUint32, HasHeaderCRC: !e.Plain}
	if sector := offset / SectorSize; e.Claims && e.claimed != sector {
		// Once in a sector is enough. Damage ends with a sector, and the reader that searches for
		// what follows finds this record first.
		r.SyncedTo, e.claimed = uint64(e.Synced), sector
	}
	head := r.HeadSize(dataLen)
	e.pages.Grow(WordSize + head + max(dataLen, 0) + WordSize)
	start := len(e.pages.Bytes)
	data := start + WordSize + head
	buf := append(append(e.pages.Bytes[:data], first...), second...)

	e.Chain = walpb.Checksum(e.Chain, buf[data:])
	r.CRC = e.Chain
	if e.Chain < 1<<28 {
		long := buf
		buf = append(buf[:start+WordSize+r.HeadSize(dataLen)], buf[data:]...)
		clear(long[len(buf):]) // see Pages.zeros
	}
	size := len(buf) - start - WordSize
	word := LengthWord(size)
	if r.HasHeaderCRC {
		r.HeaderCRC = r.HeadSum(HeaderSeed(e.Ident, offset, word), dataLen)
	}
	r.AppendHead(binary.LittleEndian.AppendUint64(buf[:start], word), dataLen)
	padded := binary.LittleEndian.AppendUint64(buf, 0)
	e.pages.Bytes = padded[:len(buf)+Padding(size)]
}
