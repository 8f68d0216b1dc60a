package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// advance takes one step towards making a batch durable. If another goroutine is flushing, it waits
// for that; then the first to wake flushes for all that have gathered meanwhile.
func (w *Writer) advance(number uint64) {
	if w.flushing {
		w.waiting[number%2].Wait()
		return
	}
	w.flush()
}

// flush writes and syncs the gathering batch. The lock is held when it is called and when it
// returns, and not in between.
func (w *Writer) flush() {
	b, end := w.gathering, w.mark()
	b.seal()
	w.gathering, w.idle = w.next(b), nil
	w.flushing = true
	err := errNotReturned
	defer func() { w.flushed(b, err) }()
	err = w.unlocked(b, end)
}

// flushed tells those concerned what has become of a batch.
func (w *Writer) flushed(b *batch, err error) {
	w.flushing = false
	w.idle = b
	idle := w.enter(b.seg)
	if err == nil {
		err = w.err // see fail
	}
	if err == nil {
		// From here on, the batch survives a crash, and its callers hear of it.
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
		w.waiting[(b.number+1)%2].Broadcast() // the one that wakes may just leave
	} else {
		w.waiting[(b.number+1)%2].Signal() // one of them leads
	}
	if idle != nil {
		w.guard(func() { idle.file.Close() }) // all in it is synced: there is nothing to learn from it
	}
	if err == nil {
		w.guard(w.spare.prepare)
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

// unlocked is the part of flush that does not hold the lock.
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
	return mark{w.gathering.seg.seq, w.gathering.end(), w.encoder.chain, walpb.Checksum(0, w.metadata)}
}

// next returns the batch that gathers behind b, which is about to be written.
func (w *Writer) next(b *batch) *batch {
	n := w.idle
	n.content.reset()
	*n = batch{number: b.number + 1, seg: b.seg, content: n.content, acked: n.acked[:0]}
	w.encoder.begin()
	if b.full {
		spare := w.spare.take()
		n.spareName = spare.name
		n.seg = newSegment(b.seg.seq+1, w.history.NextIndex(), spare.file, w.opts.SegmentSize)
		w.encoder.head(n, n.seg.seq, w.metadata, w.history.State)
		return n
	}
	n.start = b.end()
	n.base = n.start / pageSize * pageSize
	// The last page is written again, whole, with what follows in it: a disk keeps what it is given
	// a second time.
	n.content.append(b.content.tail())
	return n
}

// newSegment returns an open segment under the name that it has, or is about to get.
func newSegment(seq, index uint64, file fileutil.File, size int64) *openSegment {
	return &openSegment{segment{segmentName(seq, index), seq, index, size}, file}
}

// write writes a batch, whole pages as far as the segment reaches, and syncs it.
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
	pages, began := b.content.whole(), time.Now()
	_, err := seg.file.WriteAt(pages, b.base)
	if f := w.opts.Observer.Wrote; f != nil {
		f(len(pages), time.Since(began))
	}
	if err != nil {
		return fmt.Errorf("wal: %s: write at %d: %w", seg.name, b.base, cause(err))
	}
	if b.full {
		err := seg.file.Truncate(b.end())
		if fileutil.IsFull(err) { // some file systems say so here; the zeros are then left, and as good
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

// name gives a spare the name of the segment that it becomes. The name and the head under it become
// durable with the first batch in the segment. A crash before leaves a segment without a whole
// head, which the end of the one before it shows to be unborn.
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

// cause returns what a file's error says without the file's name, which is the one that it was
// opened by and perhaps has no longer.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
