package wal

import (
	"errors"
	"fmt"

	"github.com/stele-wal/stele/fileutil"
)

// Release removes the segments that hold nothing after index, oldest first, as far as the log can
// do without them. Give it the index of the oldest snapshot that is kept, not of the newest: a log
// that goes back to the newest alone can be replayed from no other, and then one damaged file is
// the end of the member. Package snap has all the steps in order.
//
// By itself Release keeps the newest usable snapshot record, one that the last hard state commits,
// and all that follows it. So save the snapshot and the commit first: what is saved while Release
// is at work is for the next one. Without a usable snapshot record nothing is removed, nor is the
// last segment ever.
//
// Once Release has returned nil the segments stay away after a crash. After a crash before that any
// of them may be there again; that they then need not be consecutive is no damage. An error of
// removing a file leaves the Writer usable. The error is ErrClosed after Close, or the first
// failure to write.
func (w *Writer) Release(index uint64) error {
	w.release.Lock()
	defer w.release.Unlock()
	returned := false
	defer func() {
		if !returned {
			w.failUnlocked(errNotReturned)
		}
	}()
	err := w.releaseTo(index)
	returned = true
	return err
}

func (w *Writer) releaseTo(index uint64) error {
	// What is to be relied on in their place must be durable: chosen first, and synced then. What
	// comes in between is not relied on.
	dropped := w.releasable(index)
	if !sabotaged(noReleaseSync) {
		if err := w.Sync(); err != nil {
			return err
		}
	}
	if len(dropped) == 0 {
		return nil
	}
	removed := 0
	l, err := list(w.dir.fs, w.dir.path)
	for _, s := range dropped {
		err = errors.Join(err, w.dir.removeCopies(l.copies, s.name))
	}
	for _, s := range dropped {
		if err != nil {
			break
		}
		// The name goes before the lock: without it, an etcd might open the segment in between.
		if err = w.dir.remove(s.name); err == nil {
			s.file.Close()
			removed++
		}
	}
	w.mu.Lock()
	w.segments = append(w.segments[:0:0], w.segments[removed:]...)
	w.mu.Unlock()
	if removed > 0 {
		if err := w.dir.sync(); err != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.fail(fmt.Errorf("wal: %w", err))
		}
	}
	if err != nil {
		return fmt.Errorf("wal: release: %w", err)
	}
	return nil
}

// leftover is what stands before missing segments.
type leftover struct {
	segments int    // so many
	chain    uint32 // at the end of the last
	commit   uint64 // the highest of their hard states
}

// finishRelease removes the segments before missing ones that a snapshot record makes unnecessary.
// That is what a Release leaves that was cut short: of the segments that it removed any may be
// there again. Nothing can be replayed from them, and etcd refuses the whole log as long as they
// are there.
func finishRelease(dir string, l *listing, before leftover, gap error, o Options) error {
	// A segment begins above all that was committed before it, and goes on from another chain if
	// others stood between. One for which that is not so is under a number that is not its own, and
	// what stands before it may be needed.
	next := &l.segments[before.segments]
	seed, known, err := readSeed(next)
	if err != nil {
		return fmt.Errorf("wal: %s: %w", next.name, err)
	}
	if !known || seed == before.chain || before.commit >= next.index {
		o.Logger.Warn("wal: segments are missing, but not because of a Release: those before them are kept", "dir", dir, "error", gap)
		return nil
	}
	dropped := l.segments[:before.segments]
	d := logDir{fs: o.FS, path: dir, logger: o.Logger}
	for _, s := range dropped {
		err := d.removeCopies(l.copies, s.name)
		if err == nil {
			err = d.remove(s.name)
		}
		if err != nil {
			// The log can do without it being gone.
			o.Logger.Warn("wal: a segment that a Release would have removed cannot be removed", "dir", dir, "segment", s.name, "error", err)
			return nil
		}
		o.Logger.Warn("wal: removed a segment as a Release that was cut short would have", "dir", dir, "segment", s.name, "because", gap)
		s.file.Close()
		l.segments = l.segments[1:]
	}
	if o.NoSync {
		return nil
	}
	if err := fileutil.SyncDir(o.FS, dir); err != nil {
		return fmt.Errorf("wal: %w", err)
	}
	return nil
}

// releasable returns the segments that Release may remove.
func (w *Writer) releasable(index uint64) []*openSegment {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest := w.snapshots.Newest(w.history.State.Commit)
	if newest < 0 {
		return nil
	}
	record := w.snapshots[newest]
	w.snapshots = append(w.snapshots[:0:0], w.snapshots[newest:]...)
	keep := 0 // position of the first segment that stays
	for i, s := range w.segments {
		if s.index <= min(index, record.Index) && s.seq <= record.Segment {
			keep = i
		}
	}
	return w.segments[:keep]
}
