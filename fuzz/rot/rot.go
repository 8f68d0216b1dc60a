// Package rot is the campaign of damage that no crash does.
//
// [Run] flips every bit of several logs, zeroes, sets, tears and mixes up their sectors, cuts and
// lengthens, loses and swaps their files, and counts what is silent: other content than was saved,
// or less, and nothing said. That must be zero too, except for what wal/FORMAT.md says cannot be
// detected, which is counted apart, by its reason. [Snapshots] does the same to snapshots.
//
// With a [Recover] the campaign judges another program on the same damage.
package rot

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/wal"
)

// Config says what a rot campaign does. Its zero fields are defaults.
type Config struct {
	// Seed is that of what is random: garbage, and which bits are flipped if not all are.
	Seed uint64

	// Logs are damaged, each on its own. The default is what Logs makes.
	Logs []*Log

	// Every is how many single bits, words and lengths there are for one that is tried. The default
	// is 1: all are. Damage to sectors and whole files is always done in full.
	Every int

	// Fault, if not 0, is the number of the one fault to do, as a Failure says it. Every then
	// means nothing.
	Fault int

	// Recover, if not nil, is judged in the place of package wal. See Recover.
	Recover Recover

	// Workers is how many goroutines share the work. The default is 1. The result does not depend
	// on it.
	Workers int

	// Failures is how many failures to keep. The default is 10. All are counted.
	Failures int

	// Progress, if not nil, is told about once a second how far the campaign is. Two calls are
	// never at once.
	Progress func(Result)
}

// A Recover opens a log that was damaged in the way of another program, and says what the log
// comes to: what [wal.Replay] would return. reported is whether anything was said to be wrong, and
// cut off. The log is in the directory dir of disk. An error means that the program refuses the
// log; ErrPanicked in it that it did so by a panic. It is called from several goroutines at once.
type Recover func(disk *crashfs.FS, dir string) (log *wal.Log, reported bool, err error)

// A Result is what a rot campaign came to.
type Result struct {
	Counts
	Logs map[string]Counts // the same, for each log

	Failed   int // faults of which a promise was broken; Silent and Panicked are among them
	Failures []Failure
	Took     time.Duration

	due due
}

// A Failure is damage on which a promise was broken.
type Failure struct {
	Log    string
	Number int    // Config.Fault, for the same Seed and Logs
	Fault  string // what was done
	Detail string // what came of it
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s: fault %d, %s: %s", f.Log, f.Number, f.Fault, f.Detail)
}

// Run damages logs, one fault at a time, and counts what their readers and Open make of each. These
// are failures:
//
//   - other content than was saved, or less, and no reader says so, unless nothing could: see
//     Excuse;
//   - called torn, or the end of the log, what a record that is still there says was durable;
//   - Open changes a file of a log that it refuses, or drops bytes of which it keeps no copy;
//   - Open, Check and Records do not agree; and any panic.
//
// The result is of use with an error too. The error is the first failure, a *Failure, of the log
// and the number that come first; or that of making the logs, or that cfg.Recover does not read one
// before it is damaged, or that no log has the fault cfg.Fault.
func Run(cfg Config) (Result, error) {
	if cfg.Logs == nil {
		logs, err := Logs()
		if err != nil {
			return Result{}, err
		}
		cfg.Logs = logs
	}
	if cfg.Failures <= 0 {
		cfg.Failures = 10
	}
	if cfg.Recover != nil {
		for _, l := range cfg.Logs {
			if err := l.goodFor(cfg.Recover); err != nil {
				return Result{}, err
			}
		}
	}
	var running sync.WaitGroup
	counter, workers := harness.NewCounter(newResult(), cfg.tell()), max(cfg.Workers, 1)
	for i := range workers {
		running.Go(func() {
			for _, l := range cfg.Logs {
				j := &judge{l, cfg.Recover, l.disk()}
				for n, f := range l.faults(cfg.Seed, cfg.Every, cfg.Fault) {
					if n%workers == i {
						got := j.try(&f)
						counter.Count(func(r *Result) { r.take(l.Name, n, &f, got, cfg.Failures) })
					}
				}
			}
		})
	}
	running.Wait()
	r, took := counter.Result()
	r.due, r.Took = cfg.due(), took
	position := func(name string) int {
		return slices.IndexFunc(cfg.Logs, func(l *Log) bool { return l.Name == name })
	}
	slices.SortFunc(r.Failures, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(position(a.Log), position(b.Log)), cmp.Compare(a.Number, b.Number))
	})
	if len(r.Failures) > 0 {
		return r, &r.Failures[0]
	}
	if cfg.Fault != 0 && r.States() == 0 {
		return r, fmt.Errorf("rot: of %d logs none has a fault %d", len(cfg.Logs), cfg.Fault)
	}
	return r, nil
}

// tell returns what tells Progress of a result, or nil.
func (cfg *Config) tell() func(*Result, time.Duration) {
	if cfg.Progress == nil {
		return nil
	}
	return func(r *Result, took time.Duration) {
		told := *r
		told.Excused, told.Logs, told.Took = maps.Clone(r.Excused), maps.Clone(r.Logs), took
		cfg.Progress(told)
	}
}

func newResult() Result { return Result{Logs: map[string]Counts{}} }

// take counts a fault, and keeps the first failures.
func (r *Result) take(log string, n int, f *fault, got finding, failures int) {
	of := r.Logs[log]
	r.Counts.count(f.kind, got)
	of.count(f.kind, got)
	r.Logs[log] = of
	if len(got.broken) == 0 {
		return
	}
	if r.Failed++; len(r.Failures) < failures {
		r.Failures = append(r.Failures, Failure{log, n, f.String(), strings.Join(got.broken, "; ")})
	}
}
