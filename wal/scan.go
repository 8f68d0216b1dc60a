package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// scanner reads the frames of the segments of one log in order, and says what the log's end is.
// Records, Check, Open and Repair all read with it, so that what a log means is decided once.
type scanner struct {
	segments []openSegment
	preceded bool // by segments that are not to be read
	mark     mark // which the log reaches, or its end is lost
	window   window
	resume   bool // go on behind damage, wherever a record vouches for itself

	// What the records so far add up to, as far as frames are concerned.
	chain    uint32
	seeded   bool // chain is known
	metadata []byte
	named    bool   // metadata is known
	ident    uint32 // the identity of the current segment
	ours     bool   // the last good record carried a header_crc
	unpadded bool   // the segment has a frame that an etcd 2 wrote, which did not pad
	entry    place  // of the last entry; none was read if it has no segment
	state    place  // of the last hard state

	end end
}

// end is where a log stops being good, and what that means.
type end struct {
	segment int // its position in scanner.segments
	offset  int64
	chain   uint32
	ident   uint32
	head    bool // offset is in the head
	state   bool // the segment holds a hard state
	verdict Verdict
	because string
	kind    Kind
	detail  string
	rest    int64 // where the last byte that is not zero ends, at or above offset
	before  *end  // that of the segment before
}

// from returns where the bytes begin that Open and Repair remove: an unborn segment goes whole.
func (e *end) from() int64 {
	if e.verdict == Unborn {
		return 0
	}
	return e.offset
}

// fault is why a frame is not good.
type fault struct {
	kind   Kind
	detail string
}

// newScanner returns a scanner of the segments of a listing, which are open.
func newScanner(l *listing) *scanner {
	return &scanner{segments: l.segments, preceded: l.preceded, mark: l.mark}
}

// records yields every good record, then, if the log's end is not a legal one, an error: a
// *CorruptError, or what the file system said. The data of a record is valid until the next is
// asked for. A log that goes on behind missing segments yields the error at the gap, and, if it is
// asked on, the records behind it. Once records has returned because the log ended, s.end tells
// how.
func (s *scanner) records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for i := range s.segments {
			if !s.segment(i, yield) {
				return
			}
		}
	}
}

// segment yields the records of one segment. It reports whether to go on with the next.
func (s *scanner) segment(i int, yield func(Record, error) bool) bool {
	seg := &s.segments[i]
	s.window.reset(seg.file, seg.size)
	var before *end
	if i > 0 {
		e := s.end
		e.before, before = nil, &e
	}
	s.end = end{segment: i, before: before}
	var (
		offset int64
		count  int
		again  int64 = -1 // where a frame that was not good was read a second time
		record       = Record{Segment: seg.name}
	)
	for {
		size, bad, err := s.frame(seg, offset, count, &record)
		if err != nil {
			yield(Record{}, fmt.Errorf("wal: offset %d: %w", offset, err))
			s.end.verdict = Unreadable
			return false
		}
		if size > 0 {
			s.end.state = s.end.state || record.Type == walpb.TypeState
			if !yield(record, nil) {
				return false
			}
			offset += size
			count++
			continue
		}
		cerr, err := s.stop(seg, offset, count, bad)
		if err != nil {
			yield(Record{}, fmt.Errorf("wal: %w", err))
			return false
		}
		if cerr == nil {
			return true
		}
		if again != offset {
			// A log that is being written may have gained the frame, and what proves it durable,
			// since it was read.
			again = offset
			s.window.reset(seg.file, seg.size)
			continue
		}
		if !yield(Record{}, cerr) {
			return false
		}
		if cerr.Kind == MissingSegment {
			s.seeded, s.ours, s.entry, s.state = false, false, place{}, place{}
			return true
		}
		if !s.resume {
			return false
		}
		s.ident = s.end.ident
		next, chain, ok, err := newSeeker(seg, s.ident, offset, s.unpadded).resync(offset)
		if err != nil {
			yield(Record{}, fmt.Errorf("wal: %w", err))
			return false
		}
		s.chain, s.seeded = chain, ok
		if !ok {
			return true
		}
		offset, count = next, max(count, 2)
	}
}

