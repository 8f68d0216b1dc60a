package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A workload is a program: what is there when it begins, and its calls.
type workload struct {
	name  string
	begin func() (*crashfs.FS, *oracle.Model)
	steps []step
	plain bool // the log is one without witnesses
}

// A step is a call, or a few that belong together.
type step struct {
	name string
	do   func(t *trial) error
	kind stepKind
}

type stepKind int

const (
	onWriter  stepKind = iota // of a wal.Writer, which refuses it for ever after a failure
	onNothing                 // what can be called again
	recovers                  // and what may remove the end of a log
)

const segmentSize = 4096

// A trial is a run while it goes on: a program, and a file system that fails it.
type trial struct {
	cfg     Config
	run     run
	rng     *rand.Rand
	source  oracle.Source
	disk    *crashfs.FS
	striker striker // of the disk's operations
	model   *oracle.Model
	trace   harness.Trace
	states  int
	failure error // the first

	w          *wal.Writer
	broken     error // the Writer's first failure
	background harness.Queue
	spare      error // of the last attempt to make a spare

	store *snap.Store
	snaps snapshots
}

func newTrial(c *campaign, r run) *trial {
	disk, m := r.workload.begin()
	t := &trial{cfg: c.cfg, run: r, rng: rand.New(rand.NewPCG(c.cfg.Seed, uint64(r.op))), model: m}
	t.striker.run, t.striker.trace = r, &t.trace
	t.attach(disk)
	return t
}

// entry returns the entry of an index and a term.
func (t *trial) entry(index, term uint64) walpb.Entry {
	e := t.source.Entry(index, term, segmentSize/2)
	if oracle.IsOwn(e.Type) && t.run.workload.plain {
		e.Type = walpb.EntryConfChangeV2
	}
	return e
}

// attach makes disk the one that fails.
func (t *trial) attach(disk *crashfs.FS) {
	t.disk = disk
	disk.SetFault(t.striker.strike)
}

// files returns the disk as the program sees it, which a saboteur may have spoilt.
func (t *trial) files() fileutil.FS {
	if s := t.cfg.Saboteur; s != nil {
		return s.Wrap(t.disk)
	}
	return t.disk
}

func (t *trial) options() *wal.Options {
	o := t.plainly()
	o.FS, o.Background = t.files(), t.background.Add
	o.Observer.Spare = func(err error) { t.spare = err }
	return &o
}

// plainly returns the options of the log without what is watched.
func (t *trial) plainly() wal.Options {
	return wal.Options{SegmentSize: segmentSize, PlainEtcd: t.run.workload.plain}
}

// fail ends the trial. Only the first failure counts.
func (t *trial) fail(v oracle.Verdict, format string, args ...any) {
	if t.failure == nil {
		t.failure = oracle.Failf(v, format, args...)
	}
}

// call does one call on the Writer, and then what that has left to the background.
func (t *trial) call(f func() error) error {
	err := f()
	t.makeSpare()
	return err
}

// makeSpare does what is to be done in the background, so that a run depends on its name alone.
func (t *trial) makeSpare() {
	t.striker.make(true)
	t.background.Run()
	t.striker.make(false)
}

// live goes through the workload.
func (t *trial) live() {
	reacted := false
	for _, s := range t.run.workload.steps {
		err := t.perform(s)
		if t.failure != nil {
			break
		}
		if reacted || len(t.striker.firings(0)) == 0 {
			continue
		}
		reacted = true
		if t.run.policy == stops {
			break
		}
		t.react(s, err)
		if t.failure != nil {
			break
		}
	}
	t.end()
}

// react does what the policy says after the first fault, in step s, which returned err.
func (t *trial) react(s step, err error) {
	switch t.run.policy {
	case retries:
		t.striker.mend()
		if err != nil {
			t.trace.Addf("again")
			t.perform(s)
		}
	case restarts:
		t.striker.mend()
		t.restart()
	case cutsOff:
		t.striker.mend()
		t.restart()
		if t.failure != nil {
			return
		}
		name, choose := "drop all", crashfs.DropAll
		if len(t.disk.Pending()) > 0 && t.run.op%2 == 1 {
			c := harness.CutByChance(t.rng, t.disk)
			name, choose = c.Name, c.Choose
		}
		after := t.disk.Crash(choose)
		t.finish()
		t.trace.Addf("power cut: %s", name)
		t.attach(after)
		t.restart()
	}
}

