package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/stele-wal/stele/fileutil"
)

// locks are the segments that the writer of a log keeps open and locked, so that no etcd, no purge
// of etcd's and no other Writer takes them: FORMAT.md, chapter 12. They are three at most, however
// many segments there are.
type locks struct {
	// held is in order: the first segment that the log needs, where a purge begins, and the last
	// two, of which a writer takes the last. One segment may be two of these, or all.
	held []*openSegment
}

// last returns the segment that is written.
func (k *locks) last() *openSegment { return k.held[len(k.held)-1] }

// of returns the segment of a number; nil if it is not one of these.
func (k *locks) of(seq uint64) *openSegment {
	for _, s := range k.held {
		if s.seq == seq {
			return s
		}
	}
	return nil
}

// push adds the segment after the last. It returns the one that need not stay locked, or nil.
func (k *locks) push(s *openSegment) (idle *openSegment) {
	k.held = append(k.held, s)
	if len(k.held) <= 3 {
		return nil
	}
	idle = k.held[1]
	k.held = append(k.held[:1:1], k.held[2:]...)
	return idle
}

// begin makes a segment the first: one of those that are held, or one that stands between the first
// and the last two. It returns those before it, which need not stay locked.
func (k *locks) begin(first *openSegment) (idle []*openSegment) {
	for k.held[0].seq < first.seq {
		idle, k.held = append(idle, k.held[0]), k.held[1:]
	}
	if k.held[0] != first {
		k.held = append([]*openSegment{first}, k.held...)
	}
	return idle
}

// close closes the files, and with them the locks.
func (k *locks) close() error {
	held := k.held
	k.held = nil
	return closeAll(held)
}

func closeAll(segments []*openSegment) (err error) {
	for _, s := range segments {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// A lockedLog is a log that is locked to be changed, by Open or by Plan.Apply.
type lockedLog struct {
	listing
	locks
	opts Options
}

// lockLog lists a log and locks it.
func lockLog(dir string, o Options) (*lockedLog, error) {
	l, err := list(o.FS, dir)
	if err != nil {
		return nil, err
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	if l.dir != l.path {
		return nil, fmt.Errorf("wal: %s: a segment, not the directory of a log", dir)
	}
	k := &lockedLog{listing: l, opts: o}
	d := k.logDir()
	locked := false
	defer func() {
		if !locked { // also after a panic of the FS
			k.locks.close()
		}
	}()
	for i := range k.segments {
		if i > 0 && i < len(k.segments)-2 {
			continue
		}
		s, err := d.lock(k.segments[i])
		if errors.Is(err, fs.ErrNotExist) { // a process that has the log open released it since
			return nil, k.moved()
		}
		if err != nil {
			return nil, err
		}
		k.held = append(k.held, s)
	}
	// The process that had the locks before may have cut the log or released segments after it was
	// listed.
	again, err := list(o.FS, dir)
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(k.segments, again.segments, func(a, b segment) bool { return a.name == b.name }) {
		return nil, k.moved()
	}
	k.mark, k.spares, k.copies = again.mark, again.spares, again.copies
	locked = true
	return k, nil
}

// logDir returns the directory without a handle.
func (k *lockedLog) logDir() logDir { return logDir{fs: k.fsys, path: k.dir, logger: k.opts.Logger} }

// dropLast closes the last segment, which is not the log's any more.
func (k *lockedLog) dropLast() {
	k.last().file.Close()
	k.held = k.held[:len(k.held)-1]
	k.segments = k.segments[:len(k.segments)-1]
}

func (k *lockedLog) moved() error {
	return fmt.Errorf("wal: %s: %w: segments came or went", k.dir, ErrLocked)
}

// scan returns a scanner that makes durable what it reads.
func (k *lockedLog) scan() *scanner { return newScanner(&k.listing, k) }

// open opens a segment for the scanner, or takes the locked one. No process has one of the others
// locked, unless it holds the log as it was at an earlier time, and will append to it: an etcd that
// listed the log and was stopped before it took its locks.
func (k *lockedLog) open(seg *segment) (s *openSegment, err error) {
	if s = k.of(seg.seq); s == nil {
		if s, err = k.openFile(seg, os.O_RDWR); err != nil {
			return nil, err
		}
	}
	settled := k.of(seg.seq) != nil
	defer closeUnless(&settled, s.file)
	if !settled {
		if locked, err := s.file.Locked(); err != nil {
			return nil, fmt.Errorf("wal: %w", err)
		} else if locked {
			return nil, fmt.Errorf("wal: %s: %w", seg.name, ErrLocked)
		}
	}
	if err := k.settle(s); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	settled, seg.size = true, s.size
	return s, nil
}

// settle makes durable what the writer of a segment may have left in memory. With NoSync it sees to
// it, all the same, that what the disk never got is not taken for the log.
func (k *lockedLog) settle(s *openSegment) (err error) {
	if s.seq != k.last().seq && sabotaged(lastSyncOnly) {
		return nil
	}
	// Read what is on the disk, not what a process that did not sync it, or failed to, left in
	// memory.
	if !k.opts.NoSync {
		if err := s.file.SyncData(); err != nil {
			return err
		}
	}
	if err := s.file.DropCache(); err != nil {
		return err
	}
	s.size, err = s.file.Size()
	return err
}

// syncNames makes durable the log's directory and its parents.
func (k *lockedLog) syncNames() error {
	if k.opts.NoSync {
		return nil
	}
	if err := fileutil.MkdirAll(k.fsys, k.dir); err != nil { // it is there, but it may not last
		return fmt.Errorf("wal: %w", err)
	}
	return nil
}

// close closes a segment that is not locked.
func (k *lockedLog) close(s *openSegment) {
	if k.of(s.seq) == nil {
		k.listing.close(s)
	}
}

// relist is never to be asked for: while the log is locked, its segments stay.
func (k *lockedLog) relist(uint64) ([]segment, error) { return nil, k.moved() }