// frame reads the frame at an offset of the current segment into r and returns its size. If there
// is no good one, the size is 0 and bad says why; its kind is 0 at the very end of the file. count
// is how many records the segment has so far.
func (s *scanner) frame(seg *openSegment, offset int64, count int, r *Record) (size int64, bad fault, err error) {
	left := s.window.size - offset
	if left == 0 {
		return 0, fault{}, nil
	}
	if left < wordSize {
		return 0, fault{ShortFile, fmt.Sprintf("%d bytes", left)}, nil
	}
	b, err := s.window.at(offset, wordSize)
	if err != nil {
		return s.shrunk(err)
	}
	word := binary.LittleEndian.Uint64(b)
	if word == 0 {
		return 0, fault{kind: ZeroLength}, nil
	}
	length, pad, ok := parseLengthWord(word)
	if !ok {
		return 0, fault{BadLength, fmt.Sprintf("length word %016x", word)}, nil
	}
	if length > left-wordSize-int64(pad) {
		return 0, fault{BadLength, fmt.Sprintf("a record of %d bytes, but the file ends after %d", length, left-wordSize)}, nil
	}
	if length > maxLength {
		return 0, fault{BadLength, fmt.Sprintf("a record of %d bytes, more than this machine can address", length)}, nil
	}
	if b, err = s.window.at(offset+wordSize, int(length)+pad); err != nil {
		return s.shrunk(err)
	}
	for _, c := range b[length:] {
		if c != 0 {
			return 0, fault{BadPadding, fmt.Sprintf("% x", b[length:])}, nil
		}
	}
	r.Offset = offset
	r.Size = wordSize + length + int64(pad)
	if bad := s.record(seg, word, count, b[:length:length], r); bad.kind != 0 {
		return 0, bad, nil
	}
	return r.Size, fault{}, nil
}

// shrunk turns the error of a read behind the end of a file into the end of that file: a log that
// is being written was cut while it was read.
func (s *scanner) shrunk(err error) (int64, fault, error) {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fault{ShortFile, "the file became shorter while it was read"}, nil
	}
	return 0, fault{}, err
}

// record decodes the record of a frame, checks all that is known about it, and takes it into the
// chain.
func (s *scanner) record(seg *openSegment, word uint64, count int, b []byte, r *Record) (bad fault) {
	if err := r.Record.Unmarshal(b); err != nil {
		return fault{BadRecord, err.Error()}
	}
	ident := s.ident
	if r.Offset == 0 {
		ident = identity(seg.seq, r.CRC)
	}
	if r.Vouched && !sabotaged(noHeaderCRC) {
		sum, err := headSum(&r.Record, headerSeed(ident, r.Offset, word), b)
		if err != nil || sum != r.HeaderCRC {
			return fault{BadHeader, fmt.Sprintf("stored %08x, computed %08x", r.HeaderCRC, sum)}
		}
	}
	if r.Type == walpb.TypeCRC {
		if r.Data != nil {
			return fault{BadRecord, "a checksum record with data"}
		}
		if s.seeded && r.CRC != s.chain {
			kind := BadChecksum
			if r.Offset == 0 {
				kind = BadSeed
			}
			return fault{kind, fmt.Sprintf("stored %08x, computed %08x", r.CRC, s.chain)}
		}
	} else if s.seeded {
		if sum := walpb.Checksum(s.chain, r.Data); sum != r.CRC {
			return fault{BadChecksum, fmt.Sprintf("stored %08x, computed %08x", r.CRC, sum)}
		}
	}
	switch {
	case r.Type < walpb.TypeMetadata || r.Type > walpb.TypeSnapshot:
		return fault{Contradiction, "record of unknown type " + r.Type.String()}
	case count == 0 && r.Type != walpb.TypeCRC:
		return fault{BadHead, "the first record is of type " + r.Type.String() + ", not crc"}
	case count == 1 && r.Type != walpb.TypeMetadata:
		return fault{BadHead, "the second record is of type " + r.Type.String() + ", not metadata"}
	case count == 2 && seg.seq == 0 && !emptySnapshot(r):
		return fault{BadHead, "the third record of the first segment is not that of the empty snapshot"}
	case r.Type == walpb.TypeMetadata && s.named && !bytes.Equal(r.Data, s.metadata):
		return fault{Contradiction, "metadata differs from that of the segments before"}
	case s.mark.contradicts(s.metadata, seg.seq, r):
		return fault{Contradiction, s.mark.String()}
	case r.Type == walpb.TypeMetadata && count == 1:
		s.metadata, s.named = append(s.metadata[:0], r.Data...), true
		ident = walpb.Checksum(ident, r.Data)
	case r.Type == walpb.TypeMetadata && count > 1:
		return fault{Contradiction, "metadata outside the head of a segment"}
	}
	s.ident = ident
	s.chain, s.seeded = r.CRC, true
	s.ours = r.Vouched
	s.unpadded = s.unpadded && r.Offset > 0 || r.Size%wordSize != 0
	switch r.Type {
	case walpb.TypeEntry:
		s.entry = place{seg.name, r.Offset}
	case walpb.TypeState:
		s.state = place{seg.name, r.Offset}
	}
	return fault{}
}

