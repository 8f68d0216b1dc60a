//go:build linux

// Powercut cuts the power of real file systems under a log, and looks what is left.
//
//	go run ./tools/powercut -cuts 2000
//
// It has three stages. Each prints a line in the end: how many states were examined, and how many
// of them had lost what was acknowledged, refused to open, or shown what was never saved. All three
// must be 0.
//
//   - power: ext4, xfs and btrfs are made on a disk in memory, which the kernel sees through FUSE
//     and a loop device, and which remembers in which order it was written and flushed. A store,
//     log and snapshots, lives on the file system. A power cut is then everything that was flushed
//     before some moment and some of the writes after: none, all, some of them, some of their
//     sectors, or the beginning of one. The image is mounted, so that the file system recovers what
//     it can, and the store is opened.
//   - fsync: the disk answers one write of an entry, or one flush, with an error, so that a real
//     fdatasync fails. The store is closed and opened again, as by a process that starts again,
//     with the page cache as the failure left it; it saves, and then the power is cut. When a flush
//     fails for good, file systems give up, and refuse every call from then on. Then only what had
//     been acknowledged before is owed.
//   - kill: a process saves from many goroutines and is killed by SIGKILL, over and over, now and
//     then while it creates or opens the store. Needs no root.
//
// The first two need root that may mount, which root of a container mostly may not, and what mkfs
// comes from: apt-get install e2fsprogs xfsprogs btrfs-progs. What cannot be tested is said so, and
// is no failure. Nothing is left, even if this process is killed, but for the image of the first
// failure.
//
// With -saboteur the store lives on a file system that leaves out some of its duties, and the run
// fails unless that is noticed.
//
// What it cannot show: the seed decides what the store does and where the power is cut, but not
// when the kernel writes what. So a failure may not come again with the same seed; that is why its
// image is kept. What a file system takes for granted to be written whole is not torn: the
// superblock of ext4 and btrfs, the metadata of xfs except its log. A flush that comes while
// another write is on its way is taken to cover it if it was recorded before.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/stele-wal/stele/tools/powercut/load"
	"github.com/stele-wal/stele/tools/powercut/rig"
)

// Exit codes.
const (
	exitHeld   = 0 // all promises were kept, or could not be tested
	exitBroken = 1 // one was broken, or the rig was, or a saboteur was not noticed
	exitUsage  = 64
)

func main() {
	if dir := os.Getenv(memberDir); dir != "" {
		os.Exit(member(dir, os.Stdout, os.Stderr))
	}
	if os.Geteuid() == 0 && !rig.Isolated() {
		code, err := rig.Isolate()
		switch {
		case err == nil:
			os.Exit(code)
		// If it is, what needs a mount is skipped, and says why.
		case !errors.Is(err, rig.ErrNotPermitted):
			fmt.Fprintln(os.Stderr, "powercut: a mount namespace of its own:", err)
			os.Exit(exitBroken)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdout: os.Stdout, stderr: os.Stderr, progress: newProgress(os.Stderr)}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// app is one run of the program.
type app struct {
	stdout, stderr io.Writer
	progress       *progress

	json     bool
	seed     uint64
	kinds    []rig.FileSystem
	cuts     int // in all
	failures int // on each file system
	kills    int

	saboteur *load.Saboteur // at work now
}

func (a *app) run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("powercut", flag.ContinueOnError)
	flags.SetOutput(a.stderr)
	names := flags.String("fs", "ext4,xfs,btrfs", "the file systems, with commas between")
	flags.IntVar(&a.cuts, "cuts", 2800, "how many power cuts, shared among the file systems")
	flags.IntVar(&a.failures, "fsync", 20, "at how many positions the disk fails, on each file system")
	flags.IntVar(&a.kills, "kills", 100, "how many times a process is killed")
	flags.Uint64Var(&a.seed, "seed", 1, "of the first history; the next has the next")
	flags.BoolVar(&a.json, "json", false, "print each stage's result as a JSON object")
	saboteur := flags.String("saboteur", "", "let this one work on the file system, or all in turn: "+saboteurNames())
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitHeld
	} else if err != nil {
		return exitUsage
	}
	for name := range strings.SplitSeq(*names, ",") {
		i := slices.IndexFunc(rig.FileSystems(), func(f rig.FileSystem) bool { return f.Name == name })
		if i < 0 {
			fmt.Fprintf(a.stderr, "powercut: no file system %q: there are ext4, xfs and btrfs\n", name)
			return exitUsage
		}
		a.kinds = append(a.kinds, rig.FileSystems()[i])
	}
	if *saboteur != "" {
		return a.sabotage(ctx, *saboteur)
	}
	return a.prove(ctx)
}

