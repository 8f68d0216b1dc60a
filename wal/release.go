package wal

import (
	"errors"
	"fmt"
	"strings"
)

// Release removes the segments that hold nothing after index, oldest first, as far as the log can do without them. Give it
// the index of the oldest snapshot that is kept, not of the newest: a log that goes back to the newest alone can be replayed from
// no other, and then one damaged file is the end of the member. Package snap has all the steps in order.
//
// By itself Release keeps the newest usable snapshot record, one that the last hard state commits, and all that follows it. So save
// the snapshot and the commit first: what is saved while Release is at work is for the next one. Without a usable snapshot
// record nothing is removed, nor is the last segment ever.
//
// Once Release has returned nil the segments stay away after a crash. After a crash before that any of them may be there
// again; that they then need not be consecutive is no damage. An error of removing a file leaves the Writer usable.
// The error is ErrClosed after Close, or the first failure to write.
func (w *Writer) Release(index uint64) error {
	w.release.Lock()
	defer w.release.Unlock()
	returned := false
	defer w.unlessReturned(&returned)
	err := w.releaseTo(index)
	returned = true
	return err
}

func (w *Writer) releaseTo(index uint64) error {
	// What is to be relied on in their place must be durable: chosen first, and synced then. What comes in between is not relied on.
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
	err := w.removeCopies(dropped)
	for _, s := range dropped {
		if err != nil {
			break
		}
		// The name goes before the lock: without it, an etcd might open the segment in between.
		if err = w.removeIfThere(s.name); err == nil {
			s.file.Close()
			removed++
		}
	}
	w.mu.Lock()
	w.segments = append(w.segments[:0:0], w.segments[removed:]...)
	w.mu.Unlock()
	if removed > 0 && !w.opts.NoSync {
		if err := w.names.Sync(); err != nil {
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

// releasable returns the segments that Release may remove.
func (w *Writer) releasable(index uint64) []*segment {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest := newestUsable(w.recorded, w.history.state.Commit)
	if newest < 0 {
		return nil
	}
	record := w.recorded[newest]
	w.recorded = append(w.recorded[:0:0], w.recorded[newest:]...)
	keep := 0 // position of the first segment that stays
	for i, s := range w.segments {
		if s.index <= min(index, record.index) && s.seq <= record.seq {
			keep = i
		}
	}
	return w.segments[:keep]
}

// removeCopies removes what Open and Repair kept of segments that are going.
func (w *Writer) removeCopies(segments []*segment) error {
	l, err := list(w.opts.FS, w.dir)
	if err != nil {
		return err
	}
	for _, name := range l.copies {
		for _, s := range segments {
			if strings.HasPrefix(name, s.name) {
				err = errors.Join(err, w.removeIfThere(name))
			}
		}
	}
	return err
}

// newestUsable returns the position of the snapshot record with the highest index among those that a commit covers, or -1.
func newestUsable(records []recorded, commit uint64) int {
	newest := -1
	for i, r := range records {
		if r.index <= commit && (newest < 0 || r.index >= records[newest].index) {
			newest = i
		}
	}
	return newest
}