// headSum returns what the header_crc of a decoded record must be. Where the record has no fields
// but ours, which is nearly always, the fields are at hand, and need not be looked for in its bytes
// again.
func headSum(r *walpb.Record, seed uint32, b []byte) (uint32, error) {
	if r.Size() != len(b) {
		return walpb.HeadSum(seed, b)
	}
	dataLen := len(r.Data)
	if r.Data == nil {
		dataLen = -1
	}
	return r.HeadSum(seed, dataLen), nil
}

// stop judges the place where the good frames of a segment end. It returns the error that the
// records end with, or nil if the segment's end is a legal one. count is how many records the
// segment has before it.
func (s *scanner) stop(seg *openSegment, offset int64, count int, bad fault) (*CorruptError, error) {
	i := s.end.segment
	last := i == len(s.segments)-1
	head := count < headRecords(seg.seq)
	ident := s.ident
	if count < 2 {
		// Take the head for the one that ought to be there, so that records behind it can be told
		// from strangers.
		ident = walpb.Checksum(identity(seg.seq, s.chain), s.metadata)
	}
	e := evidenceOf(noFrame, inLast)
	e.head, e.prior, e.ours = answerTo(head), answerTo(i > 0 || s.preceded), answerTo(s.ours)
	if bad.kind == Contradiction {
		e.stop = contradicts
	}
	k := newSeeker(seg, ident, offset, s.unpadded)
	if last {
		var err error
		if k.before, err = s.before(); err != nil {
			return nil, err
		}
	}
	found, err := k.search(offset, last, s.ours)
	if err != nil {
		return nil, err
	}
	e.rest, e.proof = answerTo(found.rest > offset), found.proof
	if last && e.proof == noProof && e.rest == yes {
		if e.proof, err = k.unlike(offset, s.chain); err != nil {
			return nil, err
		}
	}
	at, kind, detail := seg.name, bad.kind, bad.detail
	if last && e.proof == noProof && s.mark.beyond(s.metadata, seg.seq, offset) {
		e.proof = marked
		if e.rest == no {
			kind, detail = LostEnd, s.mark.String()
		}
	}
	if sabotaged(zeroIsTheEnd) && bad.kind == ZeroLength {
		e.rest, e.proof = no, noProof
	}
	if !last {
		next := &s.segments[i+1]
		e.where = inEarlier
		switch seed, ok, err := readSeed(next); {
		case err != nil:
			return nil, err
		case next.seq != seg.seq+1 && e.rest == no:
			e.where = inGap
			at, kind = next.name, MissingSegment
			detail = fmt.Sprintf("%016x to %016x", seg.seq+1, next.seq-1)
		case ok && seed != s.chain && e.rest == no:
			e.seed = differs
			kind = BadSeed
			detail = fmt.Sprintf("it ends with checksum %08x, %s begins with %08x", s.chain, next.name, seed)
		case ok && seed == s.chain:
			e.seed = fits
		}
	}
	verdict, because := decide(e)
	s.end = end{segment: i, offset: offset, chain: s.chain, ident: ident, head: head, state: s.end.state,
		verdict: verdict, because: because, kind: kind, detail: detail, rest: found.rest, before: s.end.before}
	if !verdict.bad() {
		return nil, nil
	}
	if e.proof == witnessed || e.proof == linked {
		because += fmt.Sprintf(", at %d", found.at)
	}
	if kind == MissingSegment {
		offset = 0
	}
	return &CorruptError{Segment: at, Offset: offset, Kind: kind, Detail: detail, Because: because}, nil
}

