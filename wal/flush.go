package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/frame"
)

// advance takes one step towards making a batch durable: it flushes the batch that gathers, or, if
// another goroutine is flushing, waits until that is done. The caller looks again then. The lock is
// held when it is called and when it returns, and not in between.
func (w *Writer) advance(number uint64) {
	if w.flushing {
		w.waiting[number%2].Wait()
		return
	}
	w.flush()
}

// flush writes and syncs the gathering batch. The lock is held when it is called and when it
// returns, and not in between, unless the batch is alone.
func (w *Writer) flush() {
	if w.alone() {
		w.writeInPlace()
		return
	}
	b, end := w.gathering, w.mark()
	b.seal()
	w.gathering, w.idle = w.next(b), nil
	w.flushing = true
	err := errNotReturned
	defer func() { w.flushed(b, err) }()
	err = w.unlocked(b, end)
}

// alone reports whether the gathering batch can be written under the lock: nothing is synced, and
// nothing but the FS is called. A write into the system's cache is too short to let others in.
func (w *Writer) alone() bool {
	b := w.gathering
	return w.opts.NoSync && w.opts.Observer.Wrote == nil && !b.full && b.spareName == "" && len(b.acked) == 0
}

// writeInPlace is flush for a batch that is alone. The next batch goes on in the same memory, so
// what its last page holds, which is written again with what follows in it, stays where it is.
func (w *Writer) writeInPlace() {
	b := w.gathering
	b.seal()
	err := errNotReturned
	w.guard(func() { err = w.write(b, false) })
	if err != nil {
		w.fail(err)
		return
	}
	w.durable = b.number
	w.waiting[b.number%2].Broadcast()
	b.number, b.must, b.start = b.number+1, false, b.end()
	b.content.Turn(maxKeptBuffer)
	b.base = b.start / frame.PageSize * frame.PageSize
	w.encoder.Begin(&b.content, b.base)
	w.waiting[b.number%2].Signal() // the one that flushes next
}

// flushed notes what has become of a batch, and notifies all who are concerned. The lock is held.
func (w *Writer) flushed(b *batch, err error) {
	w.flushing = false
	w.idle = b
	idle := w.enter(b.seg)
	if err == nil {
		err = w.err // see fail
	}
	if err == nil {
		// From here on, the batch survives a crash, and its callers are notified.
		w.durable = b.number
	} else if w.err == nil && !sabotaged(goOnAfterError) {
		w.err = err
	}
	w.worker.ready(b, err)
	if w.err != nil {
		w.worker.ready(w.gathering, w.err)
	}
	w.waiting[b.number%2].Broadcast()
	if w.err != nil || w.closed {
		w.waiting[(b.number+1)%2].Broadcast() // one alone might leave without having flushed
	} else {
		w.waiting[(b.number+1)%2].Signal() // the one that flushes next
	}
	if idle != nil {
		w.guard(func() { idle.file.Close() }) // all in it is synced
	}
	if err == nil && b.full {
		w.guard(w.spare.prepare) // the next batch takes the one that there was
	}
}

// enter makes seg the log's last segment, if it is not. It returns the segment that need not stay
// locked now, or nil.
func (w *Writer) enter(seg *openSegment) (idle *openSegment) {
	if w.locks.last() == seg {
		return nil
	}
	w.segments = append(w.segments, seg.segment)
	return w.locks.push(seg)
}

// unlocked is the part of flush that does not hold the lock. end is where the batch ends.
func (w *Writer) unlocked(b *batch, end mark) error {
	w.mu.Unlock()
	defer w.mu.Lock() // also if what is called does not return
	if sabotaged(earlyMark) {
		w.marker.set(end)
	}
	if err := w.write(b, !w.opts.NoSync); err != nil {
		return err
	}
	w.mu.Lock()
	err := w.err // see fail
	w.mu.Unlock()
	if err == nil {
		w.marker.set(end)
	}
	return err
}

// mark returns where the gathering batch ends.
func (w *Writer) mark() mark {
	return mark{w.gathering.seg.seq, w.gathering.end(), w.encoder.Chain, w.owner}
}

