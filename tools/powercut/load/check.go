package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A Verdict is what kind of failure a failure is.
type Verdict string

// The verdicts: Lost is what was owed and is not there. Refused is a store that did not open by
// itself, or said no to a legal call. Invented is what was never attempted, or was removed and has
// come back.
const (
	Lost     Verdict = "lost"
	Refused  Verdict = "refused"
	Invented Verdict = "invented"
)

// A Failure is a broken promise.
type Failure struct {
	Verdict Verdict
	Detail  string
}

func (f *Failure) Error() string { return string(f.Verdict) + ": " + f.Detail }

func failf(v Verdict, format string, args ...any) error {
	return &Failure{v, fmt.Sprintf(format, args...)}
}

// Where the log and the snapshots are, below the directory of a store. Neither parent is there at
// first.
func walDir(dir string) string  { return filepath.Join(dir, "member", "wal") }
func snapDir(dir string) string { return filepath.Join(dir, "member", "snap") }

var metadata = []byte("a member's metadata")

// seen is a store as its readers show it.
type seen struct {
	records  []record // those behind the last gap; hard states that change nothing are left out
	head     record   // the hard state at their head
	names    []string // of the segments and snapshots that are there
	recorded []walpb.Snapshot
	log      *wal.Log // replayed from the newest of them

	count int // how many of the records that were attempted these are the end of; set by judge
}

// Recover opens what a crash has left of the store in dir, in the steps of a program that starts
// again, and compares it with what is owed. If further is true it also goes on from there and opens
// the store again. The error is a *Failure, or what went wrong with the rig.
func Recover(dir string, owed Owed, further bool) error {
	o := &wal.Options{SegmentSize: 16 << 10} // the disk is too small for the default, and would be full while a spare is made
	w, err := wal.Open(walDir(dir), o)
	if errors.Is(err, fs.ErrNotExist) {
		if owed.created {
			return failf(Lost, "there is no log: %v", err)
		}
		if w, err = wal.Create(walDir(dir), metadata, o); err != nil {
			return failf(Refused, "create again: %v", err)
		}
	}
	if err != nil {
		return failf(Refused, "open: %v", err)
	}
	if !owed.created { // a crash came between the end of Create and its acknowledgement
		owed = begun()
	}
	s, err := observe(dir)
	if err == nil {
		err = judge(dir, s, owed)
	}
	if err == nil && further {
		err = goOn(w, s)
	}
	if err2 := w.Close(); err == nil && err2 != nil {
		err = failf(Refused, "close: %v", err2)
	}
	if err != nil || !further {
		return err
	}
	again, err := observe(dir)
	if err != nil {
		return err
	}
	if !slices.Equal(again.records, s.records) {
		return failf(Lost, "behind the recovery: %d records, not %d", len(again.records), len(s.records))
	}
	return nil
}

// begun is what is owed of a log that was just created: the record of the empty snapshot.
func begun() Owed {
	return Owed{created: true, records: []record{snapshotRecord(walpb.Snapshot{})}, acked: 1}
}

// goOn appends an entry to a log that was recovered, and to what was seen.
func goOn(w *wal.Writer, s *seen) error {
	last, state := s.log.Snapshot.Index, s.log.State
	state.Term = max(state.Term, s.log.Snapshot.Term)
	if n := len(s.log.Entries); n > 0 {
		last, state.Term = s.log.Entries[n-1].Index, max(state.Term, s.log.Entries[n-1].Term)
	}
	state.Term++
	e := entry(last+1, state.Term)
	if err := w.Save(state, []walpb.Entry{e}); err != nil {
		return failf(Refused, "save behind the recovery: %v", err)
	}
	s.records = append(s.records, entryRecord(e), stateRecord(state))
	return nil
}

// observe reads a store.
func observe(dir string) (*seen, error) {
	s := &seen{head: record{kind: walpb.TypeState}}
	if err := s.read(dir); err != nil {
		return nil, err
	}
	var err error
	if s.recorded, err = wal.Snapshots(wal.Records(walDir(dir), 0, nil)); err != nil {
		return nil, failf(Refused, "snapshots: %v", err)
	}
	if len(s.recorded) == 0 {
		return nil, failf(Lost, "no usable snapshot record")
	}
	newest := s.newest()
	if s.log, err = wal.Replay(wal.Records(walDir(dir), newest.Index, nil), newest); err != nil {
		return nil, failf(Refused, "replay from %d/%d: %v", newest.Index, newest.Term, err)
	}
	s.names, err = names(dir)
	return s, err
}

