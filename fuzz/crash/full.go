package crash

import (
	"errors"
	"strings"
	"syscall"

	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// crowd fills the disk, now and then, or frees it. As it is then, so the next life finds it.
func (l *life) crowd() {
	if !l.crowded || l.rng.IntN(3) > 0 {
		return
	}
	size := int64(0)
	if l.disk.Size() == 0 || l.rng.IntN(6) > 0 {
		size = l.disk.Used() + []int64{0, 0, 1, 2, 4, 8}[l.rng.IntN(6)]<<12
	}
	l.trace.Addf("a disk of %d bytes, of which %d are used", size, l.disk.Used())
	l.disk.SetSize(size)
}

// needed returns at most what the log needs for entries and a hard state, or a snapshot record.
func needed(entries []walpb.Entry, s walpb.Snapshot) int64 {
	n := 200 + len(s.ConfState)
	for _, e := range entries {
		n += 150 + len(e.Data)
	}
	return int64(n)
}

// noSpace judges a call that returned err: whether it was refused for want of space, and nothing of
// it may ever be there. As long as there was a spare, none is refused that a segment has room for.
func (l *life) noSpace(err error, spare bool) bool {
	if l.disk.Size() == 0 || !errors.Is(err, wal.ErrNoSpace) {
		return false
	}
	if spare && l.need+500 <= l.size {
		l.fail(oracle.Refused, "%v, although there is a spare", err)
	}
	l.trace.Addf("no space")
	l.model.Records = l.model.Records[:max(l.known, l.model.Acked)]
	l.refused = true
	return true
}

// unreleased reports whether err is that of a Release which could not look for copies, having no
// descriptor. It has released nothing.
func (l *life) unreleased(err error) bool {
	return l.starved && errors.Is(err, syscall.EMFILE) && strings.HasPrefix(err.Error(), "wal: release: ")
}
