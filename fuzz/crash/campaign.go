// Package crash is the campaign of crashes.
//
// [Run] takes a log through several lives on a file system that can lose power, package crashfs. In
// each life it saves entries of all types and hard states with and without a vote, overwrites
// entries, records snapshots with ConfStates of all forms, cuts and releases segments; in half of
// the histories the snapshots have files, in package snap's forms, and the old ones are removed;
// now and then the log is repaired before it is opened. Each life ends, also inside Open and
// Repair, in a clean Close, a kill or a power cut, and some directories see sixty lives. At changes
// of the file system on the way it asks what a power cut there could leave, opens that, and crashes
// the recovery as well, two deep. A log with NoSync promises nothing of power cuts, so those are
// only killed, until an Open that syncs makes up for it. The lives of half of the histories differ
// in their options. In every fourth history the disk is full at times, and the next life finds it
// so; and where there are no snapshots' files, the process has no descriptor left at times. The
// same files are opened once in a life. Three things are counted, and each must be zero:
//
//   - refused: a log that did not open after a crash alone, a legal call that was refused, or a
//     panic;
//   - lost: what was acknowledged, or what an earlier Open had shown, and is not there;
//   - invented: what was never saved, or was not there at an earlier Open and has come back; an
//     invalid call, made on purpose now and then, that was taken, or of which anything was written.
//
// [RunExhaustive] tries all that a crash can leave at most moments of a few short histories, and
// says at how many.
//
// A [Saboteur] is a file system that does one thing less than it says. The campaign must catch
// each. With a [Recover] the campaign judges another program on the same states.
package crash

import (
	"cmp"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
)

// Config says what a campaign does. Its zero fields are defaults.
type Config struct {
	// Seed is that of the first history; the next has the next seed. A history depends on nothing
	// but its seed and the fields below, except States and Lives.
	Seed uint64

	// States is how many states to open, and Lives how many lives to lead, at least: the
	// history that reaches both is finished. The default of States is 1000.
	States int
	Lives  int

	// SegmentSize is that of the logs, in bytes. The default differs from history to history, or
	// from life to life, between 4 and 16 KiB.
	SegmentSize int64

	// PlainEtcd makes every log one without witnesses. By default every fourth is, or in every
	// fourth of its lives.
	PlainEtcd bool

	// Saboteur, if not nil, spoils the file system on which the log lives; not the one on which its
	// remains are examined.
	Saboteur *Saboteur

	// Workers is how many histories go on at once, each in a goroutine. The default is 1. The seeds
	// of the second begin 2^32 after those of the first, and so on.
	Workers int

	// Recover, if not nil, is judged in the place of package wal's own recovery. It does not stop a
	// campaign or a history that it fails: the Result counts the states in which it did, and holds
	// the first Failures of them.
	Recover Recover

	// Failures is after how many failures to stop. The default is 1.
	Failures int

	// Progress, if not nil, is told about once a second how far the campaign is, and at its end.
	// Two calls are never at once.
	Progress func(Result)

	// Logger is told of each failure as it happens. The default is silence.
	Logger *slog.Logger
}

// Run runs a campaign. The result is of use with an error too. The error is the first failure, a
// *Failure; nil if there was none.
func Run(cfg Config) (Result, error) {
	n := max(cfg.Workers, 1)
	all := newCampaign(cfg)
	var running sync.WaitGroup
	for i := range n {
		c := *all
		running.Go(func() {
			for seed := cfg.Seed + uint64(i)<<32; (c.states*n < c.cfg.States || c.lives*n < c.cfg.Lives) && !c.done(); seed++ {
				c.history(seed)
			}
		})
	}
	running.Wait()
	return all.finish()
}

// A campaign is a worker's part of one.
type campaign struct {
	cfg     Config
	counter *harness.Counter[Result] // of all workers
	source  oracle.Source

	states, lives int // of this worker

	// A history that does nothing for the patience is stuck.
	patience time.Duration
	stuck    func(report string)
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
	var tell func(*Result, time.Duration)
	if cfg.Progress != nil {
		tell = func(r *Result, took time.Duration) {
			told := *r
			told.Took = took
			cfg.Progress(told)
		}
	}
	return &campaign{cfg: cfg, counter: harness.NewCounter(Result{}, tell), patience: patience, stuck: func(report string) { panic(report) }}
}

