package fuzz_test

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"

	"github.com/stele-wal/stele/fuzz"
)

var (
	states = flag.Int("states", 20_000, "how many `states` the crash campaign opens, at the least")
	seed   = flag.Uint64("seed", 1, "the `seed` of the crash campaign's first history")
	long   = flag.Bool("long", false, "open a million states, which takes ten minutes or so")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // a state is a short-lived file system of a few pages
	os.Exit(m.Run())
}

func TestNoCrashLosesOrInventsOrRefusesAnything(t *testing.T) {
	if *long {
		*states = max(*states, 1_000_000)
	} else {
		t.Logf("SHORT: only %d states; -long opens a million", *states)
	}
	r, err := fuzz.Run(fuzz.Config{Seed: *seed, States: *states, Failures: 5, Workers: 2})
	t.Logf("seed %d: %v", *seed, r)
	for _, f := range r.Failures {
		t.Errorf("%v\n\tto see it again: go test ./fuzz -run %s -seed %d -states %d", &f, t.Name(), f.Seed, f.States)
	}
	if err == nil && r.States < *states {
		t.Errorf("only %d states", r.States)
	}
}

func TestAHistoryDependsOnItsSeedAlone(t *testing.T) {
	run := func() fuzz.Result {
		r, err := fuzz.Run(fuzz.Config{Seed: *seed, States: 2000})
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
	r, err := fuzz.RunExhaustive(fuzz.Config{})
	t.Logf("exhaustive: %v", r)
	if err != nil {
		t.Error(err)
	}
	if r.States < 4000 {
		t.Errorf("only %d states", r.States)
	}
}

func TestEverySaboteurIsCaught(t *testing.T) {
	for _, s := range fuzz.Saboteurs() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			r, err := fuzz.Run(fuzz.Config{Seed: *seed, States: 100_000, Saboteur: &s})
			if err == nil {
				t.Fatalf("not caught: %v", r)
			}
			t.Logf("caught as %s: %v", r.Failures[0].Verdict, r)
		})
	}
}
