package oracle

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Judge compares a log with the model: it must be made of the first records that were attempted, up
// to some point that is not before the last that was acknowledged; and what it means must be what
// they mean.
func (m *Model) Judge(s *Seen) error {
	for _, name := range s.Segments {
		if m.Gone[name] {
			return Failf(Invented, "segment %s is there again", name)
		}
	}
	from, known := 0, true
	if !strings.HasPrefix(s.First, "0000000000000000-") {
		if from, known = m.Starts[s.First]; !known {
			return Failf(Lost, "the log begins with %s, which no Release allows", s.First)
		}
		if want := m.State(from); s.State != want {
			return Failf(Invented, "the head of %s has the hard state %v, not %v", s.First, s.State, want)
		}
	}
	s.Count = from + len(s.Records)
	for i, r := range s.Records {
		if from+i >= len(m.Records) {
			return Failf(Invented, "record %d, %v, was never attempted", from+i, r)
		}
		if want := m.Records[from+i]; r != want {
			v := Invented
			if from+i < m.Acked {
				v = Lost
			}
			return Failf(v, "record %d of %d (%d acknowledged) is %v, not %v", from+i, len(m.Records), m.Acked, r, want)
		}
	}
	if s.Count < m.Acked {
		return Failf(Lost, "%d records are there, %d were acknowledged; the next is %v", s.Count, m.Acked, m.Records[s.Count])
	}
	if s.Log == nil {
		return nil
	}
	return m.judgeMeaning(s, from)
}

// judgeMeaning compares what Snapshots and Replay make of the records.
func (m *Model) judgeMeaning(s *Seen, from int) error {
	want := Fold(m.Records[:s.Count])
	var usable []Record
	for _, n := range want.Snapshots {
		if n.At >= from && want.Replayable(n.Record, m.Records[from:s.Count]) {
			usable = append(usable, n.Record)
		}
	}
	if s.Gap {
		// By the names of the segments alone, a reader cannot know of all but the newest that what
		// follows them is there.
		newest := slices.MaxFunc(usable, func(a, b Record) int { return cmp.Compare(a.Index, b.Index) })
		usable = slices.DeleteFunc(usable, func(r Record) bool {
			return r.Index != newest.Index && !slices.ContainsFunc(s.Snapshots, func(n walpb.Snapshot) bool { return SnapshotRecord(n) == r })
		})
	}
	if len(usable) != len(s.Snapshots) {
		return Failf(Invented, "%d usable snapshot records, not %d", len(s.Snapshots), len(usable))
	}
	for i, n := range s.Snapshots {
		if SnapshotRecord(n) != usable[i] {
			return Failf(Invented, "snapshot record %d is %v, not %v", i, n, usable[i])
		}
	}
	if !bytes.Equal(s.Log.Metadata, Metadata) {
		return Failf(Lost, "metadata %q", s.Log.Metadata)
	}
	if got := StateRecord(s.Log.State); got != want.State {
		return Failf(Invented, "replay gives the hard state %v, not %v", got, want.State)
	}
	for i, n := range s.Snapshots {
		if err := judgeEntries(n, s.logs[i].Entries, want.After(n.Index)); err != nil {
			return err
		}
	}
	return nil
}

// judgeEntries compares the entries that Replay gives from a snapshot with those that there should
// be.
func judgeEntries(from walpb.Snapshot, got []walpb.Entry, want []Record) error {
	if len(got) != len(want) {
		v := Invented
		if len(got) < len(want) {
			v = Lost
		}
		return Failf(v, "replay from %d gives %s, not %d entries", from.Index, Indexes(got), len(want))
	}
	for i, e := range got {
		if EntryRecord(e) != want[i] {
			return Failf(Invented, "replay from %d gives %d/%d, not %v", from.Index, e.Term, e.Index, want[i])
		}
	}
	return nil
}

// JudgeRecovered compares the Log that Recover returned with what was seen after it.
func (m *Model) JudgeRecovered(l *wal.Log, s *Seen) error {
	want := Fold(m.Records[:s.Count])
	if !bytes.Equal(l.Metadata, Metadata) || !want.Is(l) {
		return Failf(Invented, "Recover gives %s after %d/%d and %+v, and the log says otherwise", Indexes(l.Entries), l.Snapshot.Term, l.Snapshot.Index, l.State)
	}
	if s.Log != nil && !reflect.DeepEqual(l, s.Log) {
		return Failf(Lost, "Recover gives %s after %d/%d, and Replay %s after %d/%d", Indexes(l.Entries), l.Snapshot.Term, l.Snapshot.Index,
			Indexes(s.Log.Entries), s.Log.Snapshot.Term, s.Log.Snapshot.Index)
	}
	return nil
}

// JudgeSnapshots compares those that a Writer has read when it was opened with those that can be
// read since. Before Open had removed what was released, it could not be known of each that what
// follows it is there; but it could of the newest.
func (s *Seen) JudgeSnapshots(got []walpb.Snapshot) error {
	has := func(list []walpb.Snapshot, one walpb.Snapshot) bool {
		return slices.ContainsFunc(list, func(n walpb.Snapshot) bool { return SnapshotRecord(n) == SnapshotRecord(one) })
	}
	invented := slices.ContainsFunc(got, func(n walpb.Snapshot) bool { return !has(s.Snapshots, n) })
	switch {
	case invented:
		return Failf(Invented, "the Writer has the snapshots %v, and the log %v", got, s.Snapshots)
	case !has(got, s.Newest()):
		return Failf(Lost, "the Writer has the snapshots %v, and the log %v", got, s.Snapshots)
	}
	return nil
}

// JudgeLog looks for the point of the history at which the records came to what a log says they do.
func (m *Model) JudgeLog(l *wal.Log) error {
	for n := len(m.Records); n >= m.Acked; n-- {
		if m.comesTo(l, n) {
			return nil
		}
	}
	got := fmt.Sprintf("%s after %d/%d and %+v", Indexes(l.Entries), l.Snapshot.Term, l.Snapshot.Index, l.State)
	if !m.attempted(l) {
		return Failf(Invented, "%s: some of that was never saved", got)
	}
	return Failf(Lost, "%s: the log was never that since record %d of %d, the last to be acknowledged", got, m.Acked, len(m.Records))
}

// attempted reports whether all that a log says was attempted at some time.
func (m *Model) attempted(l *wal.Log) bool {
	of := func(r Record) bool { return slices.Contains(m.Records, r) }
	if string(l.Metadata) != string(Metadata) || !of(SnapshotRecord(l.Snapshot)) || !l.State.IsZero() && !of(StateRecord(l.State)) {
		return false
	}
	return !slices.ContainsFunc(l.Entries, func(e walpb.Entry) bool { return !of(EntryRecord(e)) })
}

// comesTo reports whether a log is what the first n records come to.
func (m *Model) comesTo(l *wal.Log, n int) bool {
	if StateRecord(l.State) != m.State(n) || !bytes.Equal(l.Metadata, Metadata) {
		return false // in short
	}
	want := Fold(m.Records[:n])
	return want.Is(l)
}

// Indexes describes entries in a few characters.
func Indexes(entries []walpb.Entry) string {
	if len(entries) == 0 {
		return "no entries"
	}
	a, b := entries[0], entries[len(entries)-1]
	return fmt.Sprintf("%d/%d..%d/%d", a.Term, a.Index, b.Term, b.Index)
}
