package wal

import (
	"errors"
	"fmt"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/frame"
)

// Release removes the segments that hold nothing after index, oldest first, as far as the log can
// do without them. Give it the index of the oldest snapshot that is kept, not of the newest: a log
// that goes back to the newest only can be replayed from no other, so that one damaged file ends
// the member. Package snap has all the steps in order.
//
//   - The last segment stays.
//   - The newest usable snapshot record, one that the last hard state commits, stays with all that
//     follows it. Without one nothing is removed. So save the snapshot and the commit first; what
//     is saved during Release is for the next one.
//   - Once Release has returned nil, the segments stay away after a crash. After a crash before
//     that, any of them may be there again. They need not be consecutive then; that is no damage.
//
// The errors are
//
//   - ErrClosed after Close.
//   - The first failure of the Writer, which may be that of this call to sync.
//   - Any other is of removing a file. The Writer stays usable, and Release may be called again.
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
	// What the log relies on in their place must be durable. It is chosen first and synced then:
	// what is saved in between is not relied on.
	dropped, first := w.releasable(index)
	if !sabotaged(noReleaseSync) {
		if err := w.Sync(); err != nil {
			return err
		}
	}
	if len(dropped) == 0 {
		return nil
	}
	idle, err := w.begin(first)
	if err != nil {
		return fmt.Errorf("wal: release: %w", err)
	}
	defer closeAll(idle)
	removed := 0
	l, err := list(w.dir.fs, w.dir.path)
	for _, s := range dropped {
		err = errors.Join(err, w.dir.removeCopies(l.copies, s.name))
	}
	for _, s := range dropped {
		if err != nil {
			break
		}
		if err = w.dir.remove(s.name); err == nil {
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

// begin makes a segment the first that is locked, before those before it are removed: a purge of
// etcd's begins with the first that is there, and stops at a lock. It returns the segments that
// need not stay locked.
func (w *Writer) begin(first segment) (idle []*openSegment, err error) {
	w.mu.Lock()
	held := w.locks.of(first.seq)
	if held != nil {
		idle = w.locks.begin(held)
	}
	w.mu.Unlock()
	if held != nil {
		return idle, nil
	}
	// It is not among the last two, and never will be.
	if held, err = w.dir.lock(first); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.locks.begin(held), nil
}

// leftover is what precedes missing segments.
type leftover struct {
	segments int    // how many segments
	chain    uint32 // the checksum of the data of all records, at the end of the last of them
	commit   uint64 // the highest of their hard states
}

// finishRelease removes the segments before missing ones that a snapshot record makes unnecessary.
// A crash in Release leaves such segments: of those that it removed, any may be there again.
// Nothing can be replayed from them, and etcd refuses the whole log as long as they are there.
func finishRelease(k *lockedLog, before leftover, gap error) error {
	d := k.logDir()
	next := k.segments[before.segments]
	if ok, err := k.followsRelease(&next, before); err != nil {
		return fmt.Errorf("wal: %s: %w", next.name, err)
	} else if !ok {
		d.warn("segments are missing, but not because of a Release: those before them are kept", "error", gap)
		return nil
	}
	first := k.of(next.seq)
	if first == nil {
		var err error
		if first, err = d.lock(next); err != nil {
			return err
		}
	}
	defer closeAll(k.begin(first))
	for _, s := range k.segments[:before.segments] {
		err := d.removeCopies(k.copies, s.name)
		if err == nil {
			err = d.remove(s.name)
		}
		if err != nil {
			// The log is as usable as before.
			d.warn("a segment that a Release would have removed cannot be removed", "segment", s.name, "error", err)
			return nil
		}
		d.warn("removed a segment as a Release that was cut short would have", "segment", s.name, "because", gap)
		k.segments = k.segments[1:]
	}
	if k.opts.NoSync {
		return nil
	}
	if err := fileutil.SyncDir(k.fsys, k.dir); err != nil {
		return fmt.Errorf("wal: %w", err)
	}
	return nil
}

// followsRelease reports whether a Release that was cut short has removed what is missing between a
// segment and those before it.
//
// A segment begins above all that was committed before it, and continues another chain if other
// segments came between. If not, it has a number that is not its own, and the segments before it
// may be needed.
func (k *lockedLog) followsRelease(next *segment, before leftover) (bool, error) {
	if before.commit >= next.index {
		return false, nil
	}
	s, err := k.listing.open(next)
	if err != nil {
		return false, err
	}
	defer k.listing.close(s)
	var w frame.Window
	w.Reset(s.file, s.size)
	seed, known, err := readSeed(&w)
	return known && seed != before.chain, err
}

// releasable returns the segments that Release may remove, and the one after them. It forgets the
// snapshot records that are older than the one that stays.
func (w *Writer) releasable(index uint64) (dropped []segment, first segment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest := w.snapshots.Newest(w.history.State.Commit)
	if newest < 0 {
		return nil, segment{}
	}
	record := w.snapshots[newest]
	w.snapshots = append(w.snapshots[:0:0], w.snapshots[newest:]...)
	keep := 0 // position of the first segment that stays
	for i, s := range w.segments {
		if s.index <= min(index, record.Index) && s.seq <= record.Segment {
			keep = i
		}
	}
	return w.segments[:keep], w.segments[keep]
}
