package wal

import (
	"encoding/binary"
	"errors"
	"io"
	"iter"

	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/walpb"
)

// seeker looks at what stands after the place where the good frames of a segment end. No length
// there can be trusted, so it tries every place at which a frame may begin, and believes what
// proves itself: a record whose header_crc is right for its place, or two frames of which the chain
// links the second to the first.
type seeker struct {
	blocks frame.Window // moves from the place to the end of the file
	heads  frame.Window // at the frame that is being looked at
	links  frame.Window // at the frame that one leads to, which may be anywhere
	sums   sums
	size   int64
	ident  uint32
	step   int64 // between places at which a frame may begin
	before before

	// Of the candidates that are being looked through:
	skip int64 // none begins before this
	rest int64 // where the last byte that is not zero ends, as far as was read
	err  error // of the file system, which ended them
}

// before is what is known of the log before the place. It tells that something is missing between
// that and what is found.
type before struct {
	entry bool   // the last entry is known
	last  uint64 // its index
	state bool   // the last hard state is known
	hard  walpb.HardState
}

// found is what stands after a place.
type found struct {
	// rest is where the last byte that is not zero ends; the place itself if all are zero. With a
	// witness it is a lower bound.
	rest  int64
	proof proof
	at    int64 // the offset of the record that is the proof
}

// newSeeker looks at every byte if frames are unpadded, as etcd 2 wrote them: one of eight of those
// begins where a padded one may.
func newSeeker(seg *openSegment, ident uint32, from int64, unpadded bool) *seeker {
	s := &seeker{size: seg.size, ident: ident, step: frame.WordSize}
	if unpadded || from%frame.WordSize != 0 {
		s.step = 1
	}
	s.links.Chunk, s.sums.window.Chunk, s.sums.from = frame.PageSize, sumStep, from
	for _, w := range []*frame.Window{&s.blocks, &s.heads, &s.links, &s.sums.window} {
		w.Reset(seg.file, seg.size)
	}
	return s
}

// extent returns where a byte ends that is not zero, of those from a place on; the place itself if
// all are zero.
func (s *seeker) extent(from int64) (int64, error) {
	for offset, block := range s.eachBlock(from) {
		if n := frame.NonZero(block); n > 0 {
			return offset + int64(n), nil
		}
	}
	return from, s.err
}

// search looks in the last segment for a proof that a place had been durable. chain is that of the
// records before it; ours says that the last of these is of a writer that leaves witnesses.
func (s *seeker) search(from int64, ours bool, chain uint32) (f found, err error) {
	var runs runs
	for h := range s.candidates(from) {
		switch {
		case h.HasHeaderCRC && h.Sum(s.ident) == h.HeaderCRC:
			if int64(h.SyncedTo) > from {
				return found{s.rest, witnessed, h.Offset}, nil
			}
			s.skip = max(s.skip, h.Next) // that is data, whatever it looks like
		case !h.HasHeaderCRC:
			later, end, err := s.run(h)
			if err != nil {
				return f, err
			}
			runs.take(&h, later, end)
			if h.Offset == from {
				// Its two lengths agree, so it is what was written here, though not all of it is
				// there.
				end = max(end, h.Next)
			}
			s.skip = max(s.skip, end)
		}
	}
	f = found{rest: s.rest, proof: noProof}
	switch {
	case s.err != nil:
		return f, s.err
	case runs.prove(s.rest, ours):
		f.proof, f.at = linked, runs.at
	case f.rest > from:
		f.proof, err = s.unlike(from, chain)
	}
	return f, err
}

// runs keeps, of the runs of linked frames that were found, the last that is of more than one
// batch.
type runs struct {
	at, end int64 // where it begins and ends; none was found if end is 0
	after   int64 // where the last frame ends that stands after it and is not of it
}

// take takes the next run, which begins with h and ends at end, or the frame h alone if end is 0.
func (r *runs) take(h *frame.Head, later bool, end int64) {
	if later {
		*r = runs{at: h.Offset, end: end}
	} else {
		r.after = max(r.after, h.Next, end)
	}
}

// prove reports whether the run is a proof, where the bytes that are not zero end at rest.
//
// Linked frames go on to the end of what is written, unless a crash tore the last batch. If they do
// not, and other frames do, they may be a value that holds a piece of a log. Where we write, plain
// frames are either what an etcd has appended since, which then go on to the end, or bytes of
// a caller's data.
func (r *runs) prove(rest int64, ours bool) bool {
	return r.end > 0 && (r.end >= rest || !ours && r.after < rest)
}

// resync returns the first place after from at which good frames begin again, and the chain there.
func (s *seeker) resync(from int64) (next int64, chain uint32, ok bool, err error) {
	for h := range s.candidates(from) {
		good := h.HasHeaderCRC && h.Sum(s.ident) == h.HeaderCRC
		if !h.HasHeaderCRC {
			if _, good, err = s.link(&h); err != nil {
				return 0, 0, false, err
			}
		}
		if good {
			return h.Next, h.CRC, true, nil
		}
	}
	return 0, 0, false, s.err
}

