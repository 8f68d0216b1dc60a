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
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
)

// Config says what a rot campaign does. Its zero fields are defaults.
type Config struct {
	// Seed is that of what is random: garbage, and which bits are flipped if not all are.
	Seed uint64

	// Logs are damaged, each by itself. The default is what RotLogs makes.
	Logs []*Log

	// Every is how many single bits, words and lengths there are for one that is tried. The default
	// is 1: all are. Damage to sectors and whole files is always done in full.
	Every int

	// Fault, if not 0, is the number of the one fault to do, as a RotFailure says it. Every then
	// means nothing.
	Fault int

	// Recover, if not nil, is judged in the place of package wal. See RotRecover.
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

// Counts are how many faults came to what.
type Counts struct {
	Flips, Words, Sectors, Cuts, Files int // faults, by their kind

	Same     int // all that was saved is there, and nothing was said
	Reported int // said to be torn or the like, and opened; what is there was saved
	Lost     int // those of Reported in which not all that was saved is there
	Refused  int // said to be corrupt, or no log, and not opened
	Silent   int // other content or less, and nothing said
	Panicked int

	// Excused are faults that nothing can detect, by why that is so. They are not among Silent.
	Excused map[Excuse]int
}

// States returns how many faults there were.
func (c Counts) States() int { return c.Flips + c.Words + c.Sectors + c.Cuts + c.Files }

// String returns the counts as one line.
func (c Counts) String() string {
	s := fmt.Sprintf("%d flips, %d words, %d sectors, %d cuts, %d files: %d same, %d reported (%d of them with a loss), %d refused, %d silent, %d panicked",
		c.Flips, c.Words, c.Sectors, c.Cuts, c.Files, c.Same, c.Reported, c.Lost, c.Refused, c.Silent, c.Panicked)
	for _, e := range slices.Sorted(maps.Keys(c.Excused)) {
		s += fmt.Sprintf("; %d not to be detected: %s", c.Excused[e], e)
	}
	return s
}

func (c *Counts) add(o Counts) {
	c.Flips += o.Flips
	c.Words += o.Words
	c.Sectors += o.Sectors
	c.Cuts += o.Cuts
	c.Files += o.Files
	c.Same += o.Same
	c.Reported += o.Reported
	c.Lost += o.Lost
	c.Refused += o.Refused
	c.Silent += o.Silent
	c.Panicked += o.Panicked
	for e, n := range o.Excused {
		if c.Excused == nil {
			c.Excused = map[Excuse]int{}
		}
		c.Excused[e] += n
	}
}

// fault counts a fault by its kind.
func (c *Counts) fault(k Kind) {
	switch k {
	case Flip:
		c.Flips++
	case Word:
		c.Words++
	case Sector:
		c.Sectors++
	case Cut:
		c.Cuts++
	case File:
		c.Files++
	}
}

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
	Number int    // RotConfig.Fault, for the same Seed and Logs
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
//     RotExcuse;
//   - called torn, or the end of the log, what a record that is still there says was durable;
//   - Open changes a file of a log that it refuses, or drops bytes of which it keeps no copy;
//   - Open, Check and Records do not agree; and any panic.
//
// The result is of use with an error too. The error is the first failure, a *RotFailure, of the log
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
	var (
		began   = time.Now()
		sum     = &total{cfg: cfg, result: Result{Logs: map[string]Counts{}}, began: began, told: began}
		running sync.WaitGroup
		workers = max(cfg.Workers, 1)
	)
	for i := range workers {
		running.Go(func() {
			for _, l := range cfg.Logs {
				j := newJudge(l, cfg.Recover)
				for n, f := range l.faults(cfg.Seed, cfg.Every, cfg.Fault) {
					if n%workers == i {
						j.try(n, &f)
					}
					if j.counts.States() >= 256 {
						sum.take(j)
					}
				}
				sum.take(j)
			}
		})
	}
	running.Wait()
	r := sum.result
	r.due = cfg.due()
	r.Took = time.Since(began)
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
		return r, fmt.Errorf("fuzz: of %d logs none has a fault %d", len(cfg.Logs), cfg.Fault)
	}
	return r, nil
}

// total adds up what the workers count.
type total struct {
	cfg         Config
	mu          sync.Mutex
	result      Result
	began, told time.Time
}

// take adds what a judge has counted, which then begins again.
func (s *total) take(j *judge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.result
	r.add(j.counts)
	of := r.Logs[j.log.Name]
	of.Excused = maps.Clone(of.Excused)
	of.add(j.counts)
	r.Logs[j.log.Name] = of
	r.Failed += len(j.failures)
	r.Failures = append(r.Failures, j.failures[:min(len(j.failures), max(0, s.cfg.Failures-len(r.Failures)))]...)
	j.counts, j.failures = Counts{}, nil
	if now := time.Now(); s.cfg.Progress != nil && now.Sub(s.told) >= time.Second {
		s.told = now
		told := *r
		told.Excused, told.Logs, told.Took = maps.Clone(r.Excused), maps.Clone(r.Logs), now.Sub(s.began)
		s.cfg.Progress(told)
	}
}

// try does a fault and counts what comes of it.
func (j *judge) try(n int, f *fault) {
	j.counts.fault(f.kind)
	fail := func(format string, args ...any) {
		j.failures = append(j.failures, Failure{j.log.Name, n, f.String(), fmt.Sprintf(format, args...)})
	}
	defer func() {
		if p := recover(); p != nil {
			j.counts.Panicked++
			fail("panic: %v\n%s", p, strings.TrimSpace(string(debug.Stack())))
		}
	}()
	disk := j.disk.Clone()
	if err := f.apply(disk, dir); err != nil {
		fail("the fault could not be done: %v", err)
		return
	}
	if j.recover != nil {
		j.another(disk, fail)
		return
	}
	j.judge(f, disk, fail)
}
