package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// workloads returns the programs that faults are tried on.
func workloads() []*workload {
	return []*workload{
		{name: "log", begin: emptyDisk, steps: logSteps},
		{name: "plain", begin: emptyDisk, steps: plainSteps, plain: true},
		{name: "torn", begin: once(tornDisk), steps: []step{checkLog, openStep, save(2), closeStep, checkLog}},
		{name: "repair", begin: once(tornDisk), steps: []step{repair, checkLog, replay, openStep, save(1), closeStep}},
		{name: "recover", begin: once(tornDisk), steps: []step{recoverStep, save(2), snapshotStep, closeStep, recoverStep, save(1), closeStep}},
		{name: "unborn", begin: once(unbornDisk), steps: []step{openStep, save(2), closeStep}},
		{name: "repair-unborn", begin: once(unbornDisk), steps: []step{repair, openStep, save(1), closeStep}},
		{name: "snap", begin: emptyDisk, steps: snapSteps},
		{name: "body", begin: emptyDisk, steps: bodySteps},
	}
}

// logSteps is everything that a Writer can do, and a restart.
var logSteps = []step{
	create, save(3), snapshotStep, save(4), save(4), vote, appendStep, commitStep, burstStep, overwriteStep, save(4), snapshotStep, save(4), save(3), commitStep,
	release, save(2), installStep, save(2), syncStep, commitStep, closeStep,
	openStep, checkLog, replay, save(3), snapshotStep, syncStep, release, closeStep,
}

var plainSteps = []step{create, save(4), snapshotStep, save(4), appendStep, save(4), commitStep, closeStep, openStep, save(3), closeStep}

func emptyDisk() (*crashfs.FS, *oracle.Model) { return harness.NewDisk(), oracle.NewModel() }

// once returns a function that makes the same again and again, and works only the first time.
func once(build func() (*crashfs.FS, *oracle.Model)) func() (*crashfs.FS, *oracle.Model) {
	built := sync.OnceValues(build)
	return func() (*crashfs.FS, *oracle.Model) {
		disk, m := built()
		return disk.Clone(), m.Clone()
	}
}

// tornDisk is a log whose last batch reached the disk in part.
func tornDisk() (*crashfs.FS, *oracle.Model) {
	return cutDuring(func(op crashfs.Op) bool { return op.Kind == crashfs.OpWrite && op.N > 4096 }, func(disk *crashfs.FS) crashfs.Chooser {
		return crashfs.DropOne(1) // the second of the sectors that were written
	})
}

// unbornDisk is a log that was being cut.
func unbornDisk() (*crashfs.FS, *oracle.Model) {
	return cutDuring(func(op crashfs.Op) bool { return op.Kind == crashfs.OpRename && op.Name != harness.Dir+"/0.tmp" }, func(*crashfs.FS) crashfs.Chooser {
		return crashfs.KeepAll
	})
}

// cutDuring saves until some entries are acknowledged and an operation has been done, and cuts the
// power after it.
func cutDuring(when func(crashfs.Op) bool, how func(*crashfs.FS) crashfs.Chooser) (*crashfs.FS, *oracle.Model) {
	w := &workload{name: "before", begin: emptyDisk}
	t := newTrial(&campaign{}, run{workload: w, op: -1})
	var left *crashfs.FS
	var known *oracle.Model
	t.disk.SetHook(nil, func(op crashfs.Op) {
		if left == nil && t.w != nil && t.model.Acked > 8 && when(op) {
			left, known = t.disk.Crash(how(t.disk)), t.model.Clone()
		}
	})
	t.perform(create)
	for i := 0; left == nil; i++ {
		t.perform(save(1 + i%4))
	}
	t.finish()
	return left, known
}

// create makes the log. If it is called again it may find that it had made it.
var create = step{name: "create", kind: onNothing, do: func(t *trial) error {
	w, err := wal.Create(harness.Dir, oracle.Metadata, t.options())
	if errors.Is(err, wal.ErrExists) && len(t.striker.firings(0)) > 0 {
		return openLog(t)
	}
	if err = t.began(w, err); err != nil {
		return err
	}
	t.model.Created = true
	return nil
}}

var openStep = step{name: "open", kind: recovers, do: openLog}

// recoverStep is a restart in one call.
var recoverStep = step{name: "recover", kind: recovers, do: func(t *trial) error {
	if t.w != nil {
		return nil
	}
	w, log, err := wal.Recover(harness.Dir, t.options(), oracle.Choose)
	if err = t.began(w, err); err != nil || t.failure != nil {
		return err
	}
	if want := oracle.Fold(t.model.Records); !want.Is(log) {
		t.fail(oracle.Invented, "Recover gives %s after %d/%d and %+v, and the log says otherwise", oracle.Indexes(log.Entries), log.Snapshot.Term, log.Snapshot.Index, log.State)
	}
	return nil
}}

