// Package faults is the campaign of faults.
//
// [Run] makes every operation of the file system fail, in every way in which it can, in programs
// that use the log and the snapshots, and has them stop, call again, go on or start again. No error
// may be swallowed or name a file twice, nothing may be acknowledged after the first, and what only
// failed to read must not be touched. A campaign on each of [Saboteurs] must fail.
package faults

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
)

// Config says what a campaign of faults does. Its zero fields are defaults.
type Config struct {
	// Seed is that of the power cuts that are chance, and says with Every which runs are done.
	// There are the same with every seed.
	Seed uint64

	// Only, if not empty, is the name of the one run to do, as a Failure has it.
	Only string

	// Every takes every nth run, in order, so that a sample of all can be had: others with the
	// next Seed. The default is 1: all of them.
	Every int

	// Cuts is how many power cuts by chance to try wherever the power is cut, beside the one that
	// loses all that was not synced and the one that loses nothing. The default is 1.
	Cuts int

	// Saboteur, if not nil, spoils the file system in a way in which programs go wrong after an
	// error.
	Saboteur *Saboteur

	// Workers is how many runs go on at once. The default is 1.
	Workers int

	// Failures is after how many failures to stop. The default is 1.
	Failures int

	// Logger is told of each failure as it happens. The default is silence.
	Logger *slog.Logger
}

// The verdicts of a campaign of faults, beside Refused, Lost and Invented.
const (
	// An operation failed, and no caller was told, or not which file or why.
	Swallowed oracle.Verdict = "swallowed"
	// Something was acknowledged after an error that is to be the last.
	WentOn oracle.Verdict = "went on"
	// What only failed to read was trimmed, renamed or removed.
	Damaged   oracle.Verdict = "damaged"
	Stuttered oracle.Verdict = "stuttered" // an error names a file twice
	Leaked    oracle.Verdict = "leaked"    // a file is left open, or a goroutine running
	Panicked  oracle.Verdict = "panicked"
)

// A Failure is a run in which a promise was not kept.
type Failure struct {
	Verdict oracle.Verdict
	Detail  string
	Run     string // its name; Config.Only takes it
	Seed    uint64
	Trace   []string // what was done
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s: %s (run %s, seed %d)\n\t%s", f.Verdict, f.Detail, f.Run, f.Seed, strings.Join(f.Trace, "\n\t"))
}

// A Result is what a campaign of faults came to.
type Result struct {
	Operations int // of the file system, of all kinds, that the workloads do without faults
	Runs       int // in each of which one of them fails
	States     int // what was left after a run, or after a power cut, and was opened

	Failed map[crashfs.OpKind]int // runs, by the operation that fails

	Bad      map[oracle.Verdict]int
	Failures []Failure
	Took     time.Duration
}

// String returns the counts as one line.
func (r Result) String() string {
	s := fmt.Sprintf("%d operations, %d runs, %d states, %.1f s:", r.Operations, r.Runs, r.States, r.Took.Seconds())
	for i, v := range []oracle.Verdict{oracle.Refused, oracle.Lost, oracle.Invented, Swallowed, WentOn, Damaged, Stuttered, Leaked, Panicked} {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf(" %d %s", r.Bad[v], v)
	}
	return s
}

// A fault is what goes wrong with an operation.
type fault struct {
	name  string
	err   error            // what the operation returns
	is    error            // what a caller must be able to find in it
	kinds []crashfs.OpKind // of operations that it can happen to
	// All operations of these kinds fail from then on, until the program mends it.
	lasts bool

	partial bool // a part is done before
}

// strikes reports whether it can happen to an operation. A file system that cannot be written can
// be read.
func (f *fault) strikes(op crashfs.Op) bool {
	if op.Kind == crashfs.OpOpen && errors.Is(f.err, syscall.EROFS) && op.Flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return false
	}
	return slices.Contains(f.kinds, op.Kind)
}

