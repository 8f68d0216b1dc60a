package fuzz

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// seen is a log as its readers show it.
type seen struct {
	records  []record // those behind the last gap; hard states that change nothing are left out
	first    string   // the segment in which they begin
	state    record   // the hard state at its head
	starts   []start
	segments []string // all that are there
	gap      bool     // segments are missing in between

	snapshots []walpb.Snapshot // the usable ones
	logs      []*wal.Log       // replayed from each of them
	log       *wal.Log         // replayed from the newest of them, the last if there are several

	count int // how many records of the model that is; set by judge

	tape
}

// start is a segment, and how many of the records stand before it.
type start struct {
	segment string
	at      int
}

// thorough is how much of a log is read.
type thorough int

const (
	itsRecords thorough = iota // record by record
	itsMeaning                 // and what Snapshots and Replay make of these records
	asARestart                 // and what they make of a log that is read once more for each of them, as a program does that starts again
)

// observe reads a log.
func observe(disk *crashfs.FS, how thorough) (*seen, error) {
	s, err := observeRecords(disk, how == itsMeaning)
	if err != nil || how == itsRecords {
		return s, err
	}
	from := func(index uint64) iter.Seq2[wal.Record, error] {
		return wal.Records(dir, index, &wal.Options{FS: disk})
	}
	if how == itsMeaning {
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
	before int // so many records
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
func observeRecords(disk *crashfs.FS, keep bool) (*seen, error) {
	s := &seen{}
	o := &wal.Options{FS: disk}
	head := 0
	for r, err := range wal.Records(dir, 0, o) {
		if keep {
			s.take(r, err)
		}
		var corrupt *wal.CorruptError
		switch {
		case err == nil:
		case errors.As(err, &corrupt) && corrupt.Kind == wal.MissingSegment:
			*s = seen{tape: s.tape, gap: true}
			continue
		case err != nil:
			return nil, failf(Refused, "records: %v", err)
		}
		if r.Offset == 0 {
			s.starts = append(s.starts, start{r.Segment, len(s.records)})
			if s.first == "" {
				s.first, s.state = r.Segment, record{kind: walpb.TypeState}
			}
			head = 0
		}
		head++
		if err := s.record(r, head == 3 && r.Segment == s.first && !strings.HasPrefix(r.Segment, "0000000000000000-")); err != nil {
			return nil, failf(Invented, "%s: offset %d: %v", r.Segment, r.Offset, err)
		}
	}
	names, err := disk.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range names {
		if path.Ext(e.Name()) == ".wal" {
			s.segments = append(s.segments, e.Name())
		}
	}
	return s, nil
}

// mean reads what the records mean, in the steps of a program that starts again.
func (s *seen) mean(from func(index uint64) iter.Seq2[wal.Record, error]) (err error) {
	if s.snapshots, err = wal.Snapshots(from(0)); err != nil {
		return failf(Refused, "snapshots: %v", err)
	}
	if len(s.snapshots) == 0 {
		return failf(Lost, "no usable snapshot record")
	}
	newest := s.newest()
	for _, n := range s.snapshots {
		log, err := wal.Replay(from(n.Index), n)
		if err != nil {
			return failf(Refused, "replay from %d/%d, which is listed: %v", n.Term, n.Index, err)
		}
		s.logs = append(s.logs, log)
		if n.Index == newest.Index {
			s.log = log
		}
	}
	return nil
}

// record takes the next record. In the head of the first segment a hard state is not news.
func (s *seen) record(r wal.Record, inHead bool) error {
	var n record
	switch r.Type {
	case walpb.TypeMetadata:
		if !bytes.Equal(r.Data, metadata) {
			return fmt.Errorf("metadata %q", r.Data)
		}
		return nil
	case walpb.TypeCRC:
		return nil
	case walpb.TypeEntry:
		var e walpb.Entry
		decode := e.Unmarshal
		if r.Vouched {
			decode = e.UnmarshalVouched // which takes types of our own
		}
		if err := decode(r.Data); err != nil {
			return err
		}
		n = entryRecord(e)
	case walpb.TypeState:
		var st walpb.HardState
		if err := st.Unmarshal(r.Data); err != nil {
			return err
		}
		n = stateRecord(st)
		if n == s.last() {
			return nil
		}
		if inHead {
			s.state = n
			return nil
		}
	case walpb.TypeSnapshot:
		var snap walpb.Snapshot
		if err := snap.Unmarshal(r.Data); err != nil {
			return err
		}
		n = snapshotRecord(snap)
	default:
		return fmt.Errorf("a record of type %v", r.Type)
	}
	s.records = append(s.records, n)
	return nil
}

// last returns the hard state so far.
func (s *seen) last() record {
	for i := len(s.records) - 1; i >= 0; i-- {
		if s.records[i].kind == walpb.TypeState {
			return s.records[i]
		}
	}
	return s.state
}

// newest returns the usable snapshot record with the highest index, and of several the last.
func (s *seen) newest() walpb.Snapshot {
	newest := s.snapshots[0]
	for _, n := range s.snapshots {
		if n.Index >= newest.Index {
			newest = n
		}
	}
	return newest
}
