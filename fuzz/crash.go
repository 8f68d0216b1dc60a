package fuzz

import (
	"fmt"
	"math/rand/v2"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

// named is a chooser with what to call it.
type named struct {
	name   string
	choose crashfs.Chooser
}

// sample returns a few of the crashes that are possible.
func (h *history) sample(disk *crashfs.FS) []named {
	if h.look > 1 && h.rng.IntN(h.look) > 0 {
		return nil
	}
	pending := len(disk.Pending())
	if pending == 0 {
		if h.rng.IntN(6) > 0 {
			return nil
		}
		return []named{{"nothing pending", crashfs.KeepAll}}
	}
	if h.trimmed && !h.killsOnly() { // what was trimmed comes back here, if it does
		chosen := []named{{"keep all", crashfs.KeepAll}, h.crash(disk, pending), h.crash(disk, pending)}
		for i := range min(pending, 24) {
			chosen = append(chosen, named{fmt.Sprintf("drop %d of %d", i, pending), crashfs.DropOne(i)})
		}
		return chosen
	}
	return []named{h.crash(disk, pending)}
}

// crash returns one of the crashes that are possible. Two calls do not share random numbers, so
// that the crash can be made later.
func (h *history) crash(disk *crashfs.FS, pending int) named {
	if h.killsOnly() {
		return named{"kill", crashfs.KeepAll}
	}
	n, seed := 0, h.rng.Uint64()
	rng := rand.New(rand.NewPCG(seed, seed))
	switch kind := h.rng.IntN(12); kind {
	case 0:
		return named{"keep all", crashfs.KeepAll}
	case 1:
		return named{"drop all", crashfs.DropAll}
	case 2, 3:
		n = h.rng.IntN(pending)
		return named{fmt.Sprintf("drop %d of %d", n, pending), crashfs.DropOne(n)}
	case 4, 5:
		n = h.rng.IntN(pending)
		return named{fmt.Sprintf("keep %d of %d", n, pending), crashfs.KeepOne(n)}
	case 6, 7:
		changes := disk.Changes()
		n = h.rng.IntN(changes + 1)
		return named{fmt.Sprintf("first %d of %d changes", n, changes), crashfs.Prefix(n)}
	case 8, 9:
		return named{"random", crashfs.Random(rng)}
	case 10:
		return named{"garbage", crashfs.Garbage(rng)}
	default:
		return named{"tear", crashfs.Tear(rng)}
	}
}

// killsOnly tells whether a power cut could take more than it is fair to ask for: what nobody has
// synced.
func (h *history) killsOnly() bool { return h.noSync || h.unsynced }
