package wal_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Whoever calls may be wrong in any way: what is not refused as invalid, every reader takes. The
// values are few, so that many of them fit.
func TestWhatSaveTakesEveryReaderTakes(t *testing.T) {
	sequences := uint64(3000)
	if testing.Short() {
		sequences = 300
	}
	taken := 0
	for seed := range sequences {
		rng := rand.New(rand.NewPCG(seed, 0))
		c := &careless{rng: rng, o: &wal.Options{FS: crashfs.New(), SegmentSize: 4096, PlainEtcd: rng.IntN(3) == 0}}
		if err := c.live(); err != nil {
			t.Fatalf("seed %d: %v, after\n%q", seed, err, c.did)
		}
		taken += len(c.did)
	}
	if taken < 2*int(sequences) {
		t.Errorf("only %d calls were taken", taken)
	}
}

// careless saves what it likes.
type careless struct {
	rng *rand.Rand
	o   *wal.Options
	did []string // what was taken
}

func (c *careless) number(n int) uint64 {
	if c.rng.IntN(40) == 0 {
		return math.MaxUint64 - c.number(2)
	}
	return uint64(c.rng.IntN(n))
}

func (c *careless) state() walpb.HardState {
	return walpb.HardState{Term: c.number(4), Vote: c.number(3), Commit: c.number(9)}
}

func (c *careless) entries() (list []walpb.Entry) {
	first, term := c.number(8), c.number(4)
	for i := range uint64(c.rng.IntN(4)) {
		list = append(list, walpb.Entry{Type: walpb.EntryType(c.number(4)), Term: term, Index: first + i, Data: make([]byte, 700*c.rng.IntN(2))})
		term += uint64(c.rng.IntN(5) / 4)
	}
	return list
}

func (c *careless) confState() []byte {
	return [][]byte{nil, {}, {8, 1}, {0x0a, 1, 1}, {8}, {0x2a, 0}, []byte("none")}[c.rng.IntN(7)]
}

// live makes a log and calls it, and looks at what it left.
func (c *careless) live() error {
	w, err := wal.Create(labDir, nil, c.o)
	if err != nil {
		return err
	}
	for range 1 + c.rng.IntN(14) {
		var what string
		var err error
		switch c.rng.IntN(6) {
		case 0:
			s := walpb.Snapshot{Index: c.number(8), Term: c.number(4), ConfState: c.confState()}
			what, err = fmt.Sprint("snapshot ", s), w.SaveSnapshot(s)
		case 1:
			s := c.state()
			what, err = fmt.Sprint("state ", s), w.Save(s, nil)
		case 2:
			index := c.number(8)
			what, err = fmt.Sprint("release ", index), w.Release(index)
		case 3:
			what, err = "open again", w.Close()
			if err == nil {
				w, err = wal.Open(labDir, c.o)
			}
		default:
			s, list := walpb.HardState{}, c.entries()
			if c.rng.IntN(2) == 0 {
				s = c.state()
			}
			what, err = fmt.Sprint("save ", s, " ", text(list)), w.Save(s, list)
		}
		if err == nil {
			c.did = append(c.did, what)
		} else if !errors.Is(err, wal.ErrInvalid) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.read()
}

func (c *careless) read() error {
	w, err := wal.Open(labDir, c.o)
	if err != nil {
		return err
	}
	w.Close()
	report, err := wal.Check(labDir, c.o)
	if err != nil || report.Verdict != wal.Clean {
		return fmt.Errorf("check: %+v, %v", report, err)
	}
	snapshots, err := wal.Snapshots(wal.Records(labDir, 0, c.o))
	if err != nil || len(snapshots) == 0 {
		return fmt.Errorf("%d snapshots, %w", len(snapshots), err)
	}
	for _, s := range snapshots {
		if _, err := wal.Replay(wal.Records(labDir, s.Index, c.o), s); err != nil {
			return fmt.Errorf("replay from %d/%d: %w", s.Term, s.Index, err)
		}
	}
	return nil
}
