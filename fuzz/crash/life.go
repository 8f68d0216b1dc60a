package crash

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A life is a log from its Create or Open to its end.
type life struct {
	*history
	disk *crashfs.FS
	w    *wal.Writer

	store *snap.Store // of the snapshots' files; nil if there are none

	// background is run after each call on the log, so that a history depends on its seed alone.
	background harness.Queue
	spared     bool // the last attempt to make a spare has made one

	calling bool // a call is at work, or what it has left to the background

	known   int   // how many records there were before the call
	need    int64 // what it needs of the disk
	refused bool  // a call of this step was, for want of space
	starved bool  // the process has no descriptor left while it is at work

	opening   bool // Open or Repair is at work
	repairing bool // it is Repair

	// hold, if not nil, stops the next write until it is closed; held is closed by then.
	hold, held chan struct{}

	segments int         // how many there were when the log was last observed
	inWrite  bool        // it ends in a kill inside a write
	killed   bool        // that write was cut short
	boundary int         // how many changes of the file system there were
	stop     int         // the boundary at which this life ends
	ended    bool        // it has
	remains  *crashfs.FS // what is left then
}

// live runs one life on a disk, and returns what is left, or nil after a failure.
func (h *history) live(disk *crashfs.FS) *crashfs.FS {
	h.campaign.lives++
	h.campaign.counter.Count(func(r *Result) { r.Lives++ })
	h.lives++
	clear(h.opened)
	ops := 1 + h.rng.IntN(9)
	l := h.begin(disk)
	if h.rng.IntN(4) > 0 {
		l.stop = 1 + h.rng.IntN(8+4*ops)
		l.inWrite = h.rng.IntN(3) == 0
	}
	lost := l.open()
	for i := range ops {
		h.trimmed = h.trimmed && i < 2
		if l.ended || h.failed {
			break
		}
		l.crowd()
		l.refused, l.starved = false, h.files == nil && h.rng.IntN(8) == 0
		if l.starved {
			l.trace.Addf("no descriptor is left")
		}
		lost = l.step(lost)
		l.check("after the call")
	}
	clean := !l.ended && h.rng.IntN(2) == 0
	return l.end(clean)
}

func (h *history) begin(disk *crashfs.FS) *life {
	l := &life{history: h, disk: disk, stop: -1}
	disk.SetHook(l.before, l.after)
	disk.SetFault(l.fault)
	return l
}

// fault says which operations fail. What a process needs a descriptor for does while it has none,
// and is at work on the log.
func (l *life) fault(op crashfs.Op) error {
	if l.starved && l.calling && (op.Kind == crashfs.OpOpen || op.Kind == crashfs.OpCreate || op.Kind == crashfs.OpReadDir) {
		return syscall.EMFILE
	}
	return l.cutShort(op)
}

// cutShort has the write in which a life ends reach the files in part, as a kill may leave it. What
// was written is not synced, so that a torn tail comes to stand after records that a power cut can
// still take away.
func (l *life) cutShort(op crashfs.Op) error {
	if op.Kind != crashfs.OpWrite || !l.inWrite || l.ended || l.failed || l.stop < 0 || l.boundary+1 < l.stop {
		return nil
	}
	l.killed = true
	return crashfs.ShortWrite(l.rng.IntN(int(op.N)))
}

// options returns those of the log, on a file system that a saboteur may have spoilt.
func (l *life) options() *wal.Options {
	var fsys fileutil.FS = l.disk
	if s := l.campaign.cfg.Saboteur; s != nil {
		fsys = s.Wrap(fsys, func() bool { return l.opening && (l.repairing || !s.inRepair) })
	}
	o := l.optionsOn(fsys)
	o.Observer = wal.Observer{
		Trimmed: func(string, int64, int64, string) { l.trimmed = true },
		Spare:   l.spareMade,
	}
	o.Background = l.background.Add
	return o
}

