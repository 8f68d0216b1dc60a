package wal

import (
	"fmt"

	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/walpb"
)

// frames reads the frames of one segment, in order, and verifies them by what the segment itself
// says: its number, and the checksum and metadata in its head. It knows of no other segment, so the
// segments of a log can be read in any order, or at once. What they say of each other is the
// scanner's.
type frames struct {
	ending // of the good frames so far
	seg    *openSegment
	window frame.Window
	reread int64 // the place that was read a second time; -1 if none was
}

// ending is a place where good frames end, and what they add up to. At the start of a segment,
// chain, ours and unpadded are what the segment before ended with.
type ending struct {
	offset   int64
	count    int    // of the records in the segment up to here
	chain    uint32 // the checksum here
	seeded   bool   // chain continues from a checksum that the segment states
	ident    uint32 // the identity of the segment; it is complete after two records
	state    bool   // the segment holds a hard state
	ours     bool   // the last record carries a header_crc
	unpadded bool   // the segment has a frame that an etcd 2 wrote, which did not pad
}

// fault is why a frame is not good.
type fault struct {
	kind   Kind // 0 at the end of the file
	detail string
}

// begin goes to the start of a segment, of which w is a window.
func (f *frames) begin(seg *openSegment, w frame.Window) {
	f.seg, f.window = seg, w
	f.ending = ending{chain: f.chain, ours: f.ours, unpadded: f.unpadded}
	f.reread = -1
}

// again makes the frame at hand be read anew, once: a log that is being written may have gained it,
// and what proves it durable, since it was read. It reports false the second time.
func (f *frames) again() bool {
	if f.reread == f.offset {
		return false
	}
	f.reread = f.offset
	f.window.Reset(f.seg.file, f.seg.size)
	return true
}

// resume goes on after damage, where a frame ends that was found by a search, and the chain is
// known.
func (f *frames) resume(offset int64, chain uint32) {
	f.offset, f.chain, f.seeded = offset, chain, true
	f.count = max(f.count, 2)
}

// read reads the frame at hand into r. If it is not good, why says so. The data of r is valid until
// the next read.
func (f *frames) read(r *Record) (good bool, why fault, err error) {
	word, b, size, bad, err := frame.Read(&f.window, f.offset, &r.Record)
	if err != nil || bad.Reason != frame.None {
		return false, fault{kinds[bad.Reason], bad.Detail}, err
	}
	r.Offset, r.Size = f.offset, size
	why = f.verify(word, b, r)
	return why.kind == 0, why, nil
}

// kinds are those of the faults of a frame.
var kinds = [...]Kind{frame.AtEnd: 0, frame.ZeroLength: ZeroLength, frame.BadLength: BadLength, frame.BadPadding: BadPadding,
	frame.BadRecord: BadRecord, frame.ShortFile: ShortFile}

// verify checks what its segment says of a record that was decoded from b: the checksums first,
// then that the record may be there.
func (f *frames) verify(word uint64, b []byte, r *Record) fault {
	if r.HasHeaderCRC && !sabotaged(noHeaderCRC) {
		sum, err := frame.HeadSum(&r.Record, frame.HeaderSeed(f.identity(r), r.Offset, word), b)
		if err != nil || sum != r.HeaderCRC {
			return fault{BadHeader, fmt.Sprintf("stored %08x, computed %08x", r.HeaderCRC, sum)}
		}
	}
	if r.Type == walpb.TypeCRC && r.Data != nil {
		return fault{BadRecord, "a checksum record with data"}
	}
	if f.seeded {
		sum := f.chain
		if r.Type != walpb.TypeCRC {
			sum = walpb.Checksum(sum, r.Data)
		}
		if sum != r.CRC {
			return fault{BadChecksum, fmt.Sprintf("stored %08x, computed %08x", r.CRC, sum)}
		}
	}
	switch {
	case r.Type < walpb.TypeMetadata || r.Type > walpb.TypeSnapshot:
		return fault{Contradiction, "record of unknown type " + r.Type.String()}
	case f.count == 0 && r.Type != walpb.TypeCRC:
		return fault{BadHead, "the first record is of type " + r.Type.String() + ", not crc"}
	case f.count == 1 && r.Type != walpb.TypeMetadata:
		return fault{BadHead, "the second record is of type " + r.Type.String() + ", not metadata"}
	case f.count == 2 && f.seg.seq == 0 && !emptySnapshot(r):
		return fault{BadHead, "the third record of the first segment is not that of the empty snapshot"}
	case f.count > 1 && r.Type == walpb.TypeMetadata:
		return fault{Contradiction, "metadata outside the head of a segment"}
	}
	return fault{}
}

// take goes on to the next frame. r is a record that read called good.
func (f *frames) take(r *Record) {
	f.ident = f.identity(r)
	if f.count == 1 {
		f.ident = walpb.Checksum(f.ident, r.Data)
	}
	f.offset += r.Size
	f.count++
	f.chain, f.seeded = r.CRC, true
	f.ours = r.HasHeaderCRC
	f.state = f.state || r.Type == walpb.TypeState
	f.unpadded = f.unpadded && r.Offset > 0 || r.Size%frame.WordSize != 0
}

// identity returns what the header_crc of the record at hand starts from.
func (f *frames) identity(r *Record) uint32 {
	if r.Offset == 0 {
		return frame.Identity(f.seg.seq, r.CRC)
	}
	return f.ident
}

// headRecords returns the number of records in the head of a segment.
func headRecords(seq uint64) int {
	if seq == 0 {
		return 3 // with the record of the empty snapshot
	}
	return 2
}

// emptySnapshot reports whether a record is that of the empty snapshot, from which a log can be
// replayed when it has no other.
func emptySnapshot(r *Record) bool {
	var s walpb.Snapshot
	return r.Type == walpb.TypeSnapshot && r.UnmarshalData(&s) == nil && s.Index == 0 && s.Term == 0
}

// readSeed returns the checksum that a segment says it goes on from, of which w is a window. It is
// not ok if the segment's first frame is not whole, which the scan of that segment will find.
func readSeed(w *frame.Window) (seed uint32, ok bool, err error) {
	h, ok, err := frame.ReadHead(w, 0)
	if err != nil || !ok || h.Type != walpb.TypeCRC {
		return 0, false, err
	}
	return h.CRC, true, nil
}