var (
	changing = []crashfs.OpKind{crashfs.OpCreate, crashfs.OpWrite, crashfs.OpTruncate, crashfs.OpPreallocate, crashfs.OpSyncData, crashfs.OpSyncDir,
		crashfs.OpRename, crashfs.OpRemove, crashfs.OpMkdir}
	reading = []crashfs.OpKind{crashfs.OpOpen, crashfs.OpRead, crashfs.OpReadDir, crashfs.OpStat, crashfs.OpLock, crashfs.OpClose, crashfs.OpDropCache}
	all     = slices.Concat(changing, reading)
	growing = []crashfs.OpKind{crashfs.OpCreate, crashfs.OpWrite, crashfs.OpPreallocate, crashfs.OpMkdir}
	opening = []crashfs.OpKind{crashfs.OpOpen, crashfs.OpCreate, crashfs.OpReadDir}
)

func faults() []fault {
	eio, enospc := error(syscall.EIO), error(syscall.ENOSPC)
	return []fault{
		{name: "EIO", err: eio, is: eio, kinds: all},
		{name: "EIO-lasting", err: eio, is: eio, kinds: all, lasts: true},
		{name: "EINTR", err: syscall.EINTR, is: syscall.EINTR, kinds: all},
		{name: "ENOSPC", err: enospc, is: enospc, kinds: changing},
		{name: "EDQUOT", err: syscall.EDQUOT, is: syscall.EDQUOT, kinds: changing},
		{name: "ENOSPC-lasting", err: enospc, is: enospc, lasts: true, kinds: growing},
		{name: "EROFS-lasting", err: syscall.EROFS, is: syscall.EROFS, lasts: true, kinds: append([]crashfs.OpKind{crashfs.OpOpen}, changing...)},
		{name: "EMFILE", err: syscall.EMFILE, is: syscall.EMFILE, kinds: opening},
		{name: "ENFILE-lasting", err: syscall.ENFILE, is: syscall.ENFILE, kinds: opening, lasts: true},
		{name: "short-write", err: crashfs.ShortWrite(100), is: io.ErrShortWrite, kinds: []crashfs.OpKind{crashfs.OpWrite}, partial: true},
		{name: "full-in-the-middle", err: crashfs.After(700, enospc), is: enospc, kinds: []crashfs.OpKind{crashfs.OpWrite}, partial: true},
		{name: "unreadable-in-the-middle", err: crashfs.After(100, eio), is: eio, kinds: []crashfs.OpKind{crashfs.OpRead}, partial: true},
	}
}

// A policy is what the program does when a call has failed.
type policy string

const (
	stops   policy = "stop"  // it does nothing more
	retries policy = "retry" // it mends what was wrong and calls again
	goesOn  policy = "go-on" // it goes on as if nothing had been
	// It mends what was wrong, closes the log, opens it again and goes on.
	restarts policy = "restart"
	// As restart, but right after it the power is cut, and it goes on from there.
	cutsOff policy = "cut"
)

var policies = []policy{stops, retries, goesOn, restarts, cutsOff}

// A run is one workload with one fault.
type run struct {
	workload *workload
	op       int // which of the workload's operations of the file system fails
	fault    fault
	policy   policy
}

func (r run) String() string {
	return fmt.Sprintf("%s/%d/%s/%s", r.workload.name, r.op, r.fault.name, r.policy)
}