// open creates or opens the log, and takes what is there for what must stay. It returns the records
// that were attempted before and are not there.
func (l *life) open() (lost []oracle.Record) {
	l.opening, l.trimmed = true, false
	s := l.campaign.cfg.Saboteur
	if l.rng.IntN(8) == 0 || s != nil && s.inRepair {
		if lost = l.repairFirst(); l.ended || l.failed {
			return nil
		}
	}
	created := false
	w, recovered, err := harness.Open(l.disk, l.options(), l.lives%2 == 0)
	if errors.Is(err, fs.ErrNotExist) && !l.model.Created {
		created, l.opening = true, false
		w, err = wal.Create(harness.Dir, oracle.Metadata, l.options())
	}
	if err != nil {
		if !l.ended {
			l.fail(oracle.Refused, "open: %v", err)
		}
		return nil
	}
	l.opening = false
	l.w = w
	l.background.Run()
	l.synced() // not before the spare is made, on the way to which crashes are asked for
	if l.ended {
		return nil
	}
	seen, err := oracle.Observe(l.disk, harness.Dir, oracle.AsARestart)
	if err == nil {
		err = l.model.Judge(seen)
	}
	if err == nil && recovered != nil {
		err = l.model.JudgeRecovered(recovered, seen)
	}
	if err != nil {
		l.report(err, "what Open shows")
		return nil
	}
	l.segments = len(seen.Segments)
	if l.files != nil && !l.openStore(seen) {
		return nil
	}
	lost = append(l.model.Settle(seen.Count), lost...)
	l.trace.Addf("life %d: created %v, %d records, %d lost", l.lives, created, seen.Count, len(lost))
	l.cluster.restart(l.model.Records)
	l.check("after Open")
	return lost
}

// synced takes note that an Open or a Repair has returned: all that earlier lives have left is
// durable.
func (l *life) synced() {
	if !l.ended && !l.noSync {
		l.unsynced = false
	}
}

// openStore opens the snapshots' files, which must be there. It returns whether the life goes on.
func (l *life) openStore(seen *oracle.Seen) bool {
	o := l.options()
	store, err := snap.Open(harness.SnapDir, &snap.Options{FS: o.FS})
	if l.ended {
		return false
	}
	if err != nil {
		l.fail(oracle.Refused, "open the snapshots: %v", err)
		return false
	}
	l.store = store
	l.report(l.files.judge(store, l.disk, seen.Snapshots, seen.Newest()), "what a restart finds")
	return !l.failed
}

// repairFirst repairs a log before it is opened. What a repair leaves must stay. It returns what it
// took away, as open does.
func (l *life) repairFirst() (lost []oracle.Record) {
	l.trace.Addf("repair")
	l.repairing = true
	done, err := harness.Repair(l.disk, l.model, l.options())
	l.repairing = false
	var seen *oracle.Seen
	if err == nil && done && !l.ended {
		l.synced()
		seen, err = oracle.Observe(l.disk, harness.Dir, oracle.AsARestart)
	}
	if err == nil && seen != nil {
		if err = l.model.Judge(seen); err == nil {
			lost = l.model.Settle(seen.Count)
		}
	}
	if l.ended {
		return nil
	}
	l.report(err, "what Repair leaves")
	l.check("after Repair")
	return lost
}

func (l *life) spareMade(err error) {
	l.spared = err == nil
	if err != nil && !l.ended && !(l.disk.Size() > 0 && fileutil.IsFull(err)) && !(l.starved && errors.Is(err, syscall.EMFILE)) {
		l.fail(oracle.Refused, "make a spare: %v", err)
	}
}

// call does one call on the log, and then what that has left to the background.
func (l *life) call(f func() error) error {
	l.calling = true
	err := f()
	spare := l.spared && l.background.Empty() // else it was used up, and another is to be made
	l.background.Run()
	l.calling = false
	if err != nil && !l.ended && !l.noSpace(err, spare) && !l.unreleased(err) {
		l.fail(oracle.Refused, "%v", err)
	}
	return err
}

// save appends, in one of the ways there are.
func (l *life) save(state walpb.HardState, entries []walpb.Entry) {
	if l.rng.IntN(4) == 0 {
		l.trace.Addf("append %v %s", state, oracle.Indexes(entries))
		l.attempt(state, entries)
		l.append(state, entries)
		return
	}
	l.saveOnly(state, entries)
}

// attempt tells the model what is about to be appended. It returns whether Save will wait until
// that is durable.
func (l *life) attempt(state walpb.HardState, entries []walpb.Entry) (must bool) {
	before := l.model.State(len(l.model.Records))
	l.known, l.need = len(l.model.Records), needed(entries, walpb.Snapshot{})
	for _, e := range entries {
		l.model.Attempt(oracle.EntryRecord(e))
	}
	if !state.IsZero() {
		l.model.Attempt(oracle.StateRecord(state))
	}
	return l.noSync || len(entries) > 0 || !state.IsZero() && (state.Term != before.Term || state.Vote != before.Vote)
}

