package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Where the log and the snapshots are, below the directory of a store. Neither parent is there at
// first.
func walDir(dir string) string { return filepath.Join(dir, "member", "wal") }

func snapDir(dir string) string { return filepath.Join(dir, "member", "snap") }

// seen is a store as its readers show it.
type seen struct {
	*oracle.Seen
	names []string // of the segments and snapshots that are there
}

// observe reads a store. It makes nothing durable that the store has not.
func observe(dir string) (seen, error) {
	log, err := oracle.Observe(fileutil.OS{}, walDir(dir), oracle.AsARestart)
	if err != nil {
		return seen{}, err
	}
	names := slices.Clone(log.Segments)
	l, err := snap.ReadOnly(snapDir(dir), nil).List()
	if errors.Is(err, fs.ErrNotExist) { // the store was made in part
		return seen{log, names}, nil
	} else if err != nil {
		return seen{}, oracle.Failf(oracle.Refused, "list the snapshots: %v", err)
	}
	for _, n := range l.Snapshots {
		names = append(names, fmt.Sprintf("snapshot %d/%d", n.Term, n.Index))
	}
	for _, n := range l.Bodies {
		names = append(names, fmt.Sprintf("body %d", n))
	}
	return seen{log, names}, nil
}

// Recover opens what a crash has left of the store in dir, in the steps of a program that starts
// again, and compares it with what is owed. If further is true it also goes on from there and opens
// the store again. The error is an *oracle.Failure, or what went wrong with the rig.
func Recover(dir string, owed Owed, further bool) error {
	// The disk is too small for the default, and would be full while a spare is made.
	o := &wal.Options{SegmentSize: 16 << 10}
	w, log, err := wal.Recover(walDir(dir), o, oracle.Choose)
	if errors.Is(err, fs.ErrNotExist) {
		if owed.model != nil {
			return oracle.Failf(oracle.Lost, "there is no log: %v", err)
		}
		if w, err = wal.Create(walDir(dir), oracle.Metadata, o); err != nil {
			return oracle.Failf(oracle.Refused, "create again: %v", err)
		}
	}
	if err != nil {
		return oracle.Failf(oracle.Refused, "open: %v", err)
	}
	if owed.model == nil { // a crash came between the end of Create and its acknowledgement
		owed = created()
	}
	s, err := observe(dir)
	if err == nil {
		err = owed.judge(dir, s)
	}
	if err == nil && log != nil {
		err = owed.model.JudgeRecovered(log, s.Seen)
	}
	if err == nil && further {
		err = goOn(w, s)
	}
	if err2 := w.Close(); err == nil && err2 != nil {
		err = oracle.Failf(oracle.Refused, "close: %v", err2)
	}
	if err != nil || !further {
		return err
	}
	again, err := observe(dir)
	if err != nil {
		return err
	}
	if !slices.Equal(again.Records, s.Records) {
		return oracle.Failf(oracle.Lost, "after the recovery: %d records, not %d", len(again.Records), len(s.Records))
	}
	return nil
}

// goOn appends an entry to a log that was recovered, and to what was seen.
func goOn(w *wal.Writer, s seen) error {
	state, last := s.Next()
	e := entry(last+1, state.Term)
	if err := w.Save(state, []walpb.Entry{e}); err != nil {
		return oracle.Failf(oracle.Refused, "save after the recovery: %v", err)
	}
	s.Records = append(s.Records, oracle.EntryRecord(e), oracle.StateRecord(state))
	return nil
}

// judge compares a store with what is owed.
func (o Owed) judge(dir string, s seen) error {
	for _, name := range s.names {
		if slices.Contains(o.gone, name) {
			return oracle.Failf(oracle.Invented, "%s was removed and is there again", name)
		}
	}
	if err := o.model.Judge(s.Seen); err != nil {
		return err
	}
	// The snapshots that are owed, and the newest that the log records.
	files := o.files
	if n := s.Newest(); n.Index > 0 && !slices.Contains(files, file{n.Index, n.Term}) {
		files = append(slices.Clone(files), file{n.Index, n.Term})
	}
	for _, f := range files {
		if err := readSnapshot(dir, f); err != nil {
			return oracle.Failf(oracle.Lost, "the snapshot of %d/%d: %v", f.term, f.index, err)
		}
	}
	return nil
}

// readSnapshot reads a snapshot and compares it with what was written.
func readSnapshot(dir string, f file) error {
	store := snap.ReadOnly(snapDir(dir), nil)
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