// next returns the batch that gathers after b, which is about to be written.
func (w *Writer) next(b *batch) *batch {
	n := w.idle
	n.content.Reset(maxKeptBuffer)
	*n = batch{number: b.number + 1, seg: b.seg, content: n.content, acked: n.acked[:0]}
	if b.full {
		spare := w.spare.take()
		n.spareName = spare.name
		n.seg = newSegment(b.seg.seq+1, w.history.NextIndex(), spare.file, w.opts.SegmentSize)
		w.encoder.Begin(&n.content, 0)
		w.encoder.Head(n.seg.seq, w.metadata, w.history.State)
		return n
	}
	n.start = b.end()
	n.base = n.start / frame.PageSize * frame.PageSize
	// The last page of b is written again, whole, with what follows in it. A crash then cannot
	// damage what it holds already: a disk keeps bytes that it is given a second time.
	n.content.Append(b.content.Tail())
	w.encoder.Begin(&n.content, n.base)
	return n
}

// newSegment returns an open segment under the name that it has, or is about to get.
func newSegment(seq, index uint64, file fileutil.File, size int64) *openSegment {
	return &openSegment{segment{frame.SegmentName(seq, index), seq, index, size}, file}
}

// write writes a batch in whole pages and, if sync is set, makes it durable. It ends the segment if
// the batch is full. The lock is not held, but by writeInPlace, and by Create and Close, before and
// after all others.
func (w *Writer) write(b *batch, sync bool) error {
	if b.empty() && !b.full {
		return nil
	}
	seg := b.seg
	if b.spareName != "" {
		if err := w.name(b); err != nil {
			return err
		}
	}
	if sabotaged(ackBeforeSync) {
		if err := w.sync(seg); err != nil {
			return err
		}
		sync = false
	}
	pages := b.content.Whole()
	var began time.Time // a clock is not free, beside a small write without a sync
	if w.opts.Observer.Wrote != nil {
		began = time.Now()
	}
	_, err := seg.file.WriteAt(pages, b.base)
	if f := w.opts.Observer.Wrote; f != nil {
		f(len(pages), time.Since(began))
	}
	if err != nil {
		return fmt.Errorf("wal: %s: write at %d: %w", seg.name, b.base, cause(err))
	}
	if b.full {
		err := seg.file.Truncate(b.end())
		if fileutil.IsFull(err) { // of some file systems; zeros after the end do no harm
			w.dir.warn("a full segment keeps the space after its end", "segment", seg.name, "error", cause(err))
		} else if err != nil {
			return fmt.Errorf("wal: %s: truncate to %d: %w", seg.name, b.end(), cause(err))
		}
	}
	if !sync {
		return nil
	}
	if err := w.sync(seg); err != nil {
		return err
	}
	if b.spareName != "" {
		if err := w.dir.sync(); err != nil {
			return fmt.Errorf("wal: %s: sync directory: %w", seg.name, err)
		}
	}
	return nil
}

// sync makes durable what was written to a segment.
func (w *Writer) sync(seg *openSegment) error {
	began := time.Now()
	err := seg.file.SyncData()
	took := time.Since(began)
	if f := w.opts.Observer.Synced; f != nil {
		f(took)
	}
	if took > slowSync {
		w.opts.Logger.Warn("wal: slow sync", "segment", seg.name, "took", took)
	}
	if err != nil {
		return fmt.Errorf("wal: %s: sync: %w", seg.name, cause(err))
	}
	return nil
}

// name gives the file of a batch's segment its name, before the first batch in it. The name becomes
// durable with that batch. A crash before leaves a segment without a whole head, which the end of
// the segment before it shows to be unborn.
func (w *Writer) name(b *batch) error {
	began := time.Now()
	if err := w.dir.rename(b.spareName, b.seg.name); err != nil {
		return fmt.Errorf("wal: %w", err)
	}
	if f := w.opts.Observer.Cut; f != nil {
		f(b.seg.name, time.Since(began))
	}
	return nil
}

// cause returns a file's error without the file's name. That is the name that the file was opened
// by, which for a segment may be that of a spare.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
