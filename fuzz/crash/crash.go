package crash

import (
	"fmt"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
)

// sample returns a few of the crashes that are possible.
func (h *history) sample(disk *crashfs.FS) []harness.Cut {
	if h.look > 1 && h.rng.IntN(h.look) > 0 {
		return nil
	}
	pending := len(disk.Pending())
	if pending == 0 {
		if h.rng.IntN(6) > 0 {
			return nil
		}
		return []harness.Cut{harness.Named("nothing pending", crashfs.KeepAll)}
	}
	if h.trimmed && !h.killsOnly() { // what was trimmed comes back here, if it does
		chosen := []harness.Cut{harness.Named("keep all", crashfs.KeepAll), h.crash(disk), h.crash(disk)}
		for i := range min(pending, 24) {
			chosen = append(chosen, harness.Named(fmt.Sprintf("drop %d of %d", i, pending), crashfs.DropOne(i)))
		}
		return chosen
	}
	return []harness.Cut{h.crash(disk)}
}

// crash returns one of the crashes that are possible while something is pending.
func (h *history) crash(disk *crashfs.FS) harness.Cut {
	if h.killsOnly() {
		return harness.Named("kill", crashfs.KeepAll)
	}
	return harness.CutByChance(h.rng, disk)
}

// killsOnly reports whether a power cut could take what no promise covers: what was not synced.
func (h *history) killsOnly() bool { return h.noSync || h.unsynced }