func (l *life) saveOnly(state walpb.HardState, entries []walpb.Entry) {
	must := l.attempt(state, entries)
	l.trace.Addf("save %v %s", state, oracle.Indexes(entries))
	if l.call(func() error { return l.w.Save(state, entries) }) == nil && must {
		l.ack()
	}
}

// append appends and waits.
func (l *life) append(state walpb.HardState, entries []walpb.Entry) {
	done := make(chan error, 1)
	err := l.call(func() error {
		if err := l.w.Append(state, entries, func(err error) { done <- err }); err != nil {
			return err
		}
		return <-done
	})
	if err == nil {
		l.ack()
	}
}

// burst appends entries one by one: while the first is on its way to the disk, the others gather.
func (l *life) burst(first, second []walpb.Entry) {
	l.trace.Addf("burst %s %s", oracle.Indexes(first), oracle.Indexes(second))
	done := make(chan error, 2)
	tell := func(err error) { done <- err }
	hold, held := make(chan struct{}), make(chan struct{})
	l.hold, l.held = hold, held
	for _, e := range first {
		l.model.Attempt(oracle.EntryRecord(e))
	}
	err := l.call(func() error {
		if err := l.w.Append(walpb.HardState{}, first, tell); err != nil {
			return err
		}
		<-held
		for _, e := range second {
			l.model.Attempt(oracle.EntryRecord(e))
		}
		err := l.w.Append(walpb.HardState{}, second, tell)
		close(hold)
		if err != nil {
			return err
		}
		return errors.Join(<-done, <-done)
	})
	if err == nil {
		l.ack()
	}
}

func (l *life) ack() {
	if !l.ended {
		l.model.Acked = len(l.model.Records)
	}
}

// end ends a life, with a Close or without, and returns what is left.
func (l *life) end(clean bool) *crashfs.FS {
	if l.failed {
		l.discard()
		return nil
	}
	if clean {
		l.close()
		l.check("after Close")
	}
	if !l.ended {
		l.cease()
	}
	l.discard()
	if l.failed {
		return nil
	}
	return l.remains
}

func (l *life) close() {
	l.trace.Addf("close")
	if err := l.w.Close(); err != nil && !l.ended {
		l.fail(oracle.Refused, "close: %v", err)
		return
	}
	l.ack()
}

// cease ends the life here and now: a kill, or a power cut.
func (l *life) cease() {
	l.ended = true
	pending := len(l.disk.Pending())
	if pending == 0 || l.killsOnly() || l.killed || l.rng.IntN(4) == 0 {
		l.trace.Addf("kill")
		l.remains = l.disk.Clone()
		return
	}
	c := l.crash(l.disk)
	l.trace.Addf("power cut: %s", c.Name)
	l.remains = l.disk.Crash(c.Choose)
}

// discard ends what still runs on a disk that is of no interest any more.
func (l *life) discard() {
	l.disk.SetHook(nil, nil)
	l.disk.SetFault(nil)
	if l.w != nil {
		l.w.Close()
	}
}

// before is called before each change of the file system.
func (l *life) before(op crashfs.Op) {
	if l.hold != nil && op.Kind == crashfs.OpWrite {
		hold := l.hold
		l.hold = nil
		close(l.held)
		<-hold
	}
}

// after is called after each change of the file system.
func (l *life) after(op crashfs.Op) {
	if l.ended || l.failed {
		return
	}
	l.boundary++
	if l.killed {
		l.trace.Addf("stop inside %v", op)
		l.cease()
		return
	}
	l.check(op.String())
	if l.stop > 0 && l.boundary >= l.stop && (op.Kind == crashfs.OpWrite || l.rng.IntN(4) == 0) && !l.failed {
		l.trace.Addf("stop after %v", op)
		l.cease()
	}
}

// check opens what crashes here would leave.
func (l *life) check(where string) {
	if l.ended || l.failed {
		return
	}
	for _, c := range l.choose(l.disk) {
		if l.failed {
			return
		}
		l.examine(l.disk.Crash(c.Choose), where+": "+c.Name, 0)
	}
}
