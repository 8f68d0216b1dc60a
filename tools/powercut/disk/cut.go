package disk

import (
	"fmt"
	"math/rand/v2"
)

// A Choice says which of the writes that no flush covered survive a power cut.
type Choice uint8

// The choices there are. Those that draw take what they need from the Cut's seed.
const (
	None    Choice = iota // the disk wrote nothing that it was not told to flush
	All                   // the disk wrote everything
	Subset                // each write is there or not
	DropOne               // one write is missing
	KeepOne               // one write is there
	Sectors               // each sector of each write is there or not
	// The writes up to one are there, and of that one the first bytes, whole sectors or not.
	Torn
	choices
)

var choiceNames = [choices]string{"none", "all", "subset", "drop one", "keep one", "sectors", "torn"}

func (c Choice) String() string { return choiceNames[c] }

// A Cut is a power cut.
type Cut struct {
	At     int // the position in the trace
	Choice Choice
	Seed   uint64 // of what is drawn
}

func (c Cut) String() string { return fmt.Sprintf("cut at %d, %v, seed %d", c.At, c.Choice, c.Seed) }

// RandomCut draws a Cut at a position.
func RandomCut(rng *rand.Rand, at int) Cut {
	return Cut{At: at, Choice: Choice(rng.IntN(int(choices))), Seed: rng.Uint64()}
}

// A Cutter builds the images that power cuts leave. The Cuts come in the order of their positions,
// so that what was durable at one is not built again for the next. It is not for concurrent use.
type Cutter struct {
	trace *Trace
	whole func(op Op) bool

	durable *Image // after ops[:flushed]
	flushed int
}

// Cutter returns a Cutter. A write for which whole returns true is never torn or taken apart: it is
// there or it is not. whole may be nil.
func (t *Trace) Cutter(whole func(op Op) bool) *Cutter {
	if whole == nil {
		whole = func(Op) bool { return false }
	}
	return &Cutter{trace: t, whole: whole, durable: t.Base.Clone()}
}

// Cut returns what is on the disk after a power cut: everything that a flush before it covered, and
// of what was written since what the Choice says. It also returns how many writes there were since.
func (c *Cutter) Cut(cut Cut) (image *Image, pending int) {
	ops := c.trace.Ops
	if cut.At < c.flushed || cut.At > len(ops) {
		panic("disk: " + cut.String() + " is out of order")
	}
	for i := cut.At - 1; i >= c.flushed; i-- {
		if ops[i].Kind != Flush {
			continue
		}
		for _, op := range ops[c.flushed:i] {
			c.durable.apply(op)
		}
		c.flushed = i + 1
		break
	}
	image = c.durable.Clone()
	since := ops[c.flushed:cut.At]
	c.choose(image, since, cut)
	return image, len(since)
}

// choose applies what survives of the operations.
func (c *Cutter) choose(m *Image, ops []Op, cut Cut) {
	if len(ops) == 0 || cut.Choice == None {
		return
	}
	rng := rand.New(rand.NewPCG(cut.Seed, uint64(cut.At)))
	one := rng.IntN(len(ops))
	for i, op := range ops {
		switch cut.Choice {
		case All:
			m.apply(op)
		case Subset:
			if rng.IntN(2) == 0 {
				m.apply(op)
			}
		case DropOne:
			if i != one {
				m.apply(op)
			}
		case KeepOne:
			if i == one {
				m.apply(op)
			}
		case Sectors:
			c.sectors(m, op, rng)
		case Torn:
			if i < one {
				m.apply(op)
			} else if i == one {
				c.tear(m, op, rng)
			}
		}
	}
}

// sectors applies some sectors of an operation.
func (c *Cutter) sectors(m *Image, op Op, rng *rand.Rand) {
	if c.whole(op) {
		if rng.IntN(2) == 0 {
			m.apply(op)
		}
		return
	}
	for from := int64(0); from < op.Len; from += SectorSize {
		if rng.IntN(2) == 0 {
			m.apply(op.part(from, min(from+SectorSize, op.Len)))
		}
	}
}

// tear applies the beginning of an operation.
func (c *Cutter) tear(m *Image, op Op, rng *rand.Rand) {
	if c.whole(op) || op.Len == 0 {
		return
	}
	to := rng.Int64N(op.Len)
	if rng.IntN(2) == 0 {
		to -= to % SectorSize
	}
	m.apply(op.part(0, to))
}

// part returns the operation on a part of its range.
func (op Op) part(from, to int64) Op {
	p := Op{Kind: op.Kind, Off: op.Off + from, Len: to - from}
	if op.Kind == Write {
		p.Data = op.Data[from:to]
	}
	return p
}

func (m *Image) apply(op Op) {
	switch op.Kind {
	case Write:
		m.WriteAt(op.Data, op.Off)
	case Zero:
		m.Zero(op.Off, op.Len)
	case Flush:
	}
}
