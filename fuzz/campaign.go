package fuzz

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
)

// Config says what a campaign does. Its zero fields are defaults.
type Config struct {
	// Seed is that of the first history; the next has the next seed. A history depends on nothing but its seed and the
	// fields below but for States.
	Seed uint64

	// States is how many states to open, at the least: the history that reaches it is finished. The default is 1000.
	States int

	// SegmentSize is that of the logs, in bytes. The default differs from history to history, between 4 and 16 KiB.
	SegmentSize int64

	// PlainEtcd makes every log one without witnesses. By default every fourth is.
	PlainEtcd bool

	// Saboteur, if not nil, spoils the file system on which the log lives; not the one on which its remains are examined.
	Saboteur *Saboteur

	// Workers is how many histories go on at once, each in a goroutine. The default is 1. The seeds of the second begin 2^32
	// behind those of the first, and so on.
	Workers int

	// Failures is after how many failures to stop. The default is 1.
	Failures int

	// Logger is told of each failure as it happens. The default is silence.
	Logger *slog.Logger
}

// A Result is what a campaign came to.
type Result struct {
	Histories int // logs
	Lives     int // of these logs: from a Create or an Open to a Close, a kill or a power cut
	States    int // what a crash could have left and was opened

	Refused  int // see the package
	Lost     int
	Invented int

	Failures []Failure
	Took     time.Duration
}

// add adds what another worker did.
func (r *Result) add(o Result) {
	r.Histories += o.Histories
	r.Lives += o.Lives
	r.States += o.States
	r.Refused += o.Refused
	r.Lost += o.Lost
	r.Invented += o.Invented
	r.Failures = append(r.Failures, o.Failures...)
}

// Bad returns how many failures there were.
func (r Result) Bad() int { return r.Refused + r.Lost + r.Invented }

// String returns the counts as one line.
func (r Result) String() string {
	return fmt.Sprintf("%d histories, %d lives, %d states, %.1f s: %d refused, %d lost, %d invented",
		r.Histories, r.Lives, r.States, r.Took.Seconds(), r.Refused, r.Lost, r.Invented)
}

// A Verdict is what kind of failure a failure is.
type Verdict string

// The verdicts of a campaign; see the package.
const (
	Refused  Verdict = "refused"
	Lost     Verdict = "lost"
	Invented Verdict = "invented"
)

// A Failure is a state in which the log did not keep its promise.
type Failure struct {
	Verdict Verdict
	Detail  string
	Seed    uint64   // of the history: a campaign that begins with it meets the failure in its first history
	States  int      // opened in the history so far, the bad one included
	Trace   []string // what was done to the log
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s: %s (seed %d, state %d)\n\t%s", f.Verdict, f.Detail, f.Seed, f.States, strings.Join(f.Trace, "\n\t"))
}

// Run runs a campaign. The result is of use with an error too. The error is the first failure, a *Failure; nil if there was
// none.
func Run(cfg Config) (Result, error) {
	n := max(cfg.Workers, 1)
	workers := make([]*campaign, n)
	var running sync.WaitGroup
	for i := range workers {
		c := newCampaign(cfg)
		workers[i] = c
		running.Go(func() {
			for seed := cfg.Seed + uint64(i)<<32; c.result.States*n < c.cfg.States && !c.done(); seed++ {
				c.history(seed)
			}
		})
	}
	running.Wait()
	for _, c := range workers[1:] {
		workers[0].result.add(c.result)
	}
	return workers[0].finish()
}

type campaign struct {
	cfg     Config
	result  Result
	began   time.Time
	entries map[[3]uint64]walpb.Entry // what content returned
}

func newCampaign(cfg Config) *campaign {
	if cfg.States <= 0 {
		cfg.States = 1000
	}
	if cfg.Failures <= 0 {
		cfg.Failures = 1
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &campaign{cfg: cfg, began: time.Now(), entries: map[[3]uint64]walpb.Entry{}}
}

func (c *campaign) done() bool { return len(c.result.Failures) >= c.cfg.Failures }

func (c *campaign) finish() (Result, error) {
	c.result.Took = time.Since(c.began)
	if len(c.result.Failures) > 0 {
		return c.result, &c.result.Failures[0]
	}
	return c.result, nil
}

// history takes one log through its lives.
func (c *campaign) history(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0x57e1e))
	h := newHistory(c, seed, rng)
	h.size = c.cfg.SegmentSize
	if h.size == 0 {
		h.size = []int64{4 << 10, 4 << 10, 8 << 10, 16 << 10}[rng.IntN(4)]
	}
	h.plain = c.cfg.PlainEtcd || rng.IntN(4) == 0
	h.tracef("segments of %d, plain %v", h.size, h.plain)
	disk := crashfs.New()
	for lives := 2 + rng.IntN(7); lives > 0 && disk != nil; lives-- {
		disk = h.live(disk)
	}
}

