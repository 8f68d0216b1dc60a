package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

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
	source  *oracle.Source
	disk    *crashfs.FS
	model   *oracle.Model
	tracing sync.Mutex
	trace   []string
	w       *wal.Writer
	broken  error // the Writer's first failure
	snaps   snapshots
	store   *snap.Store
	states  int
	failure error

	mu      sync.Mutex
	changed sync.Cond
	seen    []crashfs.Op // every operation so far
	mended  bool         // nothing fails any more
	fired   []firing
	calling bool // a call on the Writer is at work, and the maker of the spare waits
	making  bool // the maker is at work
	late    bool // the step that is at work has synced the directory
	stock   bool // there is a spare
	spent   bool // a spare was used up, so another will be made
	begun   bool // one was missed, so it is being made
	made    int  // how many times the maker has come to an end
	awaited int
	spare   error // how the maker ended last

	// hold, if not nil, stops the next write until it is closed; held tells that it was stopped.
	hold, held chan struct{}
}

// A firing is an operation that was made to fail.
type firing struct {
	crashfs.Op
	maker bool // it was one of the maker of the spare
	late  bool // the same step has synced the directory before
}

func newTrial(c *campaign, r run) *trial {
	t := &trial{cfg: c.cfg, run: r, rng: rand.New(rand.NewPCG(c.cfg.Seed, uint64(r.op))), source: &oracle.Source{}}
	t.changed.L = &t.mu
	disk, m := r.workload.begin()
	t.model = m
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

func (t *trial) tracef(format string, args ...any) {
	t.tracing.Lock()
	defer t.tracing.Unlock()
	t.trace = append(t.trace, fmt.Sprintf(format, args...))
}

// attach makes disk the one that fails.
func (t *trial) attach(disk *crashfs.FS) {
	t.disk = disk
	disk.SetFault(t.strike)
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
	o.FS, o.Observer.Spare = t.files(), t.spareMade
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

// strike is asked before each operation of the file system, and returns how it fails. So that a run
// depends on its name alone, it makes the maker of the spare wait while a call on the Writer is at
// work.
func (t *trial) strike(op crashfs.Op) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if op.Kind == crashfs.OpRemove && harness.IsSpare(op.Name) {
		// The maker removes what is not there, as a rule; others remove what they have found.
		if _, err := t.disk.ReadFile(op.Name); err != nil {
			for t.calling {
				t.changed.Wait()
			}
			t.making = true
		}
	}
	switch {
	case !t.calling:
	case op.Kind == crashfs.OpTruncate:
		t.spent, t.stock = true, false
	case op.Kind == crashfs.OpPreallocate:
		t.begun = t.begun || !t.stock
	}
	if t.hold != nil && op.Kind == crashfs.OpWrite {
		hold := t.hold
		t.hold = nil
		close(t.held)
		t.mu.Unlock()
		<-hold
		t.mu.Lock()
	}
	defer func() { t.late = t.late || op.Kind == crashfs.OpSyncDir }()
	n := len(t.seen)
	t.seen = append(t.seen, op)
	f := t.run.fault
	if t.run.op < 0 || n < t.run.op || t.mended || n > t.run.op && (!f.lasts || !f.strikes(op)) {
		return nil
	}
	// Files keep the name that they were opened by, so a segment that was a spare still has that
	// one.
	maker := t.making && harness.IsSpare(op.Name)
	if len(t.fired) == 0 {
		t.tracef("%v fails with %v", op, f.err)
	}
	t.fired = append(t.fired, firing{op, maker, t.late})
	return f.err
}

func (t *trial) spareMade(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made++
	t.spare, t.making, t.stock = err, false, err == nil
	t.changed.Broadcast()
}

// awaitSpare waits until the maker has come to an end once more.
func (t *trial) awaitSpare() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.awaited++; t.made < t.awaited; {
		t.changed.Wait()
	}
}

// call does one call on the Writer.
func (t *trial) call(f func() error) error {
	t.mu.Lock()
	t.calling, t.spent, t.begun = true, false, false
	t.mu.Unlock()
	err := f()
	t.mu.Lock()
	t.calling = false
	made := t.begun || t.spent && err == nil
	t.changed.Broadcast()
	t.mu.Unlock()
	if made {
		t.awaitSpare()
	}
	return err
}

// mend lets everything succeed from now on.
func (t *trial) mend() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mended = true
}

func (t *trial) firings() []firing {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fired
}

