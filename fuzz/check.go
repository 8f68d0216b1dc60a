package fuzz

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// judge compares a log with the model: it must be made of the first records that were attempted, up
// to some point that is not before the last that was acknowledged; and what it means must be what
// they mean.
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
		if n.at >= from && want.replayable(n.record, m.records[from:s.count]) {
			usable = append(usable, n.record)
		}
	}
	if s.gap {
		// By the names of the segments alone, a reader cannot know of all but the newest that what
		// follows them is there.
		newest := slices.MaxFunc(usable, func(a, b record) int { return cmp.Compare(a.index, b.index) })
		usable = slices.DeleteFunc(usable, func(r record) bool {
			return r.index != newest.index && !slices.ContainsFunc(s.snapshots, func(n walpb.Snapshot) bool { return snapshotRecord(n) == r })
		})
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
	for i, n := range s.snapshots {
		if err := judgeEntries(n, s.logs[i].Entries, want.after(n.Index)); err != nil {
			return err
		}
	}
	return nil
}

// judgeEntries compares the entries that Replay gives from a snapshot with those that there should
// be.
func judgeEntries(from walpb.Snapshot, got []walpb.Entry, want []record) error {
	if len(got) != len(want) {
		v := Invented
		if len(got) < len(want) {
			v = Lost
		}
		return failf(v, "replay from %d gives %s, not %d entries", from.Index, indexes(got), len(want))
	}
	for i, e := range got {
		if entryRecord(e) != want[i] {
			return failf(Invented, "replay from %d gives %d/%d, not %v", from.Index, e.Term, e.Index, want[i])
		}
	}
	return nil
}

// settle makes the first records all there is: an Open has shown them and no others. It returns the
// others.
func (m *model) settle(count int) (lost []record) {
	lost = slices.Clone(m.records[count:])
	m.records = m.records[:count]
	m.acked, m.created = count, true
	return lost
}

// examine opens what a crash has left. A log that opens must be what the model says; and the
// recovery itself is crashed as well, now and then, down to some depth.
func (h *history) examine(disk *crashfs.FS, what string, depth int) {
	if !h.isNew(disk) {
		h.campaign.result.Repeats++
		return
	}
	h.alive()
	h.states++
	h.campaign.result.States++
	if h.states%256 == 0 {
		h.campaign.report()
	}
	if r := h.campaign.cfg.Recover; r != nil {
		h.examineWith(r, disk, what)
		return
	}
	h.protect(func() {
		if err := h.tryOpen(disk, depth, what); err != nil {
			h.report(err, what)
		}
	})
}

// image is a state with what there must be in it.
type image struct {
	sum                  uint64
	attempted, acked     int
	started, gone, files int
	created              bool
}

// isNew tells whether a state was not opened yet, in this life, when the same was to be in it. In a
// life the model only grows, so its sizes tell what it is.
func (h *history) isNew(disk *crashfs.FS) bool {
	m := h.model
	i := image{disk.Sum(sumSeed), len(m.records), m.acked, len(m.starts), len(m.gone), 0, m.created}
	if h.files != nil {
		i.files = h.files.steps
	}
	_, old := h.opened[i]
	h.opened[i] = struct{}{}
	return !old
}

func (h *history) tryOpen(disk *crashfs.FS, depth int, what string) error {
	if h.rng.IntN(8) == 0 {
		if err := h.verify(disk); err != nil {
			return err
		}
	}
	made := make(chan error, 4)
	o := h.optionsOn(disk)
	o.Observer.Spare = func(err error) { made <- err }
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
	if h.rng.IntN(8) == 0 {
		if _, err := h.repair(disk, o); err != nil {
			return err
		}
	}
	w, err := h.openOn(disk, o)
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
	s, err := observe(disk, [...]thorough{itsRecords, itsRecords, itsMeaning, asARestart}[h.rng.IntN(4)])
	if err == nil && s.gap {
		err = failf(Refused, "segments are missing in the middle, where etcd refuses the log, and Open leaves it so")
	}
	if err == nil {
		err = h.model.judge(s)
	}
	if err == nil && s.log != nil && h.files != nil {
		err = h.judgeFiles(disk, s)
	}
	if err == nil && s.log != nil && h.rng.IntN(4) == 0 {
		err = h.goOn(w, disk, s)
	}
	if err2 := w.Close(); err == nil && err2 != nil {
		err = failf(Refused, "close: %v", err2)
	}
	return err
}

// judgeFiles starts from the snapshots' files.
func (h *history) judgeFiles(disk *crashfs.FS, s *seen) error {
	store, err := snap.Open(snapDir, &snap.Options{FS: disk})
	if err != nil {
		return failf(Refused, "open the snapshots: %v", err)
	}
	return h.files.judge(store, disk, s.snapshots, s.newest())
}

// optionsOn returns those of the history's log, on a disk.
func (h *history) optionsOn(fsys fileutil.FS) *wal.Options {
	return &wal.Options{FS: fsys, SegmentSize: h.size, PlainEtcd: h.plain, NoSync: h.noSync}
}

// repair does what Open would do to the end of a log, by a Plan. Then there is nothing left to do.
// It returns whether there was.
func (h *history) repair(disk *crashfs.FS, o *wal.Options) (done bool, err error) {
	p, err := wal.PlanRepair(dir, o)
	if errors.Is(err, fs.ErrNotExist) && !h.model.created {
		return false, nil
	}
	if err != nil {
		return false, failf(Refused, "plan a repair: %v", err)
	}
	done = p.Verdict != wal.Clean
	err = p.Apply()
	if disk.Size() > 0 && fileutil.IsFull(err) {
		if err = free(disk, err); err == nil {
			err = p.Apply()
		}
	}
	if err != nil {
		return done, failf(Refused, "repair: %v", err)
	}
	if p, err = wal.PlanRepair(dir, o); err != nil || p.Verdict != wal.Clean {
		return done, failf(Refused, "plan another repair: %v, %+v", err, p)
	}
	return done, nil
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
	state.Vote = uint64(h.rng.IntN(3))
	e := walpb.Entry{Term: state.Term, Index: last + 1, Data: []byte("behind the recovery")}
	if err := w.Save(state, []walpb.Entry{e}); err != nil {
		if errors.Is(err, wal.ErrNoSpace) && disk.Size() > 0 {
			return nil
		}
		return failf(Refused, "save behind the recovery: %v", err)
	}
	after := disk.Crash(crashfs.DropAll)
	if h.noSync {
		after = disk.Clone()
	}
	w2, err := h.openOn(after, h.optionsOn(after))
	if err != nil {
		return failf(Refused, "open behind the recovery: %v", err)
	}
	defer w2.Close()
	s, err := observe(after, asARestart)
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
