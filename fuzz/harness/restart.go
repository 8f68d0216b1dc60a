package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A Restart opens what a crash has left of a log, in the steps of a program that starts again, and
// some that it need not take.
type Restart struct {
	Options wal.Options   // of the log; FS is set to the disk
	Model   *oracle.Model // what must be there
	Rng     *rand.Rand    // which of the optional steps are taken

	// Inside, if not nil, is called after changes of the file system during the recovery, in one of
	// six restarts.
	Inside func(op crashfs.Op)

	// Also, if not nil, looks for what else must be there.
	Also func(s *oracle.Seen) error
}

// on returns the options of a log that does nothing in the background.
func (r *Restart) on(disk *crashfs.FS) *wal.Options {
	o := r.Options
	o.FS, o.Background = disk, func(func()) {}
	return &o
}

// Judge restarts on a disk, which it changes. The log must be what the model says, and go on from
// there.
func (r *Restart) Judge(disk *crashfs.FS) error {
	if r.Rng.IntN(8) == 0 {
		if err := r.check(disk); err != nil {
			return err
		}
	}
	var background Queue
	o := r.on(disk)
	o.Background = background.Add
	if r.Inside != nil && r.Rng.IntN(6) == 0 {
		disk.SetHook(nil, r.Inside)
	}
	if r.Rng.IntN(8) == 0 {
		if _, err := Repair(disk, r.Model, o); err != nil {
			return err
		}
	}
	w, log, err := Open(disk, o, r.Model.Acked%2 == 0)
	if errors.Is(err, fs.ErrNotExist) && !r.Model.Created {
		if w, err = wal.Create(Dir, oracle.Metadata, o); err != nil {
			return oracle.Failf(oracle.Refused, "create again: %v", err)
		}
	}
	if err != nil {
		return oracle.Failf(oracle.Refused, "open: %v", err)
	}
	background.Run()
	disk.SetHook(nil, nil)
	err = r.look(w, log, disk)
	if err2 := w.Close(); err == nil && err2 != nil {
		err = oracle.Failf(oracle.Refused, "close: %v", err2)
	}
	return err
}

// look reads a log that was opened. recovered is what Recover returned; nil if Open was called.
func (r *Restart) look(w *wal.Writer, recovered *wal.Log, disk *crashfs.FS) error {
	s, err := oracle.Observe(disk, Dir, [...]oracle.Thorough{oracle.ItsRecords, oracle.ItsRecords, oracle.ItsMeaning, oracle.AsARestart}[r.Rng.IntN(4)])
	if err != nil {
		return err
	}
	if s.Gap {
		return oracle.Failf(oracle.Refused, "segments are missing in the middle, where etcd refuses the log, and Open leaves it so")
	}
	if err := r.Model.Judge(s); err != nil {
		return err
	}
	if recovered != nil {
		if err := r.Model.JudgeRecovered(recovered, s); err != nil {
			return err
		}
	}
	if s.Log == nil {
		return nil
	}
	if err := s.JudgeSnapshots(w.Snapshots()); err != nil {
		return err
	}
	if r.Also != nil {
		if err := r.Also(s); err != nil {
			return err
		}
	}
	if r.Rng.IntN(4) == 0 {
		return r.goOn(w, disk, s)
	}
	return nil
}

// check asks Check, which must find nothing that is not a crash's.
func (r *Restart) check(disk *crashfs.FS) error {
	report, err := wal.Check(Dir, &wal.Options{FS: disk})
	if errors.Is(err, fs.ErrNotExist) && !r.Model.Created {
		return nil
	}
	if err != nil {
		return oracle.Failf(oracle.Refused, "check: %v", err)
	}
	if report.Verdict >= wal.Corrupt {
		return oracle.Failf(oracle.Refused, "check says %v: %+v", report.Verdict, report.Findings)
	}
	return nil
}