// Run has every operation of the file system fail, once or from then on, in every way that it
// can fail, while a log and a store of snapshots are created, written, cut, released, opened,
// checked, repaired and read; and has the program stop, call again, go on or start again, with and
// without a power cut. It looks for what the verdicts say. The result is of use with
// an error too. The error is the first failure, a *Failure; nil if there was none.
func Run(cfg Config) (Result, error) {
	cfg.Every, cfg.Failures, cfg.Workers = max(cfg.Every, 1), max(cfg.Failures, 1), max(cfg.Workers, 1)
	if cfg.Cuts <= 0 {
		cfg.Cuts = 1
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &campaign{cfg, harness.NewCounter(Result{Bad: map[oracle.Verdict]int{}, Failed: map[crashfs.OpKind]int{}}, nil)}
	goroutines := runtime.NumGoroutine()
	runs, err := c.plan()
	if err != nil {
		return c.finish(err)
	}
	next := make(chan run)
	var working sync.WaitGroup
	for range cfg.Workers {
		working.Go(func() {
			for r := range next {
				c.do(r)
			}
		})
	}
	for i, r := range runs {
		if c.done() {
			break
		}
		if (uint64(i)+cfg.Seed)%uint64(cfg.Every) == 0 || cfg.Only != "" {
			next <- r
		}
	}
	close(next)
	working.Wait()
	c.countGoroutines(goroutines)
	return c.finish(nil)
}

type campaign struct {
	cfg     Config
	counter *harness.Counter[Result]
}

func (c *campaign) done() bool {
	r, _ := c.counter.Result()
	return len(r.Failures) >= c.cfg.Failures
}

func (c *campaign) finish(err error) (Result, error) {
	r, took := c.counter.Result()
	r.Took = took
	if len(r.Failures) > 0 {
		err = &r.Failures[0]
	}
	return r, err
}

// plan does each workload once without a fault, and lists the runs.
func (c *campaign) plan() ([]run, error) {
	var runs []run
	for _, w := range workloads() {
		t := newTrial(c, run{workload: w, op: -1, policy: goesOn})
		t.live()
		if t.failure != nil {
			c.count(t)
			return nil, t.failure
		}
		c.counter.Count(func(r *Result) { r.Operations += len(t.striker.seen) })
		for i, op := range t.striker.seen {
			for _, f := range faults() {
				if !f.strikes(op) {
					continue
				}
				for _, p := range policies {
					if r := (run{w, i, f, p}); c.cfg.Only == "" || c.cfg.Only == r.String() {
						runs = append(runs, r)
					}
				}
			}
		}
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("faults: there is no run %s", c.cfg.Only)
	}
	return runs, nil
}

// do does one run.
func (c *campaign) do(r run) {
	t := newTrial(c, r)
	func() {
		defer func() {
			if p := recover(); p != nil {
				buf := make([]byte, 4<<10)
				t.fail(Panicked, "%v\n%s", p, buf[:runtime.Stack(buf, false)])
			}
		}()
		t.live()
	}()
	if t.failure == nil && len(t.striker.fired) == 0 {
		t.fail(oracle.Refused, "the workload did not come to its operation %d", r.op)
	}
	c.count(t)
}

func (c *campaign) count(t *trial) {
	c.counter.Count(func(r *Result) {
		r.Runs++
		r.States += t.states
		if fired := t.striker.firings(0); len(fired) > 0 {
			r.Failed[fired[0].Kind]++
		}
		if t.failure == nil {
			return
		}
		f := Failure{Verdict: oracle.Refused, Detail: t.failure.Error(), Run: t.run.String(), Seed: c.cfg.Seed, Trace: t.trace.Lines()}
		var known *oracle.Failure
		if errors.As(t.failure, &known) {
			f.Verdict, f.Detail = known.Verdict, known.Detail
		}
		r.Bad[f.Verdict]++
		r.Failures = append(r.Failures, f)
		c.cfg.Logger.Error("campaign of faults", "failure", &f)
	})
}

// countGoroutines fails unless no more of them are there than before. One that has done its work is
// a moment away from its end, hence the patience.
func (c *campaign) countGoroutines(before int) {
	for tries := 0; runtime.NumGoroutine() > before; runtime.Gosched() {
		if tries++; tries > 100_000 { // counted, not timed
			buf := make([]byte, 16<<10)
			t := &trial{run: run{workload: &workload{name: "all"}}}
			t.fail(Leaked, "%d goroutines more than before:\n%s", runtime.NumGoroutine()-before, buf[:runtime.Stack(buf, true)])
			c.count(t)
			return
		}
	}
}