func (c *campaign) done() bool {
	r, _ := c.counter.Result()
	return c.cfg.Recover == nil && len(r.Failures) >= c.cfg.Failures
}

func (c *campaign) finish() (Result, error) {
	r, took := c.counter.Result()
	r.Took = took
	if c.cfg.Progress != nil {
		c.cfg.Progress(r)
	}
	slices.SortStableFunc(r.Failures, func(a, b Failure) int { return cmp.Compare(a.Seed, b.Seed) })
	if len(r.Failures) > 0 {
		return r, &r.Failures[0]
	}
	return r, nil
}

// history takes one log through its lives.
func (c *campaign) history(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0x57e1e))
	h := newHistory(c, seed, rng)
	h.mixed = rng.IntN(2) == 0
	h.vary()
	h.scale = int(h.size)
	h.own = !h.mixed && !h.plain && c.cfg.Recover == nil
	if rng.IntN(2) == 0 {
		h.files = newFiles(form(rng.IntN(3)), 1+rng.IntN(2))
	}
	// Another program, and a reading by one, are not told of a disk that stays full.
	if h.crowded = rng.IntN(4) == 0 && c.cfg.Recover == nil; h.crowded {
		h.files = nil
	}
	lives := 2 + rng.IntN(7)
	if rng.IntN(2) == 0 {
		// Many lives on one directory, and a look at few of the states on the way.
		lives, h.look = 20+rng.IntN(40), 5
	}
	h.trace.Addf("segments of %d, plain %v, no sync %v, mixed %v, files %v, crowded %v, %d lives", h.size, h.plain, h.noSync, h.mixed, h.files != nil, h.crowded, lives)
	c.guard(h, func() { h.lead(lives) })
}

// lead leads lives, one after the other on what the one before has left.
func (h *history) lead(lives int) {
	disk := harness.NewDisk()
	for ; lives > 0 && disk != nil; lives-- {
		disk = h.live(disk)
		if h.mixed {
			h.vary()
		}
	}
}

// vary draws the options of the lives to come.
func (h *history) vary() {
	cfg := &h.campaign.cfg
	h.size = cfg.SegmentSize
	if h.size == 0 {
		h.size = []int64{4 << 10, 4 << 10, 8 << 10, 16 << 10}[h.rng.IntN(4)]
	}
	h.plain = cfg.PlainEtcd || h.rng.IntN(4) == 0
	h.unsynced = h.unsynced || h.noSync
	h.noSync = h.rng.IntN(10) == 0 || h.mixed && h.rng.IntN(4) == 0
}

// history is one log under attack.
type history struct {
	campaign *campaign
	seed     uint64
	rng      *rand.Rand
	mixed    bool // its lives differ in what follows
	scale    int  // of the entries
	size     int64
	plain    bool
	// Entries may have types that are none of raft's: no life of it is plain, and
	// only package wal reads it.
	own      bool
	crowded  bool // the disk is full at times
	noSync   bool // the log is not synced, so the life ends in a kill
	unsynced bool // nor was it in an earlier life, and no Open has made up for that
	look     int  // at one of how many boundaries states are opened

	model   *oracle.Model
	files   *files // nil if there are none
	cluster cluster
	states  int
	lives   int
	opened  map[image]struct{} // in this life
	trace   harness.Trace
	alarm   *time.Timer // see guard; nil outside of guard
	failed  bool
	trimmed bool // the last Open has trimmed a torn tail, and little was written since

	// choose returns how to crash at a boundary of two operations of the file system, and how deep
	// inside recoveries.
	choose func(disk *crashfs.FS) []harness.Cut
}

func newHistory(c *campaign, seed uint64, rng *rand.Rand) *history {
	c.counter.Count(func(r *Result) { r.Histories++ })
	h := &history{campaign: c, seed: seed, rng: rng, look: 1, model: oracle.NewModel(), opened: map[image]struct{}{}}
	h.choose = h.sample
	return h
}
