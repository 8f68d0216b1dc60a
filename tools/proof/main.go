// Proof attacks the log in every way that there is a campaign for, and prints one table of what
// came of it, with etcd's own log beside it where it can be put to the same test.
//
//	go run ./tools/proof
//
// It takes about seven minutes of processor time, about five minutes on two idle cores. The stages:
//
//   - model: power cuts of a file system in memory, before, after and inside every operation of a
//     log and its snapshots;
//   - exhaustive: short histories, and of each moment all that a crash could leave;
//   - rot: every bit of some logs flipped; sectors zeroed, stale, from elsewhere; files cut, lost,
//     swapped; snapshots too;
//   - faults: every operation of the file system fails in every way that it can;
//   - control: etcd's own package, put to the same crashes and the same rot, of logs with the same
//     content. What is silent includes panics;
//   - power: power cuts of ext4, xfs and btrfs; fsync: a disk that fails a real fsync, a restart,
//     and then a power cut; kill: a process that is killed. They are those of tools/powercut, and
//     power and fsync need root;
//   - saboteurs: builds and file systems that are wrong in a known way. Each must be caught, or the
//     stages are too weak.
//
// Lost is what was acknowledged and is not there, and no call said so before it mattered; refused
// is a log that does not open though nothing but a crash has happened to it; silent is wrong
// content of which no reader says so. All must be 0, and the exit code is then 0. A stage that
// cannot be run, for want of root, is named in the last lines. Each failure says how to meet it
// again.
//
// A stage is broken that has not ended after a quarter of an hour, or that times -scale above 1.
// What its goroutines do is printed, and nothing is run after it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitHeld   = 0
	exitBroken = 1
	exitUsage  = 64
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// settings are what the command line says.
type settings struct {
	seed    uint64
	scale   float64 // how much of each campaign
	only    map[string]bool
	hunt    bool // stop at the first failure: this is a saboteur's build
	workers int
}

// of returns how many of n to do.
func (s *settings) of(n int) int { return max(1, int(float64(n)*s.scale)) }

// sample returns one in how many to do, where the whole form does one in every.
func (s *settings) sample(every int) int { return max(1, int(float64(every)/s.scale)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var s settings
	flags := flag.NewFlagSet("proof", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&s.seed, "seed", 1, "of the first history of each campaign")
	flags.Float64Var(&s.scale, "scale", 1, "how much of each campaign to do, 1 for all of it")
	flags.IntVar(&s.workers, "workers", 2, "how many goroutines share a campaign")
	only := flags.String("stages", "", "only these, with commas between: "+strings.Join(stageNames(), ", "))
	flags.BoolVar(&s.hunt, "hunt", false, "end at the first failure, and print only that: for builds with the tag sabotage")
	if err := flags.Parse(args); err == flag.ErrHelp {
		return exitHeld
	} else if err != nil {
		return exitUsage
	}
	if *only != "" {
		s.only = map[string]bool{}
		for name := range strings.SplitSeq(*only, ",") {
			if !isStage(name) {
				fmt.Fprintf(stderr, "proof: no stage %q: there are %s\n", name, strings.Join(stageNames(), ", "))
				return exitUsage
			}
			s.only[name] = true
		}
	}
	if s.scale <= 0 || s.workers <= 0 {
		fmt.Fprintln(stderr, "proof: -scale and -workers must be above 0")
		return exitUsage
	}
	if s.hunt {
		return hunt(ctx, &s, stdout)
	}
	return prove(ctx, &s, stdout, stderr)
}

// prove runs the stages and prints the table.
func prove(ctx context.Context, s *settings, stdout, stderr io.Writer) int {
	p := &progress{w: stderr}
	var t table
	for _, st := range stages {
		if ctx.Err() != nil {
			fmt.Fprintln(stderr, "proof: interrupted")
			return exitBroken
		}
		if s.only == nil || s.only[st.name] {
			p.begin(st.name)
			rows, ended := watch(ctx, st, s, p, stderr)
			p.end()
			again(rows, st.name, s)
			t.add(rows...)
			if !ended {
				fmt.Fprintln(stderr, "proof: the stages after it are not run")
				break
			}
		}
	}
	t.print(stdout)
	return t.code()
}
