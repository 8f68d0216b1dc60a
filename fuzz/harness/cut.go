// Package harness is what the campaigns share: power cuts by chance, and a [Restart] on what one of
// them leaves, which is judged.
package harness

import (
	"fmt"
	"math/rand/v2"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

// A Cut is a power cut: a chooser with a name.
type Cut struct {
	Name   string
	Choose crashfs.Chooser
}

// Named returns a power cut with a name.
func Named(name string, choose crashfs.Chooser) Cut { return Cut{name, choose} }

// CutByChance returns one of the power cuts that are possible on a disk, on which something is
// pending. Two calls do not share random numbers, so that the cut can be made later.
func CutByChance(rng *rand.Rand, disk *crashfs.FS) Cut {
	n, pending, seed := 0, len(disk.Pending()), rng.Uint64()
	its := rand.New(rand.NewPCG(seed, seed))
	switch kind := rng.IntN(12); kind {
	case 0:
		return Cut{"keep all", crashfs.KeepAll}
	case 1:
		return Cut{"drop all", crashfs.DropAll}
	case 2, 3:
		n = rng.IntN(pending)
		return Cut{fmt.Sprintf("drop %d of %d", n, pending), crashfs.DropOne(n)}
	case 4, 5:
		n = rng.IntN(pending)
		return Cut{fmt.Sprintf("keep %d of %d", n, pending), crashfs.KeepOne(n)}
	case 6, 7:
		changes := disk.Changes()
		n = rng.IntN(changes + 1)
		return Cut{fmt.Sprintf("first %d of %d changes", n, changes), crashfs.Prefix(n)}
	case 8, 9:
		return Cut{"random", crashfs.Random(its)}
	case 10:
		return Cut{"garbage", crashfs.Garbage(its)}
	default:
		return Cut{"tear", crashfs.Tear(its)}
	}
}