// newest returns the usable snapshot record with the highest index, and of several the last.
func (s *seen) newest() walpb.Snapshot {
	newest := s.recorded[0]
	for _, n := range s.recorded {
		if n.Index >= newest.Index {
			newest = n
		}
	}
	return newest
}

// read reads the log record by record.
func (s *seen) read(dir string) error {
	var first string // the first segment behind the last gap
	head := 0        // how many records of the segment there were
	for r, err := range wal.Records(walDir(dir), 0, nil) {
		var corrupt *wal.CorruptError
		switch {
		case errors.As(err, &corrupt) && corrupt.Kind == wal.MissingSegment:
			*s, first = seen{head: record{kind: walpb.TypeState}}, ""
			continue
		case err != nil:
			return failf(Refused, "records: %v", err)
		}
		if r.Offset == 0 {
			head = 0
			if first == "" {
				first = r.Segment
			}
		}
		head++
		inHead := head == 3 && r.Segment == first && !strings.HasPrefix(first, "0000000000000000-")
		if err := s.record(r.Record, inHead); err != nil {
			return failf(Invented, "%s: offset %d: %v", r.Segment, r.Offset, err)
		}
	}
	return nil
}

// record takes the next record. The hard state in the head of the first segment is not news.
func (s *seen) record(r walpb.Record, inHead bool) error {
	switch r.Type {
	case walpb.TypeCRC:
	case walpb.TypeMetadata:
		if !bytes.Equal(r.Data, metadata) {
			return fmt.Errorf("metadata %q", r.Data)
		}
	case walpb.TypeEntry:
		var e walpb.Entry
		if err := e.Unmarshal(r.Data); err != nil {
			return err
		}
		s.records = append(s.records, entryRecord(e))
	case walpb.TypeSnapshot:
		var n walpb.Snapshot
		if err := n.Unmarshal(r.Data); err != nil {
			return err
		}
		s.records = append(s.records, snapshotRecord(n))
	case walpb.TypeState:
		var st walpb.HardState
		if err := st.Unmarshal(r.Data); err != nil {
			return err
		}
		switch n := stateRecord(st); {
		case inHead:
			s.head = n
		case n != s.last():
			s.records = append(s.records, n)
		}
	default:
		return fmt.Errorf("a record of type %v", r.Type)
	}
	return nil
}

// last returns the hard state so far.
func (s *seen) last() record {
	if last := lastState(s.records); last != (record{kind: walpb.TypeState}) {
		return last
	}
	return s.head
}

// looking is the file system of those who only look: snap.Open would make durable what the store
// has not.
var looking = saboteur{fileutil.OS{}, cuts{data: always, dir: true}}

// names returns the names of the segments, and what stands for those of the snapshots.
func names(dir string) (names []string, err error) {
	files, err := fileutil.OS{}.ReadDir(walDir(dir))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".wal" {
			names = append(names, f.Name())
		}
	}
	store, err := snap.Open(snapDir(dir), &snap.Options{FS: looking})
	if err != nil {
		return nil, failf(Refused, "open the snapshots: %v", err)
	}
	l, err := store.List()
	if err != nil {
		return nil, failf(Refused, "list the snapshots: %v", err)
	}
	for _, n := range l.Snapshots {
		names = append(names, fmt.Sprintf("snapshot %d/%d", n.Index, n.Term))
	}
	for _, n := range l.Bodies {
		names = append(names, fmt.Sprintf("body %d", n))
	}
	return names, nil
}

// judge compares a store with what is owed.
func judge(dir string, s *seen, owed Owed) error {
	for _, name := range s.names {
		if slices.Contains(owed.gone, name) {
			return failf(Invented, "%s was removed and is there again", name)
		}
	}
	if err := s.align(owed); err != nil {
		return err
	}
	if err := s.judgeMeaning(owed.records[:s.count]); err != nil {
		return err
	}
	return s.judgeSnapshots(dir, owed)
}