// candidates yields, from a place on, whatever may be the head of a frame. The loop may raise
// s.skip. Once all were seen s.err says whether the file could be read.
func (s *seeker) candidates(from int64) iter.Seq[frame.Head] {
	return func(yield func(frame.Head) bool) {
		s.skip, s.rest = from, from
		for offset, block := range s.eachBlock(from) {
			n := int64(frame.NonZero(block))
			if n == 0 {
				continue
			}
			s.rest = offset + n
			for i := max(0, s.skip-offset); i < n; i = max(i+s.step, s.skip-offset) {
				if !plausible(block[i:]) {
					continue
				}
				h, ok, err := frame.ReadHead(&s.heads, offset+i)
				if err != nil {
					s.err = err
					return
				}
				if ok && !yield(h) {
					return
				}
			}
		}
	}
}

// eachBlock yields the bytes from an offset to the end of the file, in order, but for holes. Once
// it has, s.err says whether the file could be read.
func (s *seeker) eachBlock(from int64) iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		for offset := from; offset < s.size; {
			next, err := s.blocks.NextData(offset)
			if err != nil {
				s.err = err
				return
			}
			// Stay in step: a frame begins a multiple of a word after the place, wherever the data
			// begins.
			offset += (max(next, offset) - offset) / frame.WordSize * frame.WordSize
			if offset >= s.size {
				return
			}
			n := int(min(frame.WindowSize, s.size-offset))
			block, err := s.blocks.At(offset, n)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return // the file became shorter while it was read
			}
			if err != nil {
				s.err = err
				return
			}
			if !yield(offset, block) {
				return
			}
			offset += int64(n)
		}
	}
}

const recordBegins = 0x08 // the tag of type

// plausible reports, from what of it is at hand, whether a frame may begin with b. It is there to
// be fast.
func plausible(b []byte) bool {
	if len(b) > frame.WordSize && b[frame.WordSize] != recordBegins {
		return false
	}
	return len(b) < frame.WordSize || binary.LittleEndian.Uint64(b) != 0
}

// run follows the chain from one plain frame to the next. It returns whether the frames are of more
// than one batch, and where the last that is linked ends, or 0.
func (s *seeker) run(h frame.Head) (later bool, end int64, err error) {
	c := calls{before: s.before, first: true}
	for ; ; c.first = false {
		proof, err := c.next(s, &h)
		if err != nil {
			return later, end, err
		}
		later = later || proof
		next, ok, err := s.link(&h)
		if err != nil || !ok {
			return later, end, err
		}
		h, end = next, next.Next
	}
}

// calls tells from consecutive records of an etcd's where one of its calls ended that it had synced
// before it wrote the next.
//
// etcd syncs at the end of every call that writes an entry or a snapshot record. A call writes one
// snapshot record, or entries and then at most one hard state. So once an entry or a snapshot
// record is followed by a record that cannot be of the same call, all before it had been synced.
//
// The entry may also be one that is not there, but was: if entries follow that leave a gap after
// the last that is known, or if a hard state commits more, then what is missing was written before,
// in a call that had ended.
//
// etcd also syncs a hard state of another term or vote.
type calls struct {
	before before

	first bool // of the records: nothing covers its data
	entry bool // there was an entry
	state bool // there was a hard state
	over  bool // the call that wrote an entry or a snapshot record is over
	// beyond says that a call is over that wrote an entry which is not there, unless a snapshot
	// record is next: see history.Owes.
	beyond bool
}

// next takes the next record, and reports whether it proves that all before it had been synced.
func (c *calls) next(s *seeker, h *frame.Head) (proof bool, err error) {
	proof = c.over || c.entry && h.Type == walpb.TypeSnapshot || c.beyond && h.Type != walpb.TypeSnapshot
	switch h.Type {
	case walpb.TypeEntry:
		if c.before.entry && c.state && !c.entry {
			var e walpb.Entry
			ok, err := s.message(h, e.UnmarshalHead)
			if err != nil {
				return false, err
			}
			proof = proof || ok && e.Index > c.before.last+1
		}
		c.entry = true
	case walpb.TypeState:
		var st walpb.HardState
		ok, err := s.message(h, st.Unmarshal)
		if err != nil {
			return false, err
		}
		b := &c.before
		c.beyond = c.beyond || ok && b.entry && st.Commit > b.last
		voted := ok && b.state && (st.Term != b.hard.Term || st.Vote != b.hard.Vote)
		if ok && !c.first {
			b.state, b.hard = true, st
		}
		c.state = true
		c.over = c.over || c.entry || voted && !c.first
	case walpb.TypeSnapshot:
		c.over = true
	}
	return proof, nil
}

// message decodes the first bytes of a record's data, and reports whether they are a message.
func (s *seeker) message(h *frame.Head, unmarshal func([]byte) error) (ok bool, err error) {
	b, err := s.links.At(h.DataAt, int(min(max(h.DataLen, 0), frame.MaxHead)))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	}
	return err == nil && unmarshal(b) == nil, err
}

// link returns the frame after h if it is plain and the chain links it to h.
func (s *seeker) link(h *frame.Head) (next frame.Head, ok bool, err error) {
	next, ok, err = frame.ReadHead(&s.links, h.Next)
	if err != nil || !ok || next.HasHeaderCRC {
		return next, false, err
	}
	sum, err := s.sums.continued(h.CRC, next.DataAt, next.DataAt+int64(max(next.DataLen, 0)))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return next, false, nil
	}
	return next, err == nil && sum == next.CRC, err
}