// prove runs all stages.
func (a *app) prove(ctx context.Context) int {
	results := a.group(ctx, "power", a.cuts, a.powerStages())
	results = append(results, a.group(ctx, "fsync", a.failures*cutsPerFailure*len(a.kinds), a.fsyncStages())...)
	if a.kills > 0 {
		kill := func(ctx context.Context) result { return a.killStage(ctx, a.kills) }
		results = append(results, a.group(ctx, "kill", a.kills, []func(context.Context) result{kill})...)
	}
	return a.conclude(ctx, results)
}

// powerStages returns that of each file system.
func (a *app) powerStages() (stages []func(context.Context) result) {
	for i, kind := range a.kinds {
		if cuts := share(a.cuts, len(a.kinds), i); cuts > 0 {
			stages = append(stages, func(ctx context.Context) result { return a.powerStage(ctx, kind, cuts) })
		}
	}
	return stages
}

// fsyncStages returns that of each file system.
func (a *app) fsyncStages() (stages []func(context.Context) result) {
	for _, kind := range a.kinds {
		if a.failures > 0 {
			stages = append(stages, func(ctx context.Context) result { return a.fsyncStage(ctx, kind, a.failures) })
		}
	}
	return stages
}

// group runs stages at the same time, since most of the time of each goes by in waiting for the
// kernel, and prints each result when it is there.
func (a *app) group(ctx context.Context, what string, total int, stages []func(context.Context) result) []result {
	if ctx.Err() != nil {
		return nil
	}
	a.progress.begin(what, total)
	results := make([]result, len(stages))
	var running sync.WaitGroup
	for i, stage := range stages {
		running.Go(func() {
			results[i] = stage(ctx)
			a.print(results[i])
		})
	}
	running.Wait()
	return results
}

// share returns how many of n the i-th of some gets.
func share(n, among, i int) int { return n*(i+1)/among - n*i/among }

// conclude writes the last line and returns the exit code.
func (a *app) conclude(ctx context.Context, results []result) int {
	var bad, broken, states int
	var skipped []string
	for _, r := range results {
		bad += r.bad()
		states += r.States
		if r.Broken != "" {
			broken++
		}
		if r.Skipped != "" {
			skipped = append(skipped, fmt.Sprintf("%s (%s)", r.Stage, r.Skipped))
		}
	}
	code, line := exitHeld, fmt.Sprintf("%d states: nothing acknowledged was lost, nothing was refused or invented", states)
	switch {
	case bad > 0 || broken > 0:
		code, line = exitBroken, fmt.Sprintf("%d states: %d FAILURES, %d stages broken", states, bad, broken)
	case ctx.Err() != nil:
		code, line = exitBroken, fmt.Sprintf("stopped after %d states", states)
	case states == 0:
		line = "nothing was tested"
	}
	if len(skipped) > 0 {
		line += "; SKIPPED: " + strings.Join(skipped, "; ")
	}
	a.say(line)
	return code
}

// say writes a line for people.
func (a *app) say(line string) {
	out := a.stdout
	if a.json {
		out = a.stderr
	}
	a.progress.above(func() { fmt.Fprintln(out, "powercut:", line) })
}

// sabotage runs the stage that has to notice a saboteur, on each file system.
func (a *app) sabotage(ctx context.Context, name string) int {
	code, found := exitHeld, false
	for _, s := range load.Saboteurs() {
		if name != s.Name && name != "all" || ctx.Err() != nil {
			continue
		}
		found = true
		a.saboteur = &s
		var results []result
		if s.Stage == "power" {
			results = a.group(ctx, "power with "+s.Name, a.cuts, a.powerStages())
		} else {
			results = a.group(ctx, "fsync with "+s.Name, a.failures*cutsPerFailure*len(a.kinds), a.fsyncStages())
		}
		var caught, missed []string
		for _, r := range results {
			switch {
			case r.Broken != "":
				code = exitBroken
			case r.Caught != "":
				caught = append(caught, fmt.Sprintf("%s after %d", r.Stage, r.States))
			case r.Skipped == "":
				missed = append(missed, r.Stage)
			}
		}
		line := fmt.Sprintf("saboteur %s (%s): caught by %s", s.Name, s.Does, strings.Join(caught, ", "))
		if len(caught) == 0 && len(missed) > 0 {
			code, line = exitBroken, fmt.Sprintf("saboteur %s (%s): NOT CAUGHT by %s", s.Name, s.Does, strings.Join(missed, ", "))
		} else if len(missed) > 0 {
			line += "; not by " + strings.Join(missed, ", ")
		}
		a.say(line)
	}
	if !found {
		fmt.Fprintf(a.stderr, "powercut: no saboteur %q: there are %s\n", name, saboteurNames())
		return exitUsage
	}
	return code
}

func saboteurNames() string {
	var names []string
	for _, s := range load.Saboteurs() {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}