// save appends entries, the hard state that commits half of what there is, and waits.
func save(count int) step {
	return step{name: fmt.Sprintf("save %d", count), do: func(t *trial) error {
		state, entries := t.next(count)
		return t.saved(state, entries)
	}}
}

// next returns what may follow: entries of the same term, and a commit.
func (t *trial) next(count int) (walpb.HardState, []walpb.Entry) {
	m := oracle.Fold(t.model.Records)
	state := oracle.HardState(m.State)
	state.Term = max(state.Term, m.Term(m.Last()), 1)
	var entries []walpb.Entry
	for i := range uint64(count) {
		entries = append(entries, t.entry(m.Last()+1+i, state.Term))
	}
	state.Commit = max(state.Commit, (state.Commit+m.Last())/2)
	return state, entries
}

// attempt tells the model of what is about to be written, unless it cannot be written any more.
func (t *trial) attempt(state walpb.HardState, entries []walpb.Entry) {
	if t.broken != nil {
		return
	}
	for _, e := range entries {
		t.model.Attempt(oracle.EntryRecord(e))
	}
	if !state.IsZero() {
		t.model.Attempt(oracle.StateRecord(state))
	}
}

// acked takes the outcome of a call that promises that everything is durable.
func (t *trial) acked(err error) error {
	if err == nil && t.broken == nil {
		t.model.Acked = len(t.model.Records)
	}
	return err
}

func (t *trial) saved(state walpb.HardState, entries []walpb.Entry) error {
	t.attempt(state, entries)
	return t.acked(t.call(func() error { return t.w.Save(state, entries) }))
}

var vote = step{name: "vote", do: func(t *trial) error {
	state := oracle.HardState(t.model.State(len(t.model.Records)))
	state.Term++
	state.Vote = 2
	return t.saved(state, nil)
}}

// commitStep moves the commit alone, which is not waited for.
var commitStep = step{name: "commit", do: func(t *trial) error {
	m := oracle.Fold(t.model.Records)
	state := oracle.HardState(m.State)
	state.Commit = max(state.Commit, min(state.Commit+1, m.Last()))
	t.attempt(state, nil)
	return t.call(func() error { return t.w.Save(state, nil) })
}}

var appendStep = step{name: "append", do: func(t *trial) error {
	state, entries := t.next(2)
	t.attempt(state, entries)
	return t.acked(t.call(func() error {
		done := make(chan error, 1)
		if err := t.w.Append(state, entries, func(err error) { done <- err }); err != nil {
			return err
		}
		return <-done
	}))
}}

// burstStep appends twice: while the first entry is on its way to the disk the others gather, and
// they go down with it. A third call might wait for the first: if the second fills the segment.
var burstStep = step{name: "burst", do: func(t *trial) error {
	_, entries := t.next(3)
	t.attempt(walpb.HardState{}, entries)
	hold, held := t.striker.holdWrite()
	defer t.striker.letWrite()
	return t.acked(t.call(func() error {
		results := make(chan error, len(entries)+1)
		tell := func(err error) { results <- err }
		if err := t.w.Append(walpb.HardState{}, entries[:1], tell); err != nil {
			return err
		}
		select {
		case <-held:
		case err := <-results: // it has not come to its write
			results <- err
		}
		waiting := 1
		refused := t.w.Append(walpb.HardState{}, entries[1:], tell)
		if refused == nil {
			waiting++
		}
		close(hold)
		failed := refused
		if errors.Is(refused, wal.ErrNoSpace) {
			if err := <-results; err != nil {
				return err
			}
			t.model.Acked = len(t.model.Records) - len(entries) + 1
			return refused
		}
		for range waiting {
			err := <-results
			if failed != nil && refused == nil && (err == nil || err.Error() != failed.Error()) {
				t.fail(WentOn, "one of a burst failed with %v, a later one with %v", failed, err)
			}
			if failed == nil {
				failed = err
			}
		}
		return failed
	}))
}}

// overwriteStep replaces the last entry that is not committed.
var overwriteStep = step{name: "overwrite", do: func(t *trial) error {
	m := oracle.Fold(t.model.Records)
	if m.Last() == m.State.Index {
		return t.saved(oracle.HardState(m.State), []walpb.Entry{t.entry(m.Last()+1, max(m.State.Term, 1))})
	}
	state := oracle.HardState(m.State)
	state.Term = max(state.Term, m.Term(m.Last())) + 1
	return t.saved(state, []walpb.Entry{t.entry(m.Last(), state.Term), t.entry(m.Last()+1, state.Term)})
}}

func (t *trial) snapshot(s walpb.Snapshot) error {
	if t.broken == nil {
		t.model.Attempt(oracle.SnapshotRecord(s))
	}
	return t.acked(t.call(func() error { return t.w.SaveSnapshot(s) }))
}

