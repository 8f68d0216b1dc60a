package fuzz

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A Recover opens what a crash has left of a log, in the way of another program, and says what the
// log comes to. With Config.Recover a campaign judges that program in the place of [wal.Open], on
// the same states: those of logs that package wal has written, so with Config.PlainEtcd they have
// etcd's bytes.
//
// The log is in the directory dir of disk, which is the Recover's own to read and to change; its
// Tree is every file in it. The result is what [wal.Replay] would return: the entries that stand
// behind Snapshot, which must be a snapshot that the log records and its commit covers, or the zero
// one. It is judged by what it means: it must be what the records that were attempted came to at
// some point that is not before the last that was acknowledged. If it is not, it counts as invented
// if any of it was never attempted, or was not there at an earlier Open, and else as lost.
//
// An error means that the program refuses the log, and a mere crash is no reason to. If there is no
// log the error must be an fs.ErrNotExist: before Create has returned that is as it should be. A
// panic is not caught.
//
// It is called from Config.Workers goroutines at once.
type Recover func(disk *crashfs.FS, dir string) (*wal.Log, error)

// examineWith judges another program's recovery. The history goes on whatever comes of it.
func (h *history) examineWith(open Recover, disk *crashfs.FS, what string) {
	log, err := open(disk, dir)
	switch {
	case err == nil:
		err = h.model.judgeLog(log)
	case errors.Is(err, fs.ErrNotExist) && !h.model.created:
		return
	default:
		err = failf(Refused, "%v", err)
	}
	var f *failure
	if errors.As(err, &f) {
		h.count(f.verdict, what+": "+f.detail)
	}
}

// judgeLog looks for the point of the history at which the records came to what a log says they do.
func (m *model) judgeLog(l *wal.Log) error {
	for n := len(m.records); n >= m.acked; n-- {
		if m.comesTo(l, n) {
			return nil
		}
	}
	got := fmt.Sprintf("%s behind %d/%d and %+v", indexes(l.Entries), l.Snapshot.Index, l.Snapshot.Term, l.State)
	if !m.attempted(l) {
		return failf(Invented, "%s: some of that was never saved", got)
	}
	return failf(Lost, "%s: the log was never that since record %d of %d, the last to be acknowledged", got, m.acked, len(m.records))
}

// attempted tells whether all that a log says was attempted at some time.
func (m *model) attempted(l *wal.Log) bool {
	of := func(r record) bool { return slices.Contains(m.records, r) }
	if string(l.Metadata) != string(metadata) || !of(snapshotRecord(l.Snapshot)) || !l.State.IsZero() && !of(stateRecord(l.State)) {
		return false
	}
	return !slices.ContainsFunc(l.Entries, func(e walpb.Entry) bool { return !of(entryRecord(e)) })
}

// comesTo tells whether a log is what the first n records come to.
func (m *model) comesTo(l *wal.Log, n int) bool {
	if stateRecord(l.State) != m.state(n) {
		return false
	}
	want := fold(m.records[:n])
	from := func(s place) bool { return s.record == snapshotRecord(l.Snapshot) && s.index <= want.state.index }
	if string(l.Metadata) != string(metadata) || !slices.ContainsFunc(want.snapshots, from) {
		return false
	}
	same := func(e walpb.Entry, r record) bool { return entryRecord(e) == r }
	return slices.EqualFunc(l.Entries, want.after(l.Snapshot.Index), same)
}
