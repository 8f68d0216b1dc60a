package rot

import (
	"fmt"
	"maps"
	"slices"
)

// An Outcome is what came of a fault.
type Outcome string

// The outcomes. A fault that could not be done has none.
const (
	Same Outcome = "same" // all that was saved is there, and nothing was said
	// Said to be torn or the like, and opened; what was saved is there.
	Reported Outcome = "reported"
	Lost     Outcome = "lost"    // so, but not all that was saved is there
	Refused  Outcome = "refused" // said to be corrupt, or no log, and not opened
	Silent   Outcome = "silent"  // other content or less, and nothing said
	Excused  Outcome = "excused" // so, but nothing can detect it
	Panicked Outcome = "panicked"
)

// Counts are how many faults came to what.
type Counts struct {
	Flips, Words, Sectors, Cuts, Files int // faults, by their kind

	Same     int // all that was saved is there, and nothing was said
	Reported int // said to be torn or the like, and opened; what is there was saved
	Lost     int // those of Reported in which not all that was saved is there
	Refused  int // said to be corrupt, or no log, and not opened
	Silent   int // other content or less, and nothing said
	Panicked int

	// Excused are faults that nothing can detect, by why that is so. They are not among Silent.
	Excused map[Excuse]int
}

// States returns how many faults there were.
func (c Counts) States() int { return c.Flips + c.Words + c.Sectors + c.Cuts + c.Files }

// String returns the counts as one line.
func (c Counts) String() string {
	s := fmt.Sprintf("%d flips, %d words, %d sectors, %d cuts, %d files: %d same, %d reported (%d of them with a loss), %d refused, %d silent, %d panicked",
		c.Flips, c.Words, c.Sectors, c.Cuts, c.Files, c.Same, c.Reported, c.Lost, c.Refused, c.Silent, c.Panicked)
	for _, e := range slices.Sorted(maps.Keys(c.Excused)) {
		s += fmt.Sprintf("; %d not to be detected: %s", c.Excused[e], e)
	}
	return s
}

// count counts a fault.
func (c *Counts) count(k Kind, got finding) {
	*map[Kind]*int{Flip: &c.Flips, Word: &c.Words, Sector: &c.Sectors, Cut: &c.Cuts, File: &c.Files}[k]++
	switch got.outcome {
	case Same:
		c.Same++
	case Reported:
		c.Reported++
	case Lost:
		c.Reported++
		c.Lost++
	case Refused:
		c.Refused++
	case Silent:
		c.Silent++
	case Panicked:
		c.Panicked++
	case Excused:
		if c.Excused == nil {
			c.Excused = map[Excuse]int{}
		}
		c.Excused[got.excuse]++
	}
}
