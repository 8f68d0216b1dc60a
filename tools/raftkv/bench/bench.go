// Package bench runs raftkv and etcd side by side: the same client, the same disk, the same work,
// in turns, so that what else the machine does falls on both.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stele-wal/stele/tools/raftkv/progress"
)

// Config says what is to be run.
type Config struct {
	Systems   [2]System // the first is what the second is measured by
	Tool      string    // the path of etcd's benchmark tool
	Dir       string    // where the members write, empty for the directory of temporary files
	Turns     int
	Seconds   float64 // how long a run takes at the first System's speed
	Nodes     []int
	Clients   []int
	Workloads []Workload
	Profiles  string // if not empty, the directory for CPU profiles of the members
	Progress  *progress.Progress
}

// warmUp is how many operations each client does before a run; lone clients do more, to learn their
// speed.
const (
	warmUp    = 20
	minWarmUp = 200
)

// Run runs everything and returns the figures. In a turn the two Systems run one after the other,
// each as a cluster of its own that does one workload with ever more clients, and which is first
// changes from turn to turn. Nothing of it remains but profiles. The errors are those of the
// programs that are run, and the context's.
func Run(ctx context.Context, cfg Config) (*Table, error) {
	dir, err := os.MkdirTemp(cfg.Dir, "raftkv-bench-")
	if err != nil {
		return nil, err
	}
	r := &runner{cfg: cfg, dir: dir, table: &Table{systems: cfg.Systems}, totals: map[cell]int{}}
	err = r.all(ctx)
	cfg.Progress.Clear()
	return r.table, errors.Join(err, os.RemoveAll(dir))
}

// runner is a Run.
type runner struct {
	cfg    Config
	dir    string
	table  *Table
	totals map[cell]int // operations of a run, the same for both and in all turns
}

// cell is one line of the table.
type cell struct {
	workload       string
	nodes, clients int
}

func (r *runner) all(ctx context.Context) error {
	for turn := range r.cfg.Turns {
		for _, nodes := range r.cfg.Nodes {
			for _, w := range r.cfg.Workloads {
				var figures [2][]Figure
				for i := range r.cfg.Systems {
					which := (i + turn) % len(r.cfg.Systems)
					if turn == 0 {
						which = i // the first decides how much is to be done
					}
					f, err := r.turn(ctx, turn, which, nodes, w)
					if err != nil {
						return fmt.Errorf("%s: %w", r.cfg.Systems[which].Name, err)
					}
					figures[which] = f
				}
				for i, clients := range r.cfg.Clients {
					r.table.add(cell{w.Name, nodes, clients}, [2]Figure{figures[0][i], figures[1][i]})
				}
			}
		}
	}
	return nil
}

// turn has one System do a workload with each number of clients.
func (r *runner) turn(ctx context.Context, turn, which, nodes int, w Workload) (figures []Figure, err error) {
	system := r.cfg.Systems[which]
	c, err := startCluster(ctx, system, nodes, r.dir, r.cfg.Profiles != "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.put(ctx, []byte(readKey), make([]byte, valueSize)); err != nil {
		return nil, err
	}
	for _, clients := range r.cfg.Clients {
		at := cell{w.Name, nodes, clients}
		r.cfg.Progress.Stage("turn %d of %d, nodes %d, %s, clients %d: %s", turn+1, r.cfg.Turns, nodes, w.Name, clients, system.Name)
		warm, err := c.run(ctx, r.cfg.Tool, w, clients, max(minWarmUp, warmUp*clients))
		if err != nil {
			return nil, err
		}
		if r.totals[at] == 0 {
			r.totals[at] = max(minWarmUp, int(warm.Rate*r.cfg.Seconds))
		}
		profiled := c.profile(ctx, r.profileName(at, system), r.cfg.Seconds)
		f, err := c.run(ctx, r.cfg.Tool, w, clients, r.totals[at])
		if err := errors.Join(err, <-profiled); err != nil {
			return nil, err
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// profileName returns the beginning of the names of profiles, empty if none are wanted.
func (r *runner) profileName(at cell, system System) string {
	if r.cfg.Profiles == "" {
		return ""
	}
	name := fmt.Sprintf("%s-%s-%d-nodes-%d-clients", system.Name, strings.ReplaceAll(at.workload, " ", "-"), at.nodes, at.clients)
	return filepath.Join(r.cfg.Profiles, name)
}