// live goes through the workload.
func (t *trial) live() {
	reacted := false
	for _, s := range t.run.workload.steps {
		err := t.perform(s)
		if t.failure != nil {
			break
		}
		if reacted || len(t.firings()) == 0 {
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
		t.mend()
		if err != nil {
			t.tracef("again")
			t.perform(s)
		}
	case restarts:
		t.mend()
		t.restart()
	case cutsOff:
		t.mend()
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
		t.tracef("power cut: %s", name)
		t.attach(after)
		t.restart()
	}
}

// perform does a step, and judges what it returns.
func (t *trial) perform(s step) error {
	if s.kind == onWriter && t.w == nil {
		return nil
	}
	t.mu.Lock()
	before := len(t.fired)
	t.late = false
	t.mu.Unlock()
	var was *crashfs.FS
	if s.kind == recovers {
		was = t.disk.Clone()
	}
	writer := s.kind == onWriter
	broken, known := t.broken, len(t.model.Records)
	err := s.do(t)
	if writer && errors.Is(err, wal.ErrNoSpace) {
		t.model.Records = t.model.Records[:max(known, t.model.Acked)] // what was refused must never be there
	}
	t.tracef("%s: %v", s.name, err)
	t.readable(s.name, err)
	fired := t.firings()[before:]
	switch {
	case t.failure != nil:
	case writer && broken != nil:
		t.sameError(s.name, broken, err)
	case err != nil && len(fired) == 0:
		t.fail(oracle.Refused, "%s: %v", s.name, err)
	case err != nil:
		t.told(s, err, fired)
		if writer && s.name != "release" && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) {
			t.fail(oracle.Refused, "%s returned %q, and needs no descriptor", s.name, err)
		}
		if writer && !leavesUsable(err) {
			t.broken = err
		}
		if was != nil {
			t.untouched(s, was)
		}
	default:
		t.excused(s, fired)
	}
	return err
}

// readable sees to it that an error names no file twice: a line of it, for there may be several of
// one file.
func (t *trial) readable(what string, err error) {
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		var names []string
		for _, word := range strings.Fields(line) {
			word = strings.Trim(word, ":,;()")
			if filepath.Ext(word) != "" {
				word = filepath.Base(word)
			} else if !strings.Contains(word, "/") {
				continue
			}
			if slices.Contains(names, word) {
				t.fail(Stuttered, "%s returned %q", what, err)
			}
			names = append(names, word)
		}
	}
}

// sameError sees to it that a call on a Writer that has failed says so.
func (t *trial) sameError(what string, broken, err error) {
	switch {
	case err == nil:
		t.fail(WentOn, "%s returned nil after %v", what, broken)
	case !strings.Contains(err.Error(), broken.Error()):
		t.fail(Swallowed, "%s returned %q, but the first failure was %q", what, err, broken)
	}
}

// leavesUsable reports whether a failure is one of the exceptions that are documented: that what a
// Release removes cannot be removed, or that there is no space for what is to be saved.
func leavesUsable(err error) bool {
	return strings.HasPrefix(err.Error(), "wal: release: ") || errors.Is(err, wal.ErrNoSpace)
}

// told sees to it that an error has the reason and the name of the file.
func (t *trial) told(s step, err error, fired []firing) {
	if !errors.Is(err, t.run.fault.is) {
		t.fail(Swallowed, "%s returned %q, but the operation failed with %v", s.name, err, t.run.fault.err)
		return
	}
	text := err.Error()
	for _, f := range fired {
		switch f.Kind {
		case crashfs.OpSyncDir, crashfs.OpReadDir, crashfs.OpMkdir:
			if strings.Contains(text, f.Name) {
				return
			}
			continue
		}
		if strings.Contains(text, filepath.Base(f.Name)) || f.NewName != "" && strings.Contains(text, filepath.Base(f.NewName)) {
			return
		}
		if harness.IsSpare(f.Name) && strings.Contains(text, ".wal") { // the name that it has by now
			return
		}
	}
	t.fail(Swallowed, "%s returned %q, which does not name the file of %v", s.name, err, fired[0])
}