// goOn appends to a log that was recovered, cuts the power, and opens it again.
func (r *Restart) goOn(w *wal.Writer, disk *crashfs.FS, before *oracle.Seen) error {
	state, last := before.Next()
	state.Vote = uint64(r.Rng.IntN(3))
	e := walpb.Entry{Term: state.Term, Index: last + 1, Data: []byte("after the recovery")}
	if err := w.Save(state, []walpb.Entry{e}); err != nil {
		if errors.Is(err, wal.ErrNoSpace) && disk.Size() > 0 {
			return nil
		}
		return oracle.Failf(oracle.Refused, "save after the recovery: %v", err)
	}
	after := disk.Crash(crashfs.DropAll)
	if r.Options.NoSync {
		after = disk.Clone()
	}
	w2, _, err := Open(after, r.on(after), false)
	if err != nil {
		return oracle.Failf(oracle.Refused, "open after the recovery: %v", err)
	}
	defer w2.Close()
	s, err := oracle.Observe(after, Dir, oracle.AsARestart)
	if err != nil {
		return err
	}
	want := append(slices.Clone(before.Records), oracle.EntryRecord(e), oracle.StateRecord(state))
	if !slices.Equal(s.Records, want) {
		return oracle.Failf(oracle.Lost, "after the recovery: %d records, not %d", len(s.Records), len(want))
	}
	return nil
}

// Repair does what Open would do to the end of a log, by a Plan. Then there is nothing left to
// do. It returns whether there was.
func Repair(disk *crashfs.FS, m *oracle.Model, o *wal.Options) (done bool, err error) {
	p, err := wal.PlanRepair(Dir, o)
	if errors.Is(err, fs.ErrNotExist) && !m.Created {
		return false, nil
	}
	if err != nil {
		return false, oracle.Failf(oracle.Refused, "plan a repair: %v", err)
	}
	done = p.Verdict != wal.Clean
	err = p.Apply()
	if disk.Size() > 0 && fileutil.IsFull(err) {
		if err = free(disk, err); err == nil {
			err = p.Apply()
		}
	}
	if err != nil {
		return done, oracle.Failf(oracle.Refused, "repair: %v", err)
	}
	if p, err = wal.PlanRepair(Dir, o); err != nil || p.Verdict != wal.Clean {
		return done, oracle.Failf(oracle.Refused, "plan another repair: %v, %+v", err, p)
	}
	return done, nil
}

// Open opens the log on a disk, by wal.Recover if a program wants to read it at once, and else by
// wal.Open, without a Log. If the disk is full, there may be no room for the copy of a tail that is
// unproven, and only of that; then the error says how much to free, and that is enough.
func Open(disk *crashfs.FS, o *wal.Options, read bool) (w *wal.Writer, log *wal.Log, err error) {
	open := func() (*wal.Writer, *wal.Log, error) {
		if read {
			return wal.Recover(Dir, o, oracle.Choose)
		}
		w, err := wal.Open(Dir, o)
		return w, nil, err
	}
	if disk.Size() == 0 {
		return open()
	}
	p, err := wal.PlanRepair(Dir, &wal.Options{FS: disk})
	if err != nil {
		return open()
	}
	w, log, err = open()
	if fileutil.IsFull(err) && p.Verdict == wal.TornUnproven {
		if err = free(disk, err); err == nil {
			w, log, err = open()
		}
	}
	if _, missing := disk.ReadFile(path.Join(Dir, p.Copy)); err == nil && p.Copy != "" && p.Verdict != wal.Torn && missing != nil {
		w.Close()
		return nil, nil, oracle.Failf(oracle.Lost, "the copy of a tail that is %v: %v", p.Verdict, missing)
	}
	return w, log, err
}

// free makes room on a disk, as much as an error says.
func free(disk *crashfs.FS, full error) error {
	var n int64
	_, amount, _ := strings.Cut(full.Error(), ": free ")
	if _, err := fmt.Sscanf(amount, "%d bytes", &n); err != nil {
		return oracle.Failf(oracle.Refused, "%v: that does not say how much to free", full)
	}
	disk.SetSize(max(disk.Size(), disk.Used()) + n)
	return nil
}
