package wal

import (
	"encoding/binary"

	"github.com/stele-wal/stele/walpb"
)

// A batch is what one sync makes durable: frames, in the order in which they were saved. They are
// encoded straight from the caller's values, and written to one segment with one write.
type batch struct {
	number uint64 // one above that of the batch before it
	seg    *openSegment
	// spareName is the name that the file of seg still has until this batch is written, the first
	// in seg. It is empty for every other batch.
	spareName string

	base    int64 // the offset in the segment of content, a multiple of pageSize
	start   int64 // the offset in the segment of the first frame; all before it is durable
	content pages // what the page at base holds before start, and then the frames
	full    bool  // the segment ends with this batch, which may be empty

	must  bool          // holds a call that must be durable; with PlainEtcd it takes no other
	acked []func(error) // called once it is, in the order in which Append appended
}

// end returns the offset in the segment at which the batch ends.
func (b *batch) end() int64 { return b.base + int64(len(b.content.bytes)) }

// empty reports whether the batch holds no frames.
func (b *batch) empty() bool { return b.end() == b.start }

// seal notes how far the segment will reach once the batch is written, and that is the end of the
// batch: no frame is added any more.
func (b *batch) seal() { b.seg.size = max(b.seg.size, toPage(b.end())) }

// mostFrame bounds what a frame takes beside the data of its record.
const mostFrame = wordSize + maxHead + wordSize

// An encoder puts records into frames. It holds what goes on from one frame to the next.
type encoder struct {
	plain  bool   // records have no witnesses: neither header_crc nor synced_to
	claims bool   // records have a synced_to
	chain  uint32 // the checksum of the data of all records up to here, across segments
	ident  uint32 // what the header_crc of each record of this segment starts from

	// claimed is the last sector in which a record of this batch has a synced_to, or -1. The first
	// record that begins in a sector has one, and no other needs one.
	claimed int64

	scratch []byte // holds nothing from one call to the next; kept for its memory
}

// begin starts a new batch, whose records claim more.
func (e *encoder) begin() { e.claimed = -1 }

// head puts what every segment begins with into its first batch: the chain that it continues, the
// log's metadata, and the hard state, so that a reader that begins here has one.
func (e *encoder) head(b *batch, seq uint64, metadata []byte, state walpb.HardState) {
	e.ident = identity(seq, e.chain) // of the head only; then it covers the metadata as well
	e.frame(b, walpb.TypeCRC, nil, nil)
	e.frame(b, walpb.TypeMetadata, nil, metadata)
	e.ident = walpb.Checksum(e.ident, metadata)
	if !state.IsZero() {
		e.state(b, state)
	}
}

func (e *encoder) entry(b *batch, entry *walpb.Entry) {
	e.scratch = entry.AppendHead(e.scratch[:0])
	e.frame(b, walpb.TypeEntry, e.scratch, entry.Data)
}

func (e *encoder) state(b *batch, s walpb.HardState) {
	e.scratch = s.Append(e.scratch[:0])
	e.frame(b, walpb.TypeState, e.scratch, nil)
}

func (e *encoder) snapshot(b *batch, s walpb.Snapshot) {
	e.scratch = s.Append(e.scratch[:0])
	e.frame(b, walpb.TypeSnapshot, e.scratch, nil)
}

// frame appends one frame. Its record's data is first and then second. Both are nil for a record
// without data.
//
// The data is summed before anything is written, because its checksum precedes it and is a varint,
// of no fixed size. Then the frame is written from its first byte to its last.
func (e *encoder) frame(b *batch, t walpb.Type, first, second []byte) {
	dataLen := len(first) + len(second)
	if first == nil && second == nil {
		dataLen = -1
	}
	e.chain = walpb.Checksum(walpb.Checksum(e.chain, first), second)
	offset := b.end()
	r := walpb.Record{Type: t, CRC: e.chain, HasHeaderCRC: !e.plain}
	if sector := offset / sectorSize; e.claims && e.claimed != sector {
		// Once in a sector is enough. Damage ends with a sector, and the reader that searches for
		// what follows finds this record first.
		r.SyncedTo, e.claimed = uint64(b.start), sector
		if sabotaged(earlyWitness) {
			r.SyncedTo = uint64(offset)
		}
	}
	size := r.HeadSize(dataLen) + max(dataLen, 0)
	word := lengthWord(size)
	if r.HasHeaderCRC {
		r.HeaderCRC = r.HeadSum(headerSeed(e.ident, offset, word), dataLen)
	}
	b.content.grow(wordSize + size + padding(size))
	buf := binary.LittleEndian.AppendUint64(b.content.bytes, word)
	buf = r.AppendHead(buf, dataLen)
	buf = append(buf, first...)
	buf = append(buf, second...)
	b.content.bytes = append(buf, zeros[:padding(size)]...)
}

// zeros pads frames.
var zeros [wordSize]byte