// before returns what is known of the log up to where it was read.
func (s *scanner) before() (b before, err error) {
	begins := !s.preceded && s.segments[0].seq == 0 // without entry and hard state
	b.entry, b.state = begins && s.entry.segment == "", begins && s.state.segment == ""
	var e walpb.Entry
	if err := s.again(s.entry, e.UnmarshalHead, &b.entry); err != nil {
		return b, err
	}
	b.last = e.Index
	return b, s.again(s.state, b.hard.Unmarshal, &b.state)
}

// again decodes a record that was read, and sets whether it could, if there is one.
func (s *scanner) again(at place, unmarshal func([]byte) error, ok *bool) error {
	if at.segment == "" {
		return nil
	}
	i := s.end.segment
	for s.segments[i].name != at.segment {
		i--
	}
	k := newSeeker(&s.segments[i], 0, at.offset, s.unpadded)
	h, whole, err := k.frame(&k.links, at.offset)
	if err != nil || !whole {
		return err
	}
	*ok, err = k.message(&h, unmarshal)
	return err
}

// headRecords returns of how many records the head of a segment is.
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
	return r.Type == walpb.TypeSnapshot && unmarshal(r, &s) == nil && s.Index == 0 && s.Term == 0
}

// readSeed returns the checksum that a segment says it goes on from. It is not ok if the segment's
// first frame is not whole, which the scan of that segment will find.
func readSeed(seg *openSegment) (seed uint32, ok bool, err error) {
	k := newSeeker(seg, 0, 0, false)
	k.heads.chunk = pageSize // there is one of these for each segment, and it takes only the first frame
	f, ok, err := k.frame(&k.heads, 0)
	if err != nil || !ok || f.Type != walpb.TypeCRC {
		return 0, false, err
	}
	return f.CRC, true, nil
}

// window is a part of a file in memory, which moves forward.
type window struct {
	file   fileutil.File
	size   int64
	offset int64 // of buf[0]
	buf    []byte
	chunk  int // how much to read at once; 0 is windowSize
}

// windowSize is how much is read at once: enough to make system calls cheap, and within a
// processor's cache.
const windowSize = 256 << 10

// reset makes the window one of another file, and keeps its memory.
func (w *window) reset(f fileutil.File, size int64) {
	w.file, w.size, w.offset, w.buf = f, size, 0, w.buf[:0]
}

// at returns the n bytes at an offset, which stay valid until the next call. The caller has
// compared them with the size of the file. The error is io.ErrUnexpectedEOF if the file is shorter
// now.
func (w *window) at(offset int64, n int) ([]byte, error) {
	if from := offset - w.offset; from >= 0 && from+int64(n) <= int64(len(w.buf)) {
		return w.buf[from : from+int64(n)], nil
	}
	if err := w.move(offset, n); err != nil {
		return nil, err
	}
	return w.buf[:n], nil
}

// move makes offset the window's first byte, and reads at least n bytes.
func (w *window) move(offset int64, n int) error {
	chunk := w.chunk
	if chunk == 0 {
		chunk = windowSize
	}
	want := int(min(int64(max(n, chunk)), w.size-offset))
	kept := 0
	if from := offset - w.offset; from >= 0 && from < int64(len(w.buf)) {
		kept = copy(w.buf, w.buf[from:])
	}
	if cap(w.buf) < want {
		// Segments are of different sizes: not a new one for each that is a little larger.
		room := max(want, min(2*cap(w.buf), chunk))
		w.buf = append(make([]byte, 0, room), w.buf[:kept]...)
	}
	w.buf, w.offset = w.buf[:want], offset
	got, err := w.file.ReadAt(w.buf[kept:], offset+int64(kept))
	w.buf = w.buf[:kept+got]
	if kept+got >= n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
