package wal

import (
	"encoding/binary"

	"github.com/stele-wal/stele/walpb"
)

// A batch is what one sync will make durable: frames in whole pages, in the order in which they
// were saved. It is encoded straight from the caller's values, and is written to its segment with
// one write.
type batch struct {
	number uint64
	seg    *openSegment
	// spareName is the name that the file of seg still has until this batch is written, the first
	// in seg. It is empty for every other batch.
	spareName string

	base    int64 // the offset in the segment of content, a multiple of pageSize
	start   int64 // the offset in the segment of the first frame; all before it is durable
	content pages // what the page at base holds before start, and then the frames
	full    bool  // the segment is cut after this batch; only such a batch may be empty

	must  bool          // a caller wants it durable
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

// encoder puts records into frames. It carries what goes on from one batch to the next.
type encoder struct {
	plain   bool // leave no witnesses
	claims  bool // say what has been synced
	chain   uint32
	ident   uint32
	claimed int64 // the sector in which the last claim of this batch stands, or -1
	scratch []byte
}

// begin starts a new batch.
func (e *encoder) begin() { e.claimed = -1 }

// head puts what every segment begins with into the first batch of a segment.
func (e *encoder) head(b *batch, seq uint64, metadata []byte, state walpb.HardState) {
	e.ident = identity(seq, e.chain)
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

// frame appends one frame whose data is the two parts, one behind the other; both nil for a record
// without data.
//
// The data is summed first, because the sum stands before it and has no fixed size; the frame is
// then written from its first byte to its last.
func (e *encoder) frame(b *batch, t walpb.Type, first, second []byte) {
	dataLen := len(first) + len(second)
	if first == nil && second == nil {
		dataLen = -1
	}
	e.chain = walpb.Checksum(walpb.Checksum(e.chain, first), second)
	offset := b.end()
	r := walpb.Record{Type: t, CRC: e.chain, Vouched: !e.plain}
	if sector := offset / sectorSize; e.claims && e.claimed != sector {
		// Once in a sector is enough for a reader behind damage to find it, wherever the damage
		// ends.
		r.SyncedTo, e.claimed = uint64(b.start), sector
		if sabotaged(earlyWitness) {
			r.SyncedTo = uint64(offset)
		}
	}
	size := r.HeadSize(dataLen) + max(dataLen, 0)
	word := lengthWord(size)
	if r.Vouched {
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
