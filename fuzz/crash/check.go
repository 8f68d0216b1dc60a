package crash

import (
	"fmt"
	"hash/maphash"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
)

// examine opens what a crash has left. A log that opens must be what the model says; and the
// recovery itself is crashed as well, now and then, down to some depth.
func (h *history) examine(disk *crashfs.FS, what string, depth int) {
	if !h.isNew(disk) {
		h.campaign.counter.Count(func(r *Result) { r.Repeats++ })
		return
	}
	h.alive()
	h.states++
	h.campaign.states++
	h.campaign.counter.Count(func(r *Result) { r.States++ })
	if r := h.campaign.cfg.Recover; r != nil {
		h.examineWith(r, disk, what)
		return
	}
	h.protect(func() {
		if err := h.restartAt(disk, what, depth).Judge(disk); err != nil {
			h.report(err, what)
		}
	})
}

var imageSeed = maphash.MakeSeed()

// image is a state with what there must be in it.
type image struct {
	sum                  uint64
	attempted, acked     int
	started, gone, files int
	created              bool
}

// isNew reports whether a state was not opened yet, in this life, when the same was to be in it. In
// a life the model only grows, so its sizes identify it.
func (h *history) isNew(disk *crashfs.FS) bool {
	m := h.model
	i := image{disk.Sum(imageSeed), len(m.Records), m.Acked, len(m.Starts), len(m.Gone), 0, m.Created}
	if h.files != nil {
		i.files = h.files.steps
	}
	_, old := h.opened[i]
	h.opened[i] = struct{}{}
	return !old
}

// restartAt is a restart of the history's log on a disk, which is crashed as well.
func (h *history) restartAt(disk *crashfs.FS, what string, depth int) *harness.Restart {
	r := &harness.Restart{Options: *h.optionsOn(disk), Model: h.model, Rng: h.rng}
	if depth < 2 {
		r.Inside = func(op crashfs.Op) {
			if h.rng.IntN(2) == 0 || h.failed || len(disk.Pending()) == 0 {
				return
			}
			c := h.crash(disk)
			h.examine(disk.Crash(c.Choose), fmt.Sprintf("%s; in recovery %v: %s", what, op, c.Name), depth+1)
		}
	}
	if h.files != nil {
		r.Also = func(s *oracle.Seen) error { return h.judgeFiles(disk, s) }
	}
	return r
}

// judgeFiles starts from the snapshots' files.
func (h *history) judgeFiles(disk *crashfs.FS, s *oracle.Seen) error {
	store, err := snap.Open(harness.SnapDir, &snap.Options{FS: disk})
	if err != nil {
		return oracle.Failf(oracle.Refused, "open the snapshots: %v", err)
	}
	return h.files.judge(store, disk, s.Snapshots, s.Newest())
}

// optionsOn returns those of the history's log, on a disk.
func (h *history) optionsOn(fsys fileutil.FS) *wal.Options {
	return &wal.Options{FS: fsys, SegmentSize: h.size, PlainEtcd: h.plain, NoSync: h.noSync}
}
