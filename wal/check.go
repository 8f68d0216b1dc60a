package wal

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/stele-wal/stele/walpb"
)

// A Report is what Check found in a log.
type Report struct {
	Dir      string
	Verdict  Verdict   // the worst of all findings; Clean if there is none
	Findings []Finding // in the order of the log, the first 1000
	More     int       // how many findings there are beyond those

	Segments  []SegmentReport
	Snapshots []walpb.Snapshot // all snapshot records, usable or not
	Metadata  []byte

	// What the records after the last damage add up to.
	State     walpb.HardState // the last one
	LastIndex uint64          // of the last entry, or of the snapshot that stands for it
	LastTerm  uint64          // of that entry; 0 if it is not known

	Mark   string   // what the file synced says, in words; empty if it says nothing
	Spares []string // files that writers had in preparation
	Copies []string // what Open and Repair kept of torn tails

	// Locked says that a Writer or an etcd has the log open. A torn tail may then be a batch that
	// is being written: it is no finding to act on.
	Locked bool
}

// A SegmentReport is what Check found in one segment.
type SegmentReport struct {
	Name      string
	Seq       uint64
	Index     uint64 // as its name says
	Size      int64  // of the file, in bytes
	End       int64  // where its good records end
	Records   int    // good ones
	Entries   int
	First     uint64 // the lowest and the highest index of its entries; 0 if it has none
	Last      uint64
	Witnesses int // records that carry a header_crc
}

// A Finding is a place where a log is not as its writer left it.
type Finding struct {
	Verdict Verdict
	Segment string
	Offset  int64
	Kind    Kind
	Detail  string // what was found there
	Because string // why that is the verdict
	Rest    int64  // for a torn tail, the offset at which the bytes that Open trims end

	// What the records before the place add up to.
	LastIndex, Commit uint64

	// Resumes is the offset at which good records begin again; 0 if the segment has no more.
	Resumes int64
}

const maxFindings = 1000

// Check is the strictest reader. It reads a log once, whole, every segment and every record. It
// goes on after damage wherever records prove to be records, and reports all that it finds. dir may
// also be the path of one segment.
//
// It takes no lock, writes nothing, and may be used on a log that is being written. Segments that a
// Release removes before Check comes to them are a finding, whose Detail says so. Memory use does
// not depend on the size of the log, but for 4 bytes for each 4096 of a damaged segment.
//
// Damage is a finding, not an error. The error is
//
//   - ErrNoLog, also an fs.ErrNotExist, if there is no log,
//   - ErrForeign if the directory holds a .wal file that is not a segment,
//   - or what the file system said; the report then holds what was found before.
func Check(dir string, opts *Options) (*Report, error) {
	o := opts.withDefaults()
	c := checker{report: &Report{Dir: dir}}
	l, err := openLog(o.FS, dir, 0)
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		c.corrupt(corrupt, 0)
		return c.report, nil
	}
	if err != nil {
		return c.report, err
	}
	c.report.Spares, c.report.Copies = l.spares, l.copies
	if l.mark != (mark{}) {
		c.report.Mark = l.mark.String()
	}
	if c.report.Locked, err = l.locked(); err != nil {
		return c.report, err
	}
	if l.dir == l.path { // not one segment alone
		c.beginning = l.beginning()
	}
	return c.report, c.run(l.scan())
}

// A checker is a reading that goes on after damage.
type checker struct {
	reading
	report    *Report
	gaps      []*CorruptError
	beginning *CorruptError // that of a log of which the first segments are not there
}

func (c *checker) run(s *scanner) error {
	s.resumes = true
	var failed error
	for r, err := range s.records() {
		damage := c.take(&r, err)
		var corrupt *CorruptError
		switch {
		case isGap(err):
			// Whether that matters depends on what follows.
			errors.As(err, &corrupt)
			c.gaps = append(c.gaps, corrupt)
		case err == nil:
			seg := c.count(s, &r)
			if errors.As(damage, &corrupt) {
				c.corrupt(corrupt, seg.End)
				c.restart()
			} else {
				c.note(seg, &r)
			}
		case errors.As(err, &corrupt):
			c.corrupt(corrupt, 0)
			c.restart()
		default:
			failed = err
		}
	}
	c.judgeGaps()
	c.finish(s)
	slices.SortStableFunc(c.report.Findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Segment, b.Segment), cmp.Compare(a.Offset, b.Offset))
	})
	return failed
}

