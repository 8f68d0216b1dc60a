// Control runs the campaigns below fuzz over etcd's own log package, and over ours, and prints
// what each made of the same states.
//
//	go run ./tools/interop/cmd/control [-stage rot|model|opened] [-every n] [-states n] [-seed n] [-json]
//
// The stage rot is damage to a log of the same content in both formats; model is what crashes left
// of logs with etcd's bytes; opened is what they left of ours, opened by ours, and then by etcd.
// With -json each line is an object.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/stele-wal/stele/tools/interop"
)

func main() {
	var (
		cfg    interop.ControlConfig
		stage  = flag.String("stage", "", "only this `stage`: rot, model or opened")
		asJSON = flag.Bool("json", false, "print a line of JSON for each program and stage")
	)
	flag.Uint64Var(&cfg.Seed, "seed", 1, "the `seed` of what is random")
	flag.IntVar(&cfg.Every, "every", 0, "flip one bit of each `n`; sectors and files are damaged in full")
	flag.IntVar(&cfg.States, "states", 0, "how many crash `states` each program opens")
	flag.IntVar(&cfg.Workers, "workers", 2, "how many goroutines share the work")
	flag.Parse()
	if err := run(cfg, *stage, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "control:", err)
		os.Exit(1)
	}
}

func run(cfg interop.ControlConfig, only string, asJSON bool) error {
	var all []interop.Tally
	for _, stage := range []struct {
		name string
		run  func(interop.ControlConfig) ([]interop.Tally, error)
	}{{"rot", interop.ControlRot}, {"model", interop.ControlCrashes}, {"opened", opened}} {
		if only != "" && only != stage.name {
			continue
		}
		tallies, err := stage.run(cfg)
		if err != nil {
			return err
		}
		all = append(all, tallies...)
	}
	if len(all) == 0 {
		return fmt.Errorf("there is no stage %q; there are rot, model and opened", only)
	}
	if !asJSON {
		fmt.Print(interop.Tallies(all))
		return nil
	}
	lines := json.NewEncoder(os.Stdout)
	for _, t := range all {
		if err := lines.Encode(t); err != nil {
			return err
		}
	}
	return nil
}

func opened(cfg interop.ControlConfig) ([]interop.Tally, error) {
	t, err := interop.ControlOpened(cfg)
	return []interop.Tally{t}, err
}
