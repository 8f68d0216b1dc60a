package rot

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// due is how much a campaign of rot was to do at least.
type due struct {
	flips, sectors, cuts, files int
	reported                    bool // all of it had to be reported
}

// due returns what a campaign with this configuration has to do. A single fault is not much.
func (cfg *Config) due() (d due) {
	if cfg.Fault != 0 {
		return d
	}
	const slack = 2 // which bits are tried is chance
	names := map[string]bool{}
	for _, l := range cfg.Logs {
		every := slack * max(cfg.Every, 1) * max(l.Every, 1)
		if every == slack {
			every = 1
		}
		d.flips += 8 * l.Bytes() / every
		d.cuts += l.Bytes() / every
		names[l.Name] = true
	}
	for name := range excuses {
		if !names[name] {
			return d
		}
	}
	d.sectors, d.files = 10_000, 1000 // of what Logs makes
	return d
}

// excuses are what cannot be detected in which of the logs that Logs makes; FORMAT.md says it
// in chapter 11. Without the mark it is the end of the log.
var excuses = map[string][]Excuse{
	"closed": nil,
	// The last batch is never without the witness of Close.
	"closed, unmarked": {EndGone, SegmentsGone},
	"killed":           nil,
	"killed, unmarked": {LastBatch, EndGone, SegmentsGone},
	"sizes":            nil,
	"released":         nil,
	"installed":        nil,
	"plain":            {OtherNumber, StateAsEntry},
	"plain, unmarked":  {EndGone, SegmentsGone, OtherNumber, StateAsEntry},
	"mixed, unmarked":  {EndGone, SegmentsGone, OtherNumber, StateAsEntry},
}

// mostStatesAsEntries is in how many places of a log a hard state may pass for an entry: the first
// hard state, which has no vote, and those before two snapshot records.
const mostStatesAsEntries = 3

// Bounds returns an error if the result, though it has no failure, is one that a good campaign on a
// good log cannot have:
//
//   - damage is excused as not to be detected in a log in which it can be, or more often than there
//     are places for it;
//   - what the mark says was durable is called torn;
//   - less than a third of the damage is refused, or less was done than there is to do: it does not
//     reach the logs.
//
// Of logs that Logs has not made it knows less, and of what another program than package wal
// makes of damage nothing.
func (r *Result) Bounds() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.due.reported && r.Reported != r.States() {
		bad("%d of %d are reported: all should be", r.Reported, r.States())
	}
	whole := r.due != due{}
	for _, name := range slices.Sorted(maps.Keys(r.Logs)) {
		of := r.Logs[name]
		possible, ours := excuses[name]
		for _, e := range slices.Sorted(maps.Keys(of.Excused)) {
			if n := of.Excused[e]; ours && !slices.Contains(possible, e) || e == StateAsEntry && n > mostStatesAsEntries {
				bad("%s: %d are excused: %s", name, n, e)
			}
		}
		if ours && !strings.Contains(name, "unmarked") && of.Lost > 0 {
			bad("%s: %d are called torn, and the mark says that they were durable", name, of.Lost)
		}
		if ours && whole && of.Refused < of.States()/3 {
			bad("%s: only %d of %d are refused: the damage does not reach the log", name, of.Refused, of.States())
		}
	}
	if whole && !r.due.reported && r.Refused < r.States()/3 {
		bad("only %d of %d are refused: the damage does not reach the logs", r.Refused, r.States())
	}
	if d := r.due; r.Flips < d.flips || r.Sectors < d.sectors || r.Cuts < d.cuts || r.Files < d.files {
		bad("%v: too few; there should be %d flips, %d of sectors, %d cuts and %d of files at least", r.Counts, d.flips, d.sectors, d.cuts, d.files)
	}
	return errors.Join(errs...)
}
