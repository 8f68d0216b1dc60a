//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/tools/powercut/disk"
	"github.com/stele-wal/stele/tools/powercut/load"
	"github.com/stele-wal/stele/tools/powercut/rig"
	"golang.org/x/sys/unix"
)

// cutsPerFailure is how many power cuts come after each failed sync.
const cutsPerFailure = 6

// fsyncStage makes the disk fail at n positions of a file system: three times out of four a write
// of an entry, else a flush. The sync fails, the store is opened again while the page cache is as
// that left it, goes on, and then the power is cut.
func (a *app) fsyncStage(ctx context.Context, kind rig.FileSystem, n int) result {
	s := a.begin("fsync " + kind.Name)
	s.most = n // all positions are of interest
	if why := kind.Missing(); why != "" {
		return s.skip(why)
	}
	p := &power{stage: s, kind: kind, fsys: a.fileSystem(), seed: a.seed}
	outcomes := map[string]int{}
	err := p.fail(ctx, n, outcomes)
	var notes []string
	for name, n := range outcomes {
		notes = append(notes, fmt.Sprintf("%d %s", n, name))
	}
	slices.Sort(notes)
	if p.excused > 0 {
		notes = append(notes, fmt.Sprintf("%d times %s had said yes to a sync just after its journal failed", p.excused, kind.Name))
	}
	s.Note = strings.Join(notes, ", ")
	return s.endAfter(err)
}

func (p *power) fail(ctx context.Context, n int, outcomes map[string]int) (err error) {
	if p.rig, err = rig.New(p.kind); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.rig.Close()) }()
	if p.made, err = p.rig.Make(); err != nil {
		return err
	}
	for i := 0; i < n && !p.over(ctx); i++ {
		seed := p.seed + uint64(i)
		what := disk.Write
		if seed%4 == 3 {
			what = disk.Flush
		}
		lost := p.bad()
		outcome, err := p.failOnce(seed, what)
		if err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
		name := map[disk.Kind]string{disk.Write: "write: ", disk.Flush: "flush: "}[what] + string(outcome)
		if p.bad() > lost {
			name += " and lost"
		}
		outcomes[name]++
	}
	return nil
}

// failOnce fails once.
func (p *power) failOnce(seed uint64, what disk.Kind) (load.Outcome, error) {
	p.replay = fmt.Sprintf("go run ./tools/powercut -fs %s -cuts 0 -kills 0 -seed %d -fsync 1", p.kind.Name, seed)
	if err := p.rig.Mount(p.made, rig.Recorded); err != nil {
		return "", err
	}
	var failed atomic.Int64 // the position, plus one
	marks, again, outcome, err := load.NewHistory(seed).Restart(filepath.Join(p.rig.Dir(), "data"), p.fsys, p.rig.Disk.Position, func() {
		p.rig.Disk.Fail(func(at int, op disk.Op) error {
			if op.Kind == what && (what == disk.Flush || load.HasEntry(op.Data)) && failed.CompareAndSwap(0, int64(at)+1) {
				return unix.EIO
			}
			return nil
		})
	})
	// What was not acknowledged by now is not owed, whatever the file system makes of the rest.
	end := p.rig.Disk.Position()
	if err2 := p.rig.Unmount(); err2 != nil {
		return "", errors.Join(err, err2)
	}
	trace := p.rig.Disk.Trace()
	where := fmt.Sprintf("failed %v, seed %d, %v", map[disk.Kind]string{disk.Write: "write", disk.Flush: "flush"}[what], seed, outcome)
	if f := new(oracle.Failure); errors.As(err, &f) {
		p.failed(f, where, p.replay, nil)
		return outcome, nil
	} else if err != nil {
		return "", err
	}
	if failed.Load() == 0 {
		return "", errors.New("the disk was never asked to do what it was to fail")
	}
	cuts := p.cutsAfter(marks, again, end, seed)
	excuse := func(load.Owed) (load.Owed, bool) { return load.Owed{}, false }
	if what == disk.Flush && outcome == load.SaidNo {
		excuse = func(o load.Owed) (load.Owed, bool) {
			return o.AckedBy(load.At(marks, int(failed.Load())-1, load.Owed{})), true
		}
	}
	return outcome, p.cutAll(trace, marks, cuts, where, excuse)
}

// cutsAfter chooses cuts after a restart, in order.
func (p *power) cutsAfter(marks []load.Mark, again, end int, seed uint64) []disk.Cut {
	rng := rand.New(rand.NewPCG(seed, 0xfa11))
	cuts := []disk.Cut{{At: end, Choice: disk.None}, {At: end, Choice: disk.All}}
	for len(cuts) < cutsPerFailure {
		at := end
		if again < len(marks) {
			at = marks[again+rng.IntN(len(marks)-again)].At
		}
		cuts = append(cuts, disk.RandomCut(rng, at))
	}
	slices.SortStableFunc(cuts, func(a, b disk.Cut) int { return a.At - b.At })
	return cuts
}

// cutAll makes cuts up to the first failure. excuse returns what is owed of a disk whose flush has
// failed for good. A sync that ext4 is asked for just then, by another goroutine than the one whose
// sync makes its journal fail, returns nil: the transaction that it would wait for is over,
// although it came to nothing. What that acknowledges no log can keep. From then on every call is
// refused.
func (p *power) cutAll(trace *disk.Trace, marks []load.Mark, cuts []disk.Cut, where string, excuse func(load.Owed) (load.Owed, bool)) error {
	cutter := trace.Cutter(p.whole)
	for _, c := range cuts {
		image, _ := cutter.Cut(c)
		owed := load.At(marks, c.At, load.Owed{})
		err := p.try(image, owed, false)
		f := new(oracle.Failure)
		if errors.As(err, &f) && f.Verdict == oracle.Lost {
			if less, ok := excuse(owed); ok && p.try(image, less, false) == nil {
				p.excused++
				err = nil
			}
		}
		p.state()
		if errors.As(err, &f) {
			p.failed(f, where+", then "+c.String(), p.replay, image)
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}