// align finds out which of the records that were attempted are there: a run of them that must reach
// the last that was acknowledged.
func (s *seen) align(owed Owed) error {
	most := len(owed.records)
	best, from := -1, 0
	for at := 0; at <= most; at++ {
		n := 0
		for n < len(s.records) && at+n < most && s.records[n] == owed.records[at+n] {
			n++
		}
		fits := n == len(s.records) && (at == 0 || s.head == lastState(owed.records[:at]))
		if fits && at+n >= owed.acked {
			best, from = n, at
			break
		}
		if n > best {
			best, from = n, at
		}
	}
	s.count = from + len(s.records)
	switch {
	case from > 0 && !owed.released:
		return failf(Lost, "the first %d records, and nothing was released", from)
	case best < len(s.records) && from+best < owed.acked:
		return failf(Lost, "record %d of %d acknowledged is %v, not %v", from+best, owed.acked, s.records[best], owed.records[from+best])
	case best < len(s.records):
		return failf(Invented, "record %d, %v, was not attempted (%d were, %d acknowledged)", from+best, s.records[best], most, owed.acked)
	case s.count < owed.acked:
		return failf(Lost, "%d records are there, %d were acknowledged; the next is %v", s.count, owed.acked, owed.records[s.count])
	case from > 0 && s.head != lastState(owed.records[:from]):
		return failf(Invented, "the log begins with the hard state %v, not %v", s.head, lastState(owed.records[:from]))
	}
	return nil
}

// judgeMeaning compares what Replay makes of the log with what its records mean.
func (s *seen) judgeMeaning(records []record) error {
	want := fold(records)
	newest := record{kind: walpb.TypeSnapshot}
	for _, n := range want.snapshots {
		if n.index <= want.state.index && n.index >= newest.index {
			newest = n
		}
	}
	if got := s.newest(); got.Index != newest.index || got.Term != newest.term {
		v := Invented
		if got.Index < newest.index {
			v = Lost
		}
		return failf(v, "the newest usable snapshot record is %d/%d, not %v", got.Index, got.Term, newest)
	}
	if !bytes.Equal(s.log.Metadata, metadata) {
		return failf(Lost, "metadata %q", s.log.Metadata)
	}
	if got := stateRecord(s.log.State); got != want.state {
		return failf(Invented, "replay gives the hard state %v, not %v", got, want.state)
	}
	entries := want.after(newest.index)
	for i, e := range s.log.Entries {
		if i >= len(entries) || entryRecord(e) != entries[i] {
			return failf(Invented, "replay from %d gives %d/%d as entry %d of %d", newest.index, e.Index, e.Term, i, len(entries))
		}
	}
	if len(s.log.Entries) < len(entries) {
		return failf(Lost, "replay from %d gives %d entries, not %d", newest.index, len(s.log.Entries), len(entries))
	}
	return nil
}

// judgeSnapshots reads the snapshots that must be there: those that are owed, and the newest that
// the log records.
func (s *seen) judgeSnapshots(dir string, owed Owed) error {
	store, err := snap.Open(snapDir(dir), &snap.Options{FS: looking})
	if err != nil {
		return failf(Refused, "open the snapshots: %v", err)
	}
	files := owed.files
	if n := s.newest(); n.Index > 0 && !slices.Contains(files, file{n.Index, n.Term}) {
		files = append(slices.Clone(files), file{n.Index, n.Term})
	}
	for _, f := range files {
		if err := readSnapshot(store, f); err != nil {
			return failf(Lost, "the snapshot of %d/%d: %v", f.index, f.term, err)
		}
	}
	return nil
}

// readSnapshot reads a snapshot and compares it with what was written.
func readSnapshot(store *snap.Store, f file) error {
	if kindOf(f.index) == value {
		s, err := store.Load(f.index, f.term)
		if err == nil && !bytes.Equal(s.Data, state(f)) {
			err = errors.New("it has other data")
		}
		return err
	}
	r, err := store.OpenBody(f.index)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err == nil && (r.Body().Term != f.term || !bytes.Equal(data, state(f))) {
		err = errors.New("it is another body")
	}
	return err
}