// history is one log under attack.
type history struct {
	campaign *campaign
	seed     uint64
	rng      *rand.Rand
	size     int64
	plain    bool

	model   *model
	cluster cluster
	states  int
	trace   []string
	failed  bool
	trimmed bool // the last Open has trimmed a torn tail, and little was written since

	// choose returns how to crash at a boundary of two operations of the file system, and how deep inside recoveries.
	choose func(disk *crashfs.FS) []named
}

// named is a chooser with what to call it.
type named struct {
	name   string
	choose crashfs.Chooser
}

func newHistory(c *campaign, seed uint64, rng *rand.Rand) *history {
	c.result.Histories++
	h := &history{campaign: c, seed: seed, rng: rng, model: newModel()}
	h.choose = h.sample
	return h
}

func (h *history) tracef(format string, args ...any) {
	h.trace = append(h.trace, fmt.Sprintf(format, args...))
}

// fail counts a failure. Only the first of a history counts.
func (h *history) fail(v Verdict, format string, args ...any) {
	if h.failed {
		return
	}
	h.failed = true
	f := Failure{Verdict: v, Detail: fmt.Sprintf(format, args...), Seed: h.seed, States: h.states, Trace: h.trace}
	r := &h.campaign.result
	switch v {
	case Refused:
		r.Refused++
	case Lost:
		r.Lost++
	case Invented:
		r.Invented++
	}
	r.Failures = append(r.Failures, f)
	h.campaign.cfg.Logger.Error("campaign", "failure", &f)
}

// failure is what went wrong, before the history knows of it.
type failure struct {
	verdict Verdict
	detail  string
}

func (f *failure) Error() string { return string(f.verdict) + ": " + f.detail }

func failf(v Verdict, format string, args ...any) error {
	return &failure{v, fmt.Sprintf(format, args...)}
}

// report counts the failure that err is, if it is one, after a description of the state.
func (h *history) report(err error, what string) {
	var f *failure
	if errors.As(err, &f) {
		h.fail(f.verdict, "%s: %s", what, f.detail)
	} else if err != nil {
		h.fail(Refused, "%s: %v", what, err)
	}
}

// sample returns a few of the crashes that are possible.
func (h *history) sample(disk *crashfs.FS) []named {
	pending := len(disk.Pending())
	if pending == 0 {
		if h.rng.IntN(6) > 0 {
			return nil
		}
		return []named{{"nothing pending", crashfs.KeepAll}}
	}
	if h.trimmed { // what was trimmed comes back here, if it does
		chosen := []named{{"keep all", crashfs.KeepAll}, h.crash(disk, pending), h.crash(disk, pending)}
		for i := range min(pending, 24) {
			chosen = append(chosen, named{fmt.Sprintf("drop %d of %d", i, pending), crashfs.DropOne(i)})
		}
		return chosen
	}
	chosen := make([]named, 1)
	for i := range chosen {
		chosen[i] = h.crash(disk, pending)
	}
	return chosen
}

// crash returns one of the crashes that are possible. Two calls do not share random numbers, so that the crash can be made later.
func (h *history) crash(disk *crashfs.FS, pending int) named {
	n, seed := 0, h.rng.Uint64()
	rng := rand.New(rand.NewPCG(seed, seed))
	switch kind := h.rng.IntN(12); kind {
	case 0:
		return named{"keep all", crashfs.KeepAll}
	case 1:
		return named{"drop all", crashfs.DropAll}
	case 2, 3:
		n = h.rng.IntN(pending)
		return named{fmt.Sprintf("drop %d of %d", n, pending), crashfs.DropOne(n)}
	case 4, 5:
		n = h.rng.IntN(pending)
		return named{fmt.Sprintf("keep %d of %d", n, pending), crashfs.KeepOne(n)}
	case 6, 7:
		changes := disk.Changes()
		n = h.rng.IntN(changes + 1)
		return named{fmt.Sprintf("first %d of %d changes", n, changes), crashfs.Prefix(n)}
	case 8, 9:
		return named{"random", crashfs.Random(rng)}
	case 10:
		return named{"garbage", crashfs.Garbage(rng)}
	default:
		return named{"tear", crashfs.Tear(rng)}
	}
}