// perform does a step, and judges what it returns.
func (t *trial) perform(s step) error {
	if s.kind == onWriter && t.w == nil {
		return nil
	}
	before := t.striker.begin()
	broken, known := t.broken, len(t.model.Records)
	var was *crashfs.FS
	if s.kind == recovers {
		was = t.disk.Clone()
	}
	err := s.do(t)
	if s.kind == onWriter && errors.Is(err, wal.ErrNoSpace) {
		// What was refused must never be there.
		t.model.Records = t.model.Records[:max(known, t.model.Acked)]
	}
	t.trace.Addf("%s: %v", s.name, err)
	t.readable(s.name, err)
	fired := t.striker.firings(before)
	if t.failure == nil {
		t.judge(s, err, fired, broken)
	}
	if t.failure == nil && was != nil && err != nil && len(fired) > 0 {
		t.untouched(s, was)
	}
	return err
}

// restart closes the log and opens it again, and takes what is there for what must stay.
func (t *trial) restart() {
	t.finish()
	if t.failure != nil {
		return
	}
	t.store = nil
	if t.run.workload.steps[0].name == "open the store" {
		if err := openStore(t); err != nil {
			t.fail(oracle.Refused, "open the store again: %v", err)
		}
		return
	}
	t.trace.Addf("restart")
	if err := openLog(t); err != nil {
		t.fail(oracle.Refused, "open again: %v", err)
	}
}

// openLog opens the log, or makes it if there is none and none was promised.
func openLog(t *trial) error {
	if t.w != nil {
		return nil
	}
	w, err := wal.Open(harness.Dir, t.options())
	if errors.Is(err, fs.ErrNotExist) && !t.model.Created {
		w, err = wal.Create(harness.Dir, oracle.Metadata, t.options())
	}
	return t.began(w, err)
}

// began takes the Writer that Create or Open returned, and what the log shows for what must stay.
func (t *trial) began(w *wal.Writer, err error) error {
	if err != nil {
		return err
	}
	t.makeSpare()
	t.w, t.broken = w, nil
	seen, err := oracle.Observe(t.disk.Clone(), harness.Dir, oracle.AsARestart)
	if err == nil {
		err = t.model.Judge(seen)
	}
	if err != nil {
		t.failure = fmt.Errorf("what Open shows: %w", err)
		return nil
	}
	t.model.Settle(seen.Count)
	return nil
}

// finish closes the Writer, and looks for what was left open.
func (t *trial) finish() {
	t.snaps.close()
	if t.w != nil {
		before := len(t.striker.firings(0))
		err := t.w.Close()
		fired := t.striker.firings(before)
		switch {
		case t.failure != nil:
		case t.broken != nil:
			t.sameError("close", t.broken, err)
		case err != nil && len(fired) == 0:
			t.fail(oracle.Refused, "close: %v", err)
		case err == nil && len(fired) > 0:
			t.excused(step{name: "close"}, fired)
		case err == nil:
			t.model.Acked = len(t.model.Records)
		}
		t.w, t.broken = nil, nil
	}
	if n := t.disk.Handles(); n > 0 {
		t.fail(Leaked, "%d files are open", n)
	}
}

// end looks at what is left, now and after power cuts, and then closes what is open and looks
// again.
func (t *trial) end() {
	t.examineAll("at the end")
	t.finish()
	t.examineAll("after the end")
}

func (t *trial) examineAll(when string) {
	if t.failure != nil {
		return
	}
	t.look(t.disk.Clone(), when+", after a kill")
	t.look(t.disk.Crash(crashfs.DropAll), when+", after a power cut that drops all")
	if len(t.disk.Pending()) > 0 {
		for range t.cfg.Cuts {
			c := harness.CutByChance(t.rng, t.disk)
			t.look(t.disk.Crash(c.Choose), when+", after a power cut: "+c.Name)
		}
	}
}

func (t *trial) look(disk *crashfs.FS, what string) {
	if t.failure != nil {
		return
	}
	t.states++
	var err error
	if t.snaps.used {
		err = t.snaps.examine(disk)
	} else {
		err = (&harness.Restart{Options: t.plainly(), Model: t.model, Rng: t.rng}).Judge(disk)
	}
	var known *oracle.Failure
	if errors.As(err, &known) {
		t.fail(known.Verdict, "%s: %s", what, known.Detail)
	} else if err != nil {
		t.fail(oracle.Refused, "%s: %v", what, err)
	}
	if n := disk.Handles(); n > 0 {
		t.fail(Leaked, "%s: %d files are open", what, n)
	}
}
