package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stele-wal/stele/tools/raftkv/bench"
	"github.com/stele-wal/stele/tools/raftkv/etcdtool"
	"github.com/stele-wal/stele/tools/raftkv/progress"
)

func benchCommand() *cobra.Command {
	cfg := bench.Config{Turns: 3, Seconds: 3, Nodes: []int{1, 3}, Clients: []int{1, 16, 256}}
	var workloads []string
	for _, w := range bench.Workloads {
		workloads = append(workloads, w.Name)
	}
	var against string
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure raftkv and etcd side by side",
		Long: "Bench runs raftkv and etcd " + etcdtool.Version + " on the same disk in turns, both with their own defaults and all syncs, and has etcd's benchmark tool\n" +
			"put values of 256 bytes and read one. Its clients speak to the leader, eight of them share a connection. etcd and the tool are built from the Go module proxy,\n" +
			"once; or " + etcdtool.BinEnv + " names a directory that has them. The table has the medians of the turns, and the median of the turns'\n" +
			"ratios. CPU is processor time of all servers together for one operation: of the three figures it depends least on what else the machine does.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer cancel()
			if err := checkBench(cfg); err != nil {
				return err
			}
			for _, name := range workloads {
				i := slices.IndexFunc(bench.Workloads, func(w bench.Workload) bool { return w.Name == name })
				if i < 0 {
					return fmt.Errorf("there is no workload %q", name)
				}
				cfg.Workloads = append(cfg.Workloads, bench.Workloads[i])
			}
			cfg.Progress = progress.To(cmd.ErrOrStderr())
			return sideBySide(ctx, cmd.OutOrStdout(), cfg, against)
		},
	}
	f := c.Flags()
	f.IntVar(&cfg.Turns, "turns", cfg.Turns, "how often each runs everything")
	f.Float64Var(&cfg.Seconds, "seconds", cfg.Seconds, "how long a run is to take, about")
	f.IntSliceVar(&cfg.Nodes, "nodes", cfg.Nodes, "members of the clusters")
	f.IntSliceVar(&cfg.Clients, "clients", cfg.Clients, "clients at once")
	f.StringSliceVar(&workloads, "workloads", workloads, "what the clients do")
	f.StringVar(&cfg.Dir, "dir", "", "where the members write (default: the directory of temporary files)")
	f.StringVar(&cfg.Profiles, "profiles", "", "a directory for CPU profiles of the members")
	f.StringVar(&against, "against", "", "another build of raftkv, to be measured by in place of etcd")
	return c
}

// checkBench returns which number makes no benchmark.
func checkBench(cfg bench.Config) error {
	switch {
	case cfg.Turns < 1:
		return errors.New("--turns: it must be 1 at least")
	case cfg.Seconds <= 0:
		return errors.New("--seconds: it must be more than 0")
	case len(cfg.Nodes) == 0 || slices.Min(cfg.Nodes) < 1:
		return errors.New("--nodes: each must be 1 at least")
	case len(cfg.Clients) == 0 || slices.Min(cfg.Clients) < 1:
		return errors.New("--clients: each must be 1 at least")
	}
	return nil
}

// sideBySide runs the benchmark and prints what came of it.
func sideBySide(ctx context.Context, out io.Writer, cfg bench.Config, against string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.Systems[1] = bench.System{Name: "raftkv", Args: []string{self, "serve"}}
	if against != "" {
		cfg.Systems[0] = bench.System{Name: "before", Args: []string{against, "serve"}}
	} else {
		cfg.Progress.Stage("building etcd, if it is not there yet")
		etcd, err := etcdtool.Path("etcd", true)
		if err != nil {
			return err
		}
		cfg.Systems[0] = bench.System{Name: "etcd", Args: []string{etcd}}
	}
	if cfg.Tool, err = etcdtool.Path("benchmark", true); err != nil {
		return err
	}
	machine, err := bench.Watch()
	if err != nil {
		return err
	}
	table, err := bench.Run(ctx, cfg)
	if err != nil {
		return err
	}
	state, err := machine.Describe(cfg.Dir)
	if err != nil {
		return err
	}
	if _, err := table.WriteTo(out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\nturns %d, about %g s a run; %s.\n", cfg.Turns, cfg.Seconds, state)
	return err
}