// snapshotStep records a snapshot of what is committed.
var snapshotStep = step{name: "snapshot", do: func(t *trial) error {
	m := oracle.Fold(t.model.Records)
	return t.snapshot(walpb.Snapshot{Index: m.State.Index, Term: m.Term(m.State.Index), ConfState: oracle.ConfState(m.State.Index)})
}}

// installStep records a snapshot that a leader sent, and commits it.
var installStep = step{name: "install", do: func(t *trial) error {
	m := oracle.Fold(t.model.Records)
	state := oracle.HardState(m.State)
	state.Term = max(state.Term, m.Term(m.Last())) + 1
	index := m.Last() + 5
	if err := t.snapshot(walpb.Snapshot{Index: index, Term: state.Term, ConfState: oracle.ConfState(index)}); err != nil {
		return err
	}
	state.Commit = index
	return t.saved(state, nil)
}}

var syncStep = step{name: "sync", do: func(t *trial) error {
	return t.acked(t.call(func() error { return t.w.Sync() }))
}}

// release lets go of what the newest snapshot makes unnecessary.
var release = step{name: "release", do: func(t *trial) error {
	index := oracle.Fold(t.model.Records).State.Index
	if t.broken != nil {
		return t.call(func() error { return t.w.Release(index) })
	}
	before, err := oracle.Observe(t.disk.Clone(), harness.Dir, oracle.AsARestart)
	if err == nil {
		err = t.model.Judge(before)
	}
	if err != nil {
		t.failure = fmt.Errorf("before a release: %w", err)
		return nil
	}
	t.model.MayRelease(before, index)
	if err := t.call(func() error { return t.w.Release(index) }); err != nil {
		return err
	}
	after, err := oracle.Observe(t.disk.Clone(), harness.Dir, oracle.AsARestart)
	if err != nil {
		t.failure = fmt.Errorf("after a release: %w", err)
		return nil
	}
	for _, s := range before.Starts {
		if s.Segment < after.First {
			t.model.Gone[s.Segment] = true
		}
	}
	return nil
}}

var closeStep = step{name: "close", do: func(t *trial) error {
	w := t.w
	err := t.acked(w.Close())
	if again := w.Close(); (err == nil) != (again == nil) || err != nil && again.Error() != err.Error() {
		t.fail(WentOn, "Close returned %v, and then %v", err, again)
	}
	broken := t.broken
	if broken != nil {
		t.sameError("close", broken, err)
		err = broken
	}
	t.w = nil
	if n := t.disk.Handles(); n > 0 {
		t.fail(Leaked, "Close left %d files open", n)
	}
	return err
}}

// checkLog reads all of the log without a lock. What it says must be what there is to say.
var checkLog = step{name: "check", kind: onNothing, do: func(t *trial) error {
	report, err := wal.Check(harness.Dir, t.options())
	if err != nil {
		return t.unopened(err)
	}
	want, err := wal.Check(harness.Dir, &wal.Options{FS: t.disk.Clone()})
	if err != nil || report.Verdict != want.Verdict || report.LastIndex != want.LastIndex || report.State != want.State {
		t.fail(oracle.Lost, "Check says %v, %d, %v; without a fault %v, %d, %v", report.Verdict, report.LastIndex, report.State, want.Verdict, want.LastIndex, want.State)
	}
	if report.Verdict >= wal.Corrupt {
		t.fail(oracle.Refused, "check says %v: %+v", report.Verdict, report.Findings)
	}
	return nil
}}

// unopened makes nothing of an error if there is no log, as after a Create that failed.
func (t *trial) unopened(err error) error {
	if errors.Is(err, fs.ErrNotExist) && !t.model.Created {
		return nil
	}
	return err
}

// replay reads the log as a program does that starts again.
var replay = step{name: "replay", kind: onNothing, do: func(t *trial) error {
	got, err := replayed(t.options())
	if err != nil {
		return t.unopened(err)
	}
	want, err := replayed(&wal.Options{FS: t.disk.Clone()})
	if err != nil || len(got.Entries) != len(want.Entries) || got.State != want.State {
		t.fail(oracle.Lost, "Replay gives %d entries and %v; without a fault %d and %v", len(got.Entries), got.State, len(want.Entries), want.State)
	}
	return nil
}}

func replayed(o *wal.Options) (*wal.Log, error) {
	snapshots, err := wal.Snapshots(wal.Records(harness.Dir, 0, o))
	if err != nil {
		return nil, err
	}
	s, _ := wal.Newest(snapshots)
	return wal.Replay(wal.Records(harness.Dir, s.Index, o), s)
}

// repair plans a repair and applies it.
var repair = step{name: "repair", kind: recovers, do: func(t *trial) error {
	plan, err := wal.PlanRepair(harness.Dir, t.options())
	if err != nil {
		return err
	}
	return plan.Apply()
}}
