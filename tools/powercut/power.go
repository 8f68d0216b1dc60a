//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/tools/powercut/disk"
	"github.com/stele-wal/stele/tools/powercut/load"
	"github.com/stele-wal/stele/tools/powercut/rig"
)

const (
	livesPerHistory = 3
	stepsPerLife    = 30
	cutsPerLife     = 40
)

// power cuts the power of one file system, over and over.
type power struct {
	*stage
	kind   rig.FileSystem
	rig    *rig.Rig
	made   *disk.Image
	fsys   fileutil.FS
	cuts   int // how many to make
	seed   uint64
	replay string // the flags that make the same again

	excused int // see cutAll
}

// powerStage is the whole of it.
func (a *app) powerStage(ctx context.Context, kind rig.FileSystem, cuts int) result {
	s := a.begin("power " + kind.Name)
	if why := kind.Missing(); why != "" {
		return s.skip(why)
	}
	p := &power{stage: s, kind: kind, fsys: a.fileSystem(), cuts: cuts, seed: a.seed}
	return s.endAfter(p.run(ctx))
}

func (p *power) run(ctx context.Context) (err error) {
	if p.rig, err = rig.New(p.kind); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.rig.Close()) }()
	if p.made, err = p.rig.Make(); err != nil {
		return err
	}
	for seed := p.seed; p.States < p.cuts && !p.over(ctx); seed++ {
		if err := p.history(ctx, seed); err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	return nil
}

// history takes one store through its lives, each on what a power cut has left of the one before.
func (p *power) history(ctx context.Context, seed uint64) error {
	h := load.NewHistory(seed)
	rng := rand.New(rand.NewPCG(seed, 0xc07))
	p.replay = fmt.Sprintf("go run ./tools/powercut -fs %s -fsync 0 -kills 0 -seed %d -cuts %d", p.kind.Name, seed, livesPerHistory*cutsPerLife)
	base, owed := p.made, load.Owed{}
	for i := 0; i < livesPerHistory && p.States < p.cuts && !p.over(ctx); i++ {
		trace, marks, err := p.live(h, base, owed)
		if f := new(oracle.Failure); errors.As(err, &f) {
			p.failed(f, fmt.Sprintf("life %d of seed %d (%v)", i+1, seed, h), p.replay, nil)
			return nil
		} else if err != nil {
			return err
		}
		cuts := plan(rng, trace, marks, min(cutsPerLife, p.cuts-p.States))
		chosen := rng.IntN(len(cuts))
		cutter := trace.Cutter(p.whole)
		before := owed
		for j, c := range cuts {
			if p.over(ctx) {
				return nil
			}
			image, pending := cutter.Cut(c)
			o := load.At(marks, c.At, before)
			where := fmt.Sprintf("life %d of seed %d (%v), %v of %d, %d writes not flushed", i+1, seed, h, c, len(trace.Ops), pending)
			if err := p.recover(image, o, rng.IntN(4) == 0, where); err != nil {
				return err
			}
			if j == chosen {
				base, owed = image, o
			}
		}
	}
	return nil
}

// live runs one life on an image, and returns what the disk did meanwhile.
func (p *power) live(h *load.History, base *disk.Image, owed load.Owed) (*disk.Trace, []load.Mark, error) {
	if err := p.rig.Mount(base, rig.Recorded); err != nil {
		return nil, nil, err
	}
	marks, err := h.Live(filepath.Join(p.rig.Dir(), "data"), p.fsys, owed, stepsPerLife, p.rig.Disk.Position)
	if err2 := p.rig.Unmount(); err2 != nil {
		return nil, nil, errors.Join(err, err2)
	}
	return p.rig.Disk.Trace(), marks, err
}

// whole reports whether a write is never torn.
func (p *power) whole(op disk.Op) bool { return p.kind.Whole(op, load.HasEntry(op.Data)) }

// plan chooses cuts: every other one at an acknowledgement, when the most is owed, and the others
// anywhere.
func plan(rng *rand.Rand, trace *disk.Trace, marks []load.Mark, n int) []disk.Cut {
	cuts := make([]disk.Cut, n)
	for i := range cuts {
		at := rng.IntN(len(trace.Ops) + 1)
		if i%2 == 0 {
			at = marks[rng.IntN(len(marks))].At
		}
		cuts[i] = disk.RandomCut(rng, at)
	}
	slices.SortStableFunc(cuts, func(a, b disk.Cut) int { return a.At - b.At })
	return cuts
}

// recover recovers a store and counts what comes of it. The error is one of the rig.
func (p *power) recover(image *disk.Image, owed load.Owed, further bool, where string) error {
	err := p.try(image, owed, further)
	p.state()
	if f := new(oracle.Failure); errors.As(err, &f) {
		p.failed(f, where, p.replay, image)
		return nil
	}
	return err
}

// try mounts what a power cut has left and recovers the store on it. The error is an
// *oracle.Failure, or one of the rig.
func (p *power) try(image *disk.Image, owed load.Owed, further bool) error {
	if err := p.rig.Mount(image, rig.Quiet); err != nil {
		return &oracle.Failure{Verdict: oracle.Refused, Detail: err.Error()}
	}
	err := load.Recover(filepath.Join(p.rig.Dir(), "data"), owed, further)
	if err2 := p.rig.Unmount(); err2 != nil {
		return fmt.Errorf("%w (after %v)", err2, err) // not a *oracle.Failure: the rig cannot go on
	}
	return err
}

// fileSystem returns the operating system's, or what the saboteur makes of it.
func (a *app) fileSystem() fileutil.FS {
	if a.saboteur == nil {
		return fileutil.OS{}
	}
	return a.saboteur.Wrap(fileutil.OS{})
}

// keep writes an image to a file and returns its name.
func keep(image *disk.Image, name string) (string, error) {
	f, err := os.CreateTemp("", "powercut-"+name+"-*.img")
	if err != nil {
		return "", err
	}
	err = f.Truncate(image.Size())
	for off, b := range image.Extents {
		if err == nil {
			_, err = f.WriteAt(b, off)
		}
	}
	return f.Name(), errors.Join(err, f.Close())
}