// judgeGaps adds the segments that are missing, once it is known what follows them.
func (c *checker) judgeGaps() {
	where := inGap
	if c.history.Supersedes(c.snapshots) {
		where = inOldGap // all of them are: the record is after the last
	}
	verdict, because := decide(evidenceOf(noFrame, where))
	for _, gap := range c.gaps {
		c.finding(Finding{Verdict: verdict, Segment: gap.Segment, Kind: gap.Kind, Detail: gap.Detail, Because: because, LastIndex: gap.LastIndex, Commit: gap.Commit})
	}
	if c.beginning != nil && where == inGap && c.report.Verdict == Clean {
		c.corrupt(c.beginning, 0)
	}
}

// count adds a good record to the report of its segment.
func (c *checker) count(s *scanner, r *Record) *SegmentReport {
	seg := c.segment(s)
	if n := len(c.report.Findings); n > 0 {
		if f := &c.report.Findings[n-1]; f.Verdict == Corrupt && f.Segment == r.Segment && f.Resumes == 0 {
			f.Resumes = r.Offset
		}
	}
	seg.Records++
	seg.End = r.Offset + r.Size
	if r.HasHeaderCRC {
		seg.Witnesses++
	}
	return seg
}

// note adds what a record holds to the report.
func (c *checker) note(seg *SegmentReport, r *Record) {
	switch r.Type {
	case walpb.TypeMetadata:
		c.report.Metadata = c.metadata
	case walpb.TypeEntry:
		i := c.entry.Index
		if seg.Entries++; seg.Entries == 1 {
			seg.First = i
		}
		seg.First, seg.Last = min(seg.First, i), max(seg.Last, i)
	case walpb.TypeSnapshot:
		c.report.Snapshots = append(c.report.Snapshots, c.snapshots[len(c.snapshots)-1].Snapshot)
	}
}

// segment returns the report of the segment that is being read, and begins those that were reached
// since the last.
func (c *checker) segment(s *scanner) *SegmentReport {
	for i := len(c.report.Segments); i <= s.end.segment; i++ {
		seg := &s.segments[i]
		c.report.Segments = append(c.report.Segments, SegmentReport{Name: seg.name, Seq: seg.seq, Index: seg.index, Size: seg.size})
	}
	return &c.report.Segments[s.end.segment]
}

// finish adds what the end of the log is.
func (c *checker) finish(s *scanner) {
	c.segment(s)
	r, h := c.report, &c.history
	h.Settle(c.snapshots)
	var corrupt *CorruptError
	if errors.As(c.owes(), &corrupt) {
		c.corrupt(corrupt, 0)
	}
	r.State, r.LastIndex = h.State, h.Last()
	r.LastTerm, _ = h.Term(r.LastIndex)
	if e := s.end; e.verdict == Torn || e.verdict == TornUnproven || e.verdict == Unborn {
		c.finding(Finding{Verdict: e.verdict, Segment: s.segments[e.segment].name, Offset: e.offset, Kind: e.kind, Detail: e.detail,
			Because: e.because, Rest: e.rest, LastIndex: h.Last(), Commit: h.State.Commit})
	}
}

func (c *checker) corrupt(e *CorruptError, resumes int64) {
	verdict := Corrupt
	if e.Kind == MissingSegment {
		verdict = Missing
	}
	c.finding(Finding{Verdict: verdict, Segment: e.Segment, Offset: e.Offset, Kind: e.Kind, Detail: e.Detail, Because: e.Because,
		LastIndex: e.LastIndex, Commit: e.Commit, Resumes: resumes})
}

func (c *checker) finding(f Finding) {
	c.report.Verdict = max(c.report.Verdict, f.Verdict)
	if len(c.report.Findings) == maxFindings {
		c.report.More++
		return
	}
	c.report.Findings = append(c.report.Findings, f)
}