// excused sees to it that whatever failed in a step that returned nil may fail.
func (t *trial) excused(s step, fired []firing) {
	for _, f := range fired {
		switch {
		case f.maker:
			// The spare is made in the background, and its failures go to the observer. If it
			// cannot be synced, the Writer has failed.
			t.mu.Lock()
			told := t.spare
			t.mu.Unlock()
			t.readable("the observer of the spare", told)
			if !errors.Is(told, t.run.fault.is) {
				t.fail(Swallowed, "%v failed, and the observer was told %v", f, told)
			}
			if f.Kind == crashfs.OpSyncData && !fileutil.IsFull(told) {
				t.broken = told
			}
		case f.Kind == crashfs.OpClose && (f.Name == harness.Dir || f.Name == harness.SnapDir || f.Name == path.Dir(harness.Dir) || f.Name == "."):
			// Nor from closing a directory.
		case f.Kind == crashfs.OpClose && s.name != "close" && (!harness.IsSpare(f.Name) || s.name == "release"):
			// There is nothing to learn from closing what was only read, or was synced, or is gone.
		case filepath.Base(f.Name) == "synced" && (s.kind == onWriter || f.late):
			// A mark that is not written leaves the one before, which is as true.
		case f.Kind == crashfs.OpSyncDir && errors.Is(t.run.fault.err, syscall.EROFS) && f.Name != harness.Dir && f.Name != harness.SnapDir:
			// Nobody can have changed a parent that cannot be written.
		case f.Kind == crashfs.OpTruncate && s.kind == onWriter && fileutil.IsFull(t.run.fault.err):
			// Zeros are then left at the end of a segment that is full.
		case f.Kind == crashfs.OpWrite && s.name == "close" && fileutil.IsFull(t.run.fault.err):
			// It is the last witness. That all else is there is looked for.
		case f.Kind == crashfs.OpPreallocate && s.kind == onWriter && fileutil.IsFull(t.run.fault.err):
			// The segment is cut before it is full.
		case f.Kind == crashfs.OpPreallocate && s.name == "open":
			// Space is reserved if there is any; appends find out.
		case f.Kind == crashfs.OpRead && t.run.fault.partial:
			// What was not needed yet is read again when it is.
		case strings.HasPrefix(s.name, "save") && strings.HasSuffix(f.Name, ".snap"):
			// Whether the file is there already is not worth an error: it is written again.
		case s.name == "newest of damaged" && (slices.Contains(settingAside, f.Kind) || f.Kind == crashfs.OpOpen && f.Name == harness.SnapDir):
			// That a damaged file cannot be set aside is no reason not to find an older one.
		default:
			t.fail(Swallowed, "%v failed with %v, and %s returned nil", f, t.run.fault.err, s.name)
			return
		}
	}
}

var settingAside = []crashfs.OpKind{crashfs.OpRename, crashfs.OpReadDir, crashfs.OpSyncDir, crashfs.OpRemove}

// untouched sees to it that what was to recover a log and failed has done nothing to it but what it
// would have done anyway, and no byte of that without a copy.
func (t *trial) untouched(s step, was *crashfs.FS) {
	clean := &trial{run: run{workload: t.run.workload, op: -1}, rng: t.rng, source: t.source, model: t.model.Clone(), snaps: t.snaps.clone()}
	clean.changed.L = &clean.mu
	before := was.Tree()
	clean.attach(was)
	if err := s.do(clean); err != nil {
		t.fail(oracle.Refused, "%s without a fault: %v", s.name, err)
		return
	}
	after, now := was.Tree(), t.disk.Tree()
	clean.finish()
	for name, old := range before {
		if filepath.Ext(name) != ".wal" {
			continue
		}
		got, there := now[name]
		want, stays := after[name]
		same := there && len(got) == len(old)
		for i := 0; same && i < len(got); i++ {
			same = got[i] == old[i]
		}
		if same {
			continue
		}
		if there == stays && !there || there && stays && between(got, old, want) {
			kept := slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(n string) bool {
				return strings.HasPrefix(n, name) && strings.HasSuffix(n, ".torn")
			})
			if kept || len(bytes.Trim(trimmed(old, want), "\x00")) == 0 {
				continue
			}
		}
		t.fail(Damaged, "%s failed, and left %s changed", s.name, name)
	}
}

// between tells whether b is on its way from old to want. What is behind the end of one counts as
// zero.
func between(b, old, want []byte) bool {
	at := func(s []byte, i int) byte {
		if i < len(s) {
			return s[i]
		}
		return 0
	}
	for i := range max(len(b), len(old), len(want)) {
		if c := at(b, i); c != at(old, i) && c != at(want, i) {
			return false
		}
	}
	return true
}

// trimmed returns what is in old and no longer in want.
func trimmed(old, want []byte) (lost []byte) {
	for i, c := range old {
		if i >= len(want) || want[i] != c {
			lost = append(lost, c)
		}
	}
	return lost
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
	t.tracef("restart")
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
	t.awaitSpare()
	t.mu.Lock()
	t.w, t.broken = w, nil
	t.mu.Unlock()
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
		before := len(t.firings())
		err := t.w.Close()
		fired := t.firings()[before:]
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
		t.mu.Lock()
		t.w, t.broken = nil, nil
		t.awaited, t.making = t.made, false
		t.mu.Unlock()
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
