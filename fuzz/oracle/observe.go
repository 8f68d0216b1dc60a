package oracle

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Seen is a log as its readers show it.
type Seen struct {
	Records  []Record // those after the last gap; hard states that change nothing are left out
	First    string   // the segment in which they begin
	State    Record   // the hard state at the head of First
	Starts   []Start  // the segments from First on, in order
	Segments []string // all that are there, also those before the gap
	Gap      bool     // segments are missing in between

	// What the records mean; not set by ItsRecords.
	Snapshots []walpb.Snapshot // the usable ones
	Log       *wal.Log         // replayed from the newest of them, the last if there are several
	logs      []*wal.Log       // replayed from each of them

	Count int // Records are the last of the first Count records of the model; set by Judge

	tape
}

// A Start is where a segment begins.
type Start struct {
	Segment string
	at      int // how many of Seen.Records stand before it
}

// Thorough is how much of a log is read.
type Thorough int

// From little to much.
const (
	ItsRecords Thorough = iota // record by record

	// ItsMeaning is also what Snapshots and Replay make of the same records.
	ItsMeaning

	// AsARestart is also what they make of a log that is read again for each of them, as a program
	// does that starts again.
	AsARestart
)

// Observe reads a log.
func Observe(fsys fileutil.FS, dir string, how Thorough) (*Seen, error) {
	s, err := observeRecords(fsys, dir, how == ItsMeaning)
	if err != nil || how == ItsRecords {
		return s, err
	}
	from := func(index uint64) iter.Seq2[wal.Record, error] {
		return wal.Records(dir, index, &wal.Options{FS: fsys})
	}
	if how == ItsMeaning {
		from = func(uint64) iter.Seq2[wal.Record, error] { return s.again }
	}
	return s, s.mean(from)
}

// tape is a sequence of records that was read, to be read again.
type tape struct {
	records []wal.Record
	gaps    []gap
	data    []byte
}

// gap is an error between two records.
type gap struct {
	before int // how many records come before it
	err    error
}

// take appends a record, or an error.
func (t *tape) take(r wal.Record, err error) {
	if err != nil {
		t.gaps = append(t.gaps, gap{len(t.records), err})
		return
	}
	if r.Data != nil {
		n := len(t.data)
		t.data = append(t.data, r.Data...)
		r.Data = t.data[n:len(t.data):len(t.data)]
	}
	t.records = append(t.records, r)
}

// again yields all that was read.
func (t *tape) again(yield func(wal.Record, error) bool) {
	gaps := t.gaps
	for i := range len(t.records) + 1 {
		for len(gaps) > 0 && gaps[0].before == i {
			if !yield(wal.Record{}, gaps[0].err) {
				return
			}
			gaps = gaps[1:]
		}
		if i < len(t.records) && !yield(t.records[i], nil) {
			return
		}
	}
}

// observeRecords reads a log record by record, and keeps a tape of them if that is asked for.
func observeRecords(fsys fileutil.FS, dir string, keep bool) (*Seen, error) {
	s := &Seen{}
	o := &wal.Options{FS: fsys}
	head := 0
	for r, err := range wal.Records(dir, 0, o) {
		if keep {
			s.take(r, err)
		}
		var corrupt *wal.CorruptError
		switch {
		case err == nil:
		case errors.As(err, &corrupt) && corrupt.Kind == wal.MissingSegment:
			*s = Seen{tape: s.tape, Gap: true}
			continue
		case err != nil:
			return nil, Failf(Refused, "records: %v", err)
		}
		if r.Offset == 0 {
			s.Starts = append(s.Starts, Start{r.Segment, len(s.Records)})
			if s.First == "" {
				s.First, s.State = r.Segment, noState
			}
			head = 0
		}
		head++
		if err := s.record(r, head == 3 && r.Segment == s.First && !strings.HasPrefix(r.Segment, "0000000000000000-")); err != nil {
			return nil, Failf(Invented, "%s: offset %d: %v", r.Segment, r.Offset, err)
		}
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range names {
		if path.Ext(e.Name()) == ".wal" {
			s.Segments = append(s.Segments, e.Name())
		}
	}
	return s, nil
}

// mean reads what the records mean, in the steps of a program that starts again.
func (s *Seen) mean(from func(index uint64) iter.Seq2[wal.Record, error]) (err error) {
	if s.Snapshots, err = wal.Snapshots(from(0)); err != nil {
		return Failf(Refused, "snapshots: %v", err)
	}
	if len(s.Snapshots) == 0 {
		return Failf(Lost, "no usable snapshot record")
	}
	newest := s.Newest()
	for _, n := range s.Snapshots {
		log, err := wal.Replay(from(n.Index), n)
		if err != nil {
			return Failf(Refused, "replay from %d/%d, which is listed: %v", n.Term, n.Index, err)
		}
		s.logs = append(s.logs, log)
		if n.Index == newest.Index {
			s.Log = log
		}
	}
	return nil
}

// Next returns a hard state of the term after all that was seen, and the index of the last entry.
func (s *Seen) Next() (state walpb.HardState, last uint64) {
	state, last = s.Log.State, s.Log.Snapshot.Index
	state.Term = max(state.Term, s.Log.Snapshot.Term)
	if n := len(s.Log.Entries); n > 0 {
		// The hard state of the last batch may be lost, and its entries not.
		last, state.Term = s.Log.Entries[n-1].Index, max(state.Term, s.Log.Entries[n-1].Term)
	}
	state.Term++
	return state, last
}

// record takes the next record. In the head of the first segment a hard state is not news.
func (s *Seen) record(r wal.Record, inHead bool) error {
	n, err := Decode(r.Record)
	switch {
	case err != nil:
		return err
	case r.Type == walpb.TypeMetadata && !bytes.Equal(r.Data, Metadata):
		return fmt.Errorf("metadata %q", r.Data)
	case r.Type == walpb.TypeMetadata, r.Type == walpb.TypeCRC:
	case r.Type == walpb.TypeState && n == LastState(s.Records, s.State):
	case r.Type == walpb.TypeState && inHead:
		s.State = n
	default:
		s.Records = append(s.Records, n)
	}
	return nil
}

// Newest returns the usable snapshot record with the highest index, and of several the last.
func (s *Seen) Newest() (newest walpb.Snapshot) {
	for _, n := range s.Snapshots {
		if n.Index >= newest.Index {
			newest = n
		}
	}
	return newest
}

// Choose has wal.Recover go on from the newest snapshot.
func Choose(snapshots []walpb.Snapshot) (walpb.Snapshot, error) {
	newest, _ := wal.Newest(snapshots)
	return newest, nil
}
