package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/walpb"
)

// scanner reads the segments of one log in order, and judges the place where the good frames of
// each end. Records, Check, Open and Repair all read with it, so that what a log means is decided
// once.
//
// It opens a segment when it comes to the end of the one before, and closes it when it leaves it,
// so it has two open at most.
type scanner struct {
	files    opener
	segments []segment
	preceded bool // by segments that are not to be read
	mark     mark // which the log reaches, or its end is lost
	resumes  bool // go on after damage, wherever a record's header_crc is right

	frames  frames       // of the segment that was entered last
	entered int          // the number of segments that were entered
	next    *openSegment // the one to enter next, if it is open already
	first   frame.Window // of next, whose head is read before it is entered
	removed bool         // segments before next were removed while the log was read

	metadata []byte // of the last head
	named    bool   // metadata is known
	entry    latest // entry and hard state
	state    latest

	// end is that of the segment that was entered last. Until that is judged, only its position and
	// the end before are set.
	end judgement
}

// opener opens the segments of a log for a scanner.
type opener interface {
	open(*segment) (*openSegment, error)
	close(*openSegment)
	// relist returns the segments that are there now from a sequence number on. Some that were
	// listed may have been removed since.
	relist(seq uint64) ([]segment, error)
}

// judgement is what it means that the good frames of a segment end at a place.
type judgement struct {
	ending
	segment int  // its position in the listing
	head    bool // the place is in the head
	verdict Verdict
	because string
	kind    Kind
	detail  string
	rest    int64  // where the last byte that is not zero ends, at or above the place
	before  ending // that of the segment before, if there is one
}

// from returns where the bytes begin that Open and Repair remove: an unborn segment goes whole.
func (j *judgement) from() int64 {
	if j.verdict == Unborn {
		return 0
	}
	return j.offset
}

// latest is the last message of a type that was read, or as much of it as a search needs.
type latest struct {
	known bool   // there was one, or there is certainly none
	first []byte // its first bytes; of none there are none
}

func (l *latest) take(data []byte) {
	l.known, l.first = true, append(l.first[:0], data[:min(len(data), frame.MaxHead)]...)
}

func newScanner(l *listing, files opener) *scanner {
	s := &scanner{files: files, segments: l.segments, preceded: l.preceded, mark: l.mark}
	s.entry.known = !l.preceded && l.segments[0].seq == 0 // a log begins without
	s.state.known = s.entry.known
	return s
}

// records yields every good record, then, if the log's end is not a legal one, an error: a
// *CorruptError, or what the file system said. The data of a record is valid until the next is
// asked for. A log that goes on after missing segments yields the error at the gap, and, if it is
// asked on, the records after it. Once records has returned because the log ended, s.end says how.
func (s *scanner) records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		defer s.close()
		for {
			seg, err := s.ahead()
			if err != nil {
				s.end.verdict = Unreadable
				yield(Record{}, err)
				return
			}
			if seg == nil {
				return
			}
			s.enter(seg)
			if !s.segment(yield) {
				return
			}
		}
	}
}

