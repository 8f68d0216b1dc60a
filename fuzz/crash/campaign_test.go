package crash_test

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"

	"github.com/stele-wal/stele/fuzz/crash"
)

var (
	states = flag.Int("states", 20_000, "how many `states` the crash campaign opens at least")
	lives  = flag.Int("lives", 2000, "how many `lives` it leads at least")
	seed   = flag.Uint64("seed", 1, "the `seed` of the crash campaign's first history")
	long   = flag.Bool("long", false, "open a million states and lead 100,000 lives, which takes minutes")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // a state is a short-lived file system of a few pages
	os.Exit(m.Run())
}

func TestNoCrashLosesOrInventsOrRefusesAnything(t *testing.T) {
	if *long {
		*states, *lives = max(*states, 1_000_000), max(*lives, 100_000)
	} else {
		t.Logf("SHORT: only %d states and %d lives; -long opens a million and leads 100,000", *states, *lives)
	}
	r, err := crash.Run(crash.Config{Seed: *seed, States: *states, Lives: *lives, Failures: 5, Workers: 2})
	t.Logf("seed %d: %v", *seed, r)
	for _, f := range r.Failures {
		t.Errorf("%v\n\tto see it again: go test ./fuzz/crash -run %s -seed %d -states 1 -lives 1", &f, t.Name(), f.Seed)
	}
	if err == nil && (r.States < *states || r.Lives < *lives) {
		t.Errorf("only %d states of %d lives", r.States, r.Lives)
	}
}

func TestAHistoryDependsOnItsSeedAlone(t *testing.T) {
	run := func() crash.Result {
		r, err := crash.Run(crash.Config{Seed: *seed, States: 2000})
		if err != nil {
			t.Error(err)
		}
		r.Took = 0
		return r
	}
	if a, b := run(), run(); a.String() != b.String() {
		t.Errorf("%v, and then %v", a, b)
	}
}

func TestNoCrashOfAShortHistoryLosesAnything(t *testing.T) {
	r, err := crash.RunExhaustive(crash.Config{})
	t.Log(r)
	if err != nil {
		t.Errorf("%v\n\tto see it again: go test ./fuzz/crash -run %s", err, t.Name())
	}
	if r.States < 15_000 || r.Whole < r.Moments*95/100 {
		t.Errorf("only %d states, %d of %d moments", r.States, r.Whole, r.Moments)
	}
}

func TestEverySaboteurIsCaught(t *testing.T) {
	for _, s := range crash.Saboteurs() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			r, err := crash.Run(crash.Config{Seed: *seed, States: 400_000, Saboteur: &s})
			if err == nil {
				t.Fatalf("not caught: %v", r)
			}
			t.Logf("caught as %s: %s: %v", r.Failures[0].Verdict, r.Failures[0].Detail, r)
		})
	}
}
