package fuzz

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
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

	snapshots []walpb.Snapshot // the usable ones
	log       *wal.Log         // replayed from the newest of them

	count int // how many records of the model that is; set by judge
}

// start is a segment, and how many of the records stand before it.
type start struct {
	segment string
	at      int
}

// observe reads a log record by record, and what it means.
func (h *history) observe(disk *crashfs.FS) (*seen, error) {
	s, err := h.observeRecords(disk)
	if err != nil {
		return nil, err
	}
	return s, s.mean(disk)
}

// observeRecords reads a log record by record.
func (h *history) observeRecords(disk *crashfs.FS) (*seen, error) {
	s := &seen{}
	o := &wal.Options{FS: disk}
	head := 0
	for r, err := range wal.Records(dir, 0, o) {
		var corrupt *wal.CorruptError
		switch {
		case errors.As(err, &corrupt) && corrupt.Kind == wal.MissingSegment:
			*s = seen{}
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
func (s *seen) mean(disk *crashfs.FS) (err error) {
	o := &wal.Options{FS: disk}
	if s.snapshots, err = wal.Snapshots(wal.Records(dir, 0, o)); err != nil {
		return failf(Refused, "snapshots: %v", err)
	}
	if len(s.snapshots) == 0 {
		return failf(Lost, "no usable snapshot record")
	}
	newest := s.newest()
	s.log, err = wal.Replay(wal.Records(dir, newest.Index, o), newest)
	if err != nil {
		return failf(Refused, "replay from %d/%d: %v", newest.Index, newest.Term, err)
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
		if err := e.Unmarshal(r.Data); err != nil {
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

// judge compares a log with the model: it must be made of the first records that were attempted, up to some point that is
// not before the last that was acknowledged; and what it means must be what they mean.
func (m *model) judge(s *seen) error {
	for _, name := range s.segments {
		if m.gone[name] {
			return failf(Invented, "segment %s is there again", name)
		}
	}
	from, known := 0, true
	if !strings.HasPrefix(s.first, "0000000000000000-") {
		if from, known = m.starts[s.first]; !known {
			return failf(Lost, "the log begins with %s, which no Release allows", s.first)
		}
		if want := m.state(from); s.state != want {
			return failf(Invented, "the head of %s has the hard state %v, not %v", s.first, s.state, want)
		}
	}
	s.count = from + len(s.records)
	for i, r := range s.records {
		if from+i >= len(m.records) {
			return failf(Invented, "record %d, %v, was never attempted", from+i, r)
		}
		if want := m.records[from+i]; r != want {
			v := Invented
			if from+i < m.acked {
				v = Lost
			}
			return failf(v, "record %d of %d (%d acknowledged) is %v, not %v", from+i, len(m.records), m.acked, r, want)
		}
	}
	if s.count < m.acked {
		return failf(Lost, "%d records are there, %d were acknowledged; the next is %v", s.count, m.acked, m.records[s.count])
	}
	if s.log == nil {
		return nil
	}
	return m.judgeMeaning(s, from)
}

// judgeMeaning compares what Snapshots and Replay make of the records.
func (m *model) judgeMeaning(s *seen, from int) error {
	want := fold(m.records[:s.count])
	var usable []record
	for _, n := range want.snapshots {
		if n.at >= from && n.index <= want.state.index {
			usable = append(usable, n.record)
		}
	}
	if len(usable) != len(s.snapshots) {
		return failf(Invented, "%d usable snapshot records, not %d", len(s.snapshots), len(usable))
	}
	for i, n := range s.snapshots {
		if snapshotRecord(n) != usable[i] {
			return failf(Invented, "snapshot record %d is %v, not %v", i, n, usable[i])
		}
	}
	if !bytes.Equal(s.log.Metadata, metadata) {
		return failf(Lost, "metadata %q", s.log.Metadata)
	}
	if got := stateRecord(s.log.State); got != want.state {
		return failf(Invented, "replay gives the hard state %v, not %v", got, want.state)
	}
	entries := want.after(s.newest().Index)
	if len(entries) != len(s.log.Entries) {
		v := Invented
		if len(s.log.Entries) < len(entries) {
			v = Lost
		}
		return failf(v, "replay from %d gives %s, not %d entries", s.newest().Index, indexes(s.log.Entries), len(entries))
	}
	for i, e := range s.log.Entries {
		if entryRecord(e) != entries[i] {
			return failf(Invented, "replay from %d gives %d/%d, not %v", s.newest().Index, e.Index, e.Term, entries[i])
		}
	}
	return nil
}

// settle makes the first records all there is: an Open has shown them and no others. It returns the others.
func (m *model) settle(count int) (lost []record) {
	lost = slices.Clone(m.records[count:])
	m.records = m.records[:count]
	m.acked, m.created = count, true
	return lost
}

// examine opens what a crash has left. A log that opens must be what the model says; and the recovery itself is crashed as well,
// now and then, down to some depth.
func (h *history) examine(disk *crashfs.FS, what string, depth int) {
	h.states++
	h.campaign.result.States++
	if err := h.tryOpen(disk, depth, what); err != nil {
		h.report(err, what)
	}
}

func (h *history) tryOpen(disk *crashfs.FS, depth int, what string) error {
	if h.rng.IntN(8) == 0 {
		if err := h.verify(disk); err != nil {
			return err
		}
	}
	made := make(chan error, 4)
	o := &wal.Options{FS: disk, SegmentSize: h.size, PlainEtcd: h.plain, Observer: wal.Observer{Spare: func(err error) { made <- err }}}
	if depth < 2 && h.rng.IntN(6) == 0 {
		disk.SetHook(nil, func(op crashfs.Op) {
			if h.rng.IntN(2) == 0 || h.failed {
				return
			}
			if pending := len(disk.Pending()); pending > 0 {
				c := h.crash(disk, pending)
				h.examine(disk.Crash(c.choose), fmt.Sprintf("%s; in recovery %v: %s", what, op, c.name), depth+1)
			}
		})
	}
	w, err := wal.Open(dir, o)
	if errors.Is(err, fs.ErrNotExist) && !h.model.created {
		if w, err = wal.Create(dir, metadata, o); err != nil {
			return failf(Refused, "create again: %v", err)
		}
	}
	if err != nil {
		return failf(Refused, "open: %v", err)
	}
	<-made
	disk.SetHook(nil, nil)
	s, err := h.observeRecords(disk)
	if err == nil && h.rng.IntN(2) == 0 {
		err = s.mean(disk)
	}
	if err == nil {
		err = h.model.judge(s)
	}
	if err == nil && s.log != nil && h.rng.IntN(4) == 0 {
		err = h.goOn(w, disk, s)
	}
	if err2 := w.Close(); err == nil && err2 != nil {
		err = failf(Refused, "close: %v", err2)
	}
	return err
}

// verify asks Check, which must find nothing that is not a crash's.
func (h *history) verify(disk *crashfs.FS) error {
	report, err := wal.Check(dir, &wal.Options{FS: disk})
	if errors.Is(err, fs.ErrNotExist) && !h.model.created {
		return nil
	}
	if err != nil {
		return failf(Refused, "check: %v", err)
	}
	if report.Verdict >= wal.Corrupt {
		return failf(Refused, "check says %v: %+v", report.Verdict, report.Findings)
	}
	return nil
}

// goOn appends to a log that was recovered, cuts the power, and opens it again.
func (h *history) goOn(w *wal.Writer, disk *crashfs.FS, before *seen) error {
	last, state := before.log.Snapshot.Index, before.log.State
	state.Term = max(state.Term, before.log.Snapshot.Term)
	if n := len(before.log.Entries); n > 0 {
		// The hard state of the last batch may be lost, and its entries not.
		last, state.Term = before.log.Entries[n-1].Index, max(state.Term, before.log.Entries[n-1].Term)
	}
	state.Term++
	e := walpb.Entry{Term: state.Term, Index: last + 1, Data: []byte("behind the recovery")}
	if err := w.Save(state, []walpb.Entry{e}); err != nil {
		return failf(Refused, "save behind the recovery: %v", err)
	}
	after := disk.Crash(crashfs.DropAll)
	w2, err := wal.Open(dir, &wal.Options{FS: after, SegmentSize: h.size, PlainEtcd: h.plain})
	if err != nil {
		return failf(Refused, "open behind the recovery: %v", err)
	}
	defer w2.Close()
	s, err := h.observe(after)
	if err != nil {
		return err
	}
	want := append(slices.Clone(before.records), entryRecord(e), stateRecord(state))
	if !slices.Equal(s.records, want) {
		return failf(Lost, "behind the recovery: %d records, not %d", len(s.records), len(want))
	}
	return nil
}

// indexes describes entries in a few characters.
func indexes(entries []walpb.Entry) string {
	if len(entries) == 0 {
		return "no entries"
	}
	a, b := entries[0], entries[len(entries)-1]
	return fmt.Sprintf("%d/%d..%d/%d", a.Index, a.Term, b.Index, b.Term)
}