// ahead opens the segment after the one that was entered last, and returns it; nil if there is
// none. If a Release has removed it, the log is listed again, and the next one that is there takes
// its place.
func (s *scanner) ahead() (_ *openSegment, err error) {
	const tries = 5
	for try := 1; s.next == nil && s.entered < len(s.segments); try++ {
		want := &s.segments[s.entered]
		if s.next, err = s.files.open(want); err == nil {
			s.first.Reset(s.next.file, s.next.size)
			return s.next, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || try == tries {
			return nil, err
		}
		there, err := s.files.relist(want.seq)
		if err != nil {
			return nil, err
		}
		s.removed = s.removed || len(there) > 0 && there[0].seq != want.seq
		s.segments = append(s.segments[:s.entered:s.entered], there...)
	}
	return s.next, nil
}

// enter leaves the segment that was entered last for the next.
func (s *scanner) enter(seg *openSegment) {
	s.leave()
	before := s.frames.ending
	kept := s.frames.window // its memory
	s.frames.begin(seg, s.first)
	s.first = kept
	s.end = judgement{segment: s.entered, before: before}
	s.entered++
	s.next, s.removed = nil, false
}

func (s *scanner) leave() {
	if seg := s.frames.seg; seg != nil {
		s.frames.seg = nil
		s.files.close(seg)
	}
}

func (s *scanner) close() {
	s.leave()
	if s.next != nil {
		s.files.close(s.next)
		s.next = nil
	}
}

// segment yields the records of the segment that was entered. It reports whether to go on with the
// next.
func (s *scanner) segment(yield func(Record, error) bool) bool {
	for {
		why, ok := s.good(yield)
		if !ok {
			return false
		}
		err := s.judge(why)
		switch {
		case err == nil:
			return true
		case s.end.verdict != Unreadable && s.frames.again():
			continue
		case !yield(Record{}, err):
			return false
		case s.end.kind == MissingSegment:
			s.forget()
			return true
		case s.end.verdict == Unreadable || !s.resumes:
			return false
		}
		if found, err := s.resume(); err != nil {
			yield(Record{}, fmt.Errorf("wal: %w", err))
			return false
		} else if !found {
			return true
		}
	}
}

// good yields the good records up to the first frame that is not, and returns why it is not. It is
// not ok if reading is over.
func (s *scanner) good(yield func(Record, error) bool) (why fault, ok bool) {
	record := Record{Segment: s.frames.seg.name}
	for {
		good, why, err := s.frames.read(&record)
		if err != nil {
			s.end.verdict = Unreadable
			yield(Record{}, fmt.Errorf("wal: offset %d: %w", s.frames.offset, err))
			return fault{}, false
		}
		if good {
			why = s.objects(&record)
			good = why.kind == 0
		}
		if !good {
			return why, true
		}
		s.take(&record)
		if !yield(record, nil) {
			return fault{}, false
		}
	}
}

// objects returns why a record that its segment calls good cannot follow the segments before, or
// contradicts the mark.
func (s *scanner) objects(r *Record) fault {
	switch before := &s.end.before; {
	case r.Offset == 0 && before.seeded && r.CRC != before.chain:
		return fault{BadSeed, fmt.Sprintf("stored %08x, computed %08x", r.CRC, before.chain)}
	case r.Type == walpb.TypeMetadata && s.named && !bytes.Equal(r.Data, s.metadata):
		return fault{Contradiction, "metadata differs from that of the segments before"}
	case s.mark.contradicts(s.metadata, s.frames.seg.seq, r):
		return fault{Contradiction, s.mark.String()}
	}
	return fault{}
}

// take goes on after a good record.
func (s *scanner) take(r *Record) {
	s.frames.take(r)
	switch r.Type {
	case walpb.TypeMetadata:
		s.metadata, s.named = append(s.metadata[:0], r.Data...), true
	case walpb.TypeEntry:
		s.entry.take(r.Data)
	case walpb.TypeState:
		s.state.take(r.Data)
	}
}

// forget makes nothing known of the log so far but its metadata: other segments stood between it
// and the next.
func (s *scanner) forget() {
	s.frames.seeded, s.frames.ours = false, false
	s.entry, s.state = latest{}, latest{}
}

// resume looks for good frames after the place that was judged, and reports whether there are any.
func (s *scanner) resume() (found bool, err error) {
	f := &s.frames
	f.ident = s.end.ident
	next, chain, found, err := newSeeker(f.seg, f.ident, f.offset, f.unpadded).resync(f.offset)
	if found {
		f.resume(next, chain)
	} else {
		f.seeded = false
	}
	return found, err
}

// judge decides what it means that the good frames of the segment end where they do, which s.end
// then says. It returns the error that the records end with: nil if that is a legal end.
func (s *scanner) judge(why fault) error {
	f := &s.frames
	j := &s.end
	j.ending, j.kind, j.detail = f.ending, why.kind, why.detail
	j.head = f.count < headRecords(f.seg.seq)
	if f.count < 2 {
		// Take the head for the one that ought to be there, so that records after it can be told
		// from strangers.
		j.ident = walpb.Checksum(frame.Identity(f.seg.seq, f.chain), s.metadata)
	}
	next, err := s.ahead()
	if err != nil {
		j.verdict = Unreadable
		return err
	}
	e, at, err := s.evidence(next)
	if err != nil {
		j.verdict = Unreadable
		return fmt.Errorf("wal: %w", err)
	}
	j.verdict, j.because = decide(e)
	if !j.verdict.bad() {
		return nil
	}
	c := &CorruptError{Segment: f.seg.name, Offset: j.offset, Kind: j.kind, Detail: j.detail, Because: j.because}
	if e.proof == witnessed || e.proof == linked {
		c.Because += fmt.Sprintf(", at %d", at)
	}
	if j.kind != MissingSegment {
		return c
	}
	c.Segment, c.Offset = next.name, 0
	if s.removed {
		c.Detail += ", removed while the log was read"
		return removed{c}
	}
	return c
}

// removed is the error of segments that a Release removed while the log was read: a gap, and an
// fs.ErrNotExist.
type removed struct{ *CorruptError }

func (removed) Is(target error) bool { return target == fs.ErrNotExist }
func (r removed) Unwrap() error      { return r.CorruptError }

// evidence collects what is known of the place where good frames end. next is the segment that
// follows, or nil. at is the offset of the record that is the proof.
func (s *scanner) evidence(next *openSegment) (e evidence, at int64, err error) {
	f, j := &s.frames, &s.end
	e = evidenceOf(noFrame, inLast)
	e.head, e.prior, e.ours = answerTo(j.head), answerTo(j.segment > 0 || s.preceded), answerTo(j.ours)
	if j.kind == Contradiction {
		e.stop = contradicts
	}
	k := newSeeker(f.seg, j.ident, f.offset, f.unpadded)
	if next == nil {
		var found found
		k.before = s.before()
		found, err = k.search(f.offset, f.ours, f.chain)
		e.proof, at, j.rest = found.proof, found.at, found.rest
	} else {
		j.rest, err = k.extent(f.offset)
	}
	if err != nil {
		return e, 0, err
	}
	e.rest = answerTo(j.rest > f.offset)
	if next == nil && e.proof == noProof && s.mark.beyond(s.metadata, f.seg.seq, f.offset) {
		e.proof = marked
		if e.rest == no {
			j.kind, j.detail = LostEnd, s.mark.String()
		}
	}
	if sabotaged(zeroIsTheEnd) && j.kind == ZeroLength {
		e.rest, e.proof = no, noProof
	}
	if next != nil {
		err = s.compare(next, &e)
	}
	return e, at, err
}

// compare adds to the evidence what the next segment says of the end of this one.
func (s *scanner) compare(next *openSegment, e *evidence) error {
	j, seg := &s.end, s.frames.seg
	e.where = inEarlier
	seed, ok, err := readSeed(&s.first)
	switch {
	case err != nil:
		return err
	case next.seq != seg.seq+1 && e.rest == no:
		e.where = inGap
		j.kind = MissingSegment
		j.detail = fmt.Sprintf("%016x to %016x", seg.seq+1, next.seq-1)
	case ok && seed != j.chain && e.rest == no:
		e.seed = differs
		j.kind = BadSeed
		j.detail = fmt.Sprintf("it ends with checksum %08x, %s begins with %08x", j.chain, next.name, seed)
	case ok && seed == j.chain:
		e.seed = fits
	}
	return nil
}

// before returns what is known of the log up to where it was read.
func (s *scanner) before() (b before) {
	b.entry, b.state = s.entry.known, s.state.known
	if first := s.entry.first; len(first) > 0 {
		var e walpb.Entry
		b.entry = e.UnmarshalHead(first) == nil
		b.last = e.Index
	}
	if first := s.state.first; len(first) > 0 {
		b.state = b.hard.Unmarshal(first) == nil
	}
	return b
}
