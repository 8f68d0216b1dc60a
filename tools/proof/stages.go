package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/stele-wal/stele/fuzz/crash"
	"github.com/stele-wal/stele/fuzz/faults"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/fuzz/rot"
)

// A stage is one way of attack. States is how many of them its whole form has, about.
type stage struct {
	name string
	run  func(context.Context, *settings, *progress) []row
}

var stages = []stage{
	{"model", model},
	{"exhaustive", exhaustive},
	{"rot", rotStage},
	{"faults", faultStage},
	{"control", control},
	{"power", power},
	{"saboteurs", saboteurs},
}

func stageNames() (names []string) {
	for _, s := range stages {
		names = append(names, s.name)
	}
	return names
}

func isStage(name string) bool { return slices.Contains(stageNames(), name) }

// The whole form of the campaigns that have no natural end.
const (
	modelStates = 1_000_000
	modelLives  = 100_000
	powerCuts   = 2_802 // a third on each file system
	kills       = 100
	rotEvery    = 3 // every nth of the bits, words and lengths; sectors and files all
	faultEvery  = 3 // every nth of the runs
	faultFsyncs = 20
)

// What there is to do at the least where no setting says how much. It is less than there is, and
// says when a campaign has come to nothing.
const (
	exhaustiveStates = 15_000
	faultRuns        = 18_000 // divided by how many there are for one that is done
)

// model cuts the power of a file system in memory.
func model(_ context.Context, s *settings, p *progress) []row {
	cfg := crash.Config{Seed: s.seed, States: s.of(modelStates), Lives: s.of(modelLives), Workers: s.workers, Failures: 3}
	cfg.Progress = func(r crash.Result) {
		// Whichever of the two is further from its end.
		if r.States*modelLives < r.Lives*modelStates {
			p.far(r.States, cfg.States)
		} else {
			p.far(r.Lives, cfg.Lives)
		}
	}
	r, _ := crash.Run(cfg)
	line := crashed("model", r)
	line.what = fmt.Sprintf("states, %s lives", grouped(r.Lives))
	line.atLeast("states", r.States, cfg.States)
	line.atLeast("lives", r.Lives, cfg.Lives)
	for i := range r.Failures {
		line.replay(i, "go test ./fuzz/crash -run TestNoCrashLosesOrInventsOrRefusesAnything -seed %d -states 1 -lives 1", r.Failures[i].Seed)
	}
	return []row{line}
}

// exhaustive tries all that short histories can come to.
func exhaustive(_ context.Context, s *settings, p *progress) []row {
	r, _ := crash.RunExhaustive(crash.Config{Seed: s.seed, Failures: 3})
	line := crashed("exhaustive", r)
	line.what = fmt.Sprintf("states, all of %d of %d moments", r.Whole, r.Moments)
	line.atLeast("states", r.States, exhaustiveStates)
	line.atLeast("moments of which all was tried", r.Whole, r.Moments*95/100)
	for i := range r.Failures {
		line.replay(i, "go run ./tools/proof -stages exhaustive -seed %d", s.seed)
	}
	return []row{line}
}

// crashed is the row of a campaign of crashes. How to meet its failures again is not in it yet.
func crashed(name string, r crash.Result) row {
	line := row{stage: name, states: r.States, seconds: r.Took.Seconds(), lost: r.Lost, refused: r.Refused, silent: r.Invented}
	for i := range r.Failures {
		line.details = append(line.details, r.Failures[i].Error())
	}
	return line
}

// rotStage damages logs and snapshots.
func rotStage(_ context.Context, s *settings, p *progress) []row {
	cfg := rot.Config{Seed: s.seed, Every: s.sample(rotEvery), Workers: s.workers}
	cfg.Progress = func(r rot.Result) { p.at("%s", grouped(r.States())) }
	r, err := rot.Run(cfg)
	line := rotted("rot", r, err)
	for i, f := range r.Failures {
		line.replay(i, "go test ./fuzz/rot -run '^TestNoRotIsSilent$' -seed %d -rot '%s/%d' -long", s.seed, f.Log, f.Number)
	}
	snaps, err := rot.Snapshots(s.seed)
	other := rotted("rot of snapshots", snaps, err)
	for i := range snaps.Failures {
		other.replay(i, "go test ./fuzz/rot -run TestNoRotOfASnapshotIsSilent -seed %d", s.seed)
	}
	return []row{line, other}
}

// rotted is the row of a campaign of rot. What is lost there and reported is what a campaign of rot
// is about: only what is silent, or called by a wrong name, is bad.
func rotted(name string, r rot.Result, err error) row {
	line := row{stage: name, states: r.States(), seconds: r.Took.Seconds(), lost: r.Failed - r.Silent - r.Panicked, silent: r.Silent + r.Panicked}
	line.what = fmt.Sprintf("faults: %s flips, %s of sectors, %s cuts", grouped(r.Flips), grouped(r.Sectors), grouped(r.Cuts))
	for _, e := range slices.Sorted(maps.Keys(r.Excused)) {
		line.notes = append(line.notes, fmt.Sprintf("%d not to be detected: %s", r.Excused[e], e))
	}
	for i := range r.Failures {
		line.details = append(line.details, r.Failures[i].Error())
	}
	if err != nil && len(r.Failures) == 0 {
		line.broken = err.Error()
	} else if err := r.Bounds(); err != nil {
		line.weak = append(line.weak, err.Error())
	}
	return line
}

// faultStage has operations of the file system fail.
func faultStage(_ context.Context, s *settings, _ *progress) []row {
	every := s.sample(faultEvery)
	r, err := faults.Run(faults.Config{Seed: s.seed, Every: every, Workers: s.workers, Failures: 3})
	line := row{stage: "faults", states: r.States, what: fmt.Sprintf("states of %s runs", grouped(r.Runs)), seconds: r.Took.Seconds()}
	for v, n := range r.Bad {
		switch v {
		case oracle.Lost:
			line.lost += n
		case oracle.Refused:
			line.refused += n
		default:
			line.silent += n
		}
	}
	line.atLeast("runs", r.Runs, faultRuns/every)
	for i := range r.Failures {
		line.details = append(line.details, r.Failures[i].Error())
		line.replay(i, "go test ./fuzz/faults -run TestNoFaultIsForgottenOrLosesAnything -seed %d -fault '%s'", r.Failures[i].Seed, r.Failures[i].Run)
	}
	if err != nil && len(r.Failures) == 0 {
		line.broken = err.Error()
	}
	return []row{line}
}
