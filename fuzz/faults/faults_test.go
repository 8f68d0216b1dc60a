package faults_test

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/faults"
)

var (
	seed = flag.Uint64("seed", 1, "the `seed` of the campaign")
	long = flag.Bool("long", false, "do every run, with ten power cuts by chance in the place of one")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // a state is a short-lived file system of a few pages
	os.Exit(m.Run())
}

var onlyFault = flag.String("fault", "", "the `name` of the only run of the campaign of faults to do")

func TestNoFaultIsForgottenOrLosesAnything(t *testing.T) {
	cfg := faults.Config{Seed: *seed, Only: *onlyFault, Failures: 5, Workers: 2}
	if *long {
		cfg.Cuts = 10
	} else {
		t.Log("SHORT: only every second run; -long does all, with ten power cuts by chance in the place of one")
		cfg.Every = 2
	}
	r, err := faults.Run(cfg)
	t.Logf("seed %d: %v", *seed, r)
	for _, f := range r.Failures {
		t.Errorf("%v\n\tto see it again: go test ./fuzz/faults -run %s -seed %d -fault %s", &f, t.Name(), f.Seed, f.Run)
	}
	if err != nil || *onlyFault != "" {
		return
	}
	if r.Runs < 7000 {
		t.Errorf("only %d runs", r.Runs)
	}
	for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpWrite, crashfs.OpTruncate, crashfs.OpPreallocate, crashfs.OpSyncData,
		crashfs.OpSyncDir, crashfs.OpRename, crashfs.OpRemove, crashfs.OpMkdir, crashfs.OpOpen, crashfs.OpRead, crashfs.OpReadDir,
		crashfs.OpStat, crashfs.OpLock, crashfs.OpClose, crashfs.OpDropCache} {
		if r.Failed[kind] == 0 {
			t.Errorf("no %s has failed: the workloads do none", kind)
		}
	}
}

func TestWhoForgetsAnErrorIsCaught(t *testing.T) {
	for _, s := range faults.Saboteurs() {
		t.Run(s.Name, func(t *testing.T) {
			r, err := faults.Run(faults.Config{Seed: *seed, Saboteur: &s, Workers: 2})
			if err == nil {
				t.Fatalf("not caught: %v", r)
			}
			t.Logf("caught as %s by %s: %v", r.Failures[0].Verdict, r.Failures[0].Run, r)
		})
	}
}

func TestAFaultIsSeenAgainByItsName(t *testing.T) {
	s := faults.Saboteurs()[0]
	first, err := faults.Run(faults.Config{Seed: *seed, Saboteur: &s})
	if err == nil {
		t.Fatal("not caught")
	}
	f := first.Failures[0]
	again, err := faults.Run(faults.Config{Seed: *seed, Saboteur: &s, Only: f.Run})
	if err == nil || again.Failures[0].Error() != f.Error() {
		t.Errorf("%v, and then %v", &f, err)
	}
	if r, err := faults.Run(faults.Config{Only: "no such run"}); err == nil {
		t.Errorf("a run that is not there: %v", r)
	}
}

// The runs of a sample are others with another seed, so that runs with many seeds come to do
// them all.
func TestTheSeedChoosesWhichFaultsASampleHas(t *testing.T) {
	const every = 400
	all := map[string]int{}
	for seed := range uint64(3) {
		r, err := faults.Run(faults.Config{Seed: seed, Every: every, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprint(r.Failed)]++
	}
	if len(all) < 2 {
		t.Errorf("three seeds have the same runs: %v", all)
	}
}
