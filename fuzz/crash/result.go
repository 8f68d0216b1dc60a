package crash

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stele-wal/stele/fuzz/oracle"
)

// A Result is what a campaign came to.
type Result struct {
	Histories int // logs
	Lives     int // of these logs: from a Create or an Open to a Close, a kill or a power cut
	// What a crash could have left and was opened; the same files are opened once in each life.
	States  int
	Repeats int // the same files again: these were not opened

	Moments int // of RunExhaustive: between two changes of a file system, with something pending
	// Of these: all that a crash could leave was opened, except torn sectors and garbage.
	Whole int

	Refused  int // see the package
	Lost     int
	Invented int

	Failures []Failure
	Took     time.Duration
}

// Bad returns how many failures there were.
func (r Result) Bad() int { return r.Refused + r.Lost + r.Invented }

// String returns the counts as one line.
func (r Result) String() string {
	s := fmt.Sprintf("%d histories, %d lives, %d states and %d seen again, %.1f s: %d refused, %d lost, %d invented",
		r.Histories, r.Lives, r.States, r.Repeats, r.Took.Seconds(), r.Refused, r.Lost, r.Invented)
	if r.Moments > 0 {
		s += fmt.Sprintf("; exhaustive, in all combinations of sectors, sizes and names, at %d of %d moments", r.Whole, r.Moments)
	}
	return s
}

// A Failure is a state in which the log did not keep its promise.
type Failure struct {
	Verdict oracle.Verdict
	Detail  string
	// Of the history: a campaign that begins with it meets the failure in its first history.
	Seed   uint64
	States int      // opened in the history so far, the bad one included
	Trace  []string // what was done to the log
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s: %s (seed %d, state %d)\n\t%s", f.Verdict, f.Detail, f.Seed, f.States, strings.Join(f.Trace, "\n\t"))
}

// fail counts a failure. Only the first of a history counts.
func (h *history) fail(v oracle.Verdict, format string, args ...any) {
	if h.failed {
		return
	}
	h.failed = true
	h.count(v, fmt.Sprintf(format, args...))
}

// count counts a failure, which need not be the end of the history.
func (h *history) count(v oracle.Verdict, detail string) {
	f := Failure{Verdict: v, Detail: detail, Seed: h.seed, States: h.states, Trace: h.trace.Lines()}
	h.campaign.counter.Count(func(r *Result) {
		switch v {
		case oracle.Refused:
			r.Refused++
		case oracle.Lost:
			r.Lost++
		case oracle.Invented:
			r.Invented++
		}
		if len(r.Failures) < h.campaign.cfg.Failures {
			r.Failures = append(r.Failures, f)
			h.campaign.cfg.Logger.Error("campaign", "failure", &f)
		}
	})
}

// report counts the failure that err is, if it is one, after a description of the state.
func (h *history) report(err error, what string) {
	var f *oracle.Failure
	if errors.As(err, &f) {
		h.fail(f.Verdict, "%s: %s", what, f.Detail)
	} else if err != nil {
		h.fail(oracle.Refused, "%s: %v", what, err)
	}
}
