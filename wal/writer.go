package wal

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/wal/internal/history"
	"github.com/stele-wal/stele/walpb"
)

// How a Writer works.
//
// Two batches. A record is encoded into the batch that gathers. Meanwhile at most one other batch,
// the one before it, is being written and synced. So no byte of a batch is written before all of
// the batch before it is durable, and a record can say that everything before its own batch was.
// Recovery relies on that: FORMAT.md, chapter 8. The two take turns, and keep their memory.
//
// Without syncs there is nothing to wait for, and one batch is enough: writeInPlace.
//
// Who flushes. There is no goroutine for it. Each caller that needs a batch durable, or full and
// out of the way, and finds none being flushed, flushes the one that gathers, for itself and for
// all whose records are in it. A caller that finds one being flushed waits, and looks again. For
// Append, whose callers do not wait, the worker does the same.
//
// Who wakes whom. When a batch has been flushed, all who wait for it have their answer and are
// woken. Of those who wait for the next batch, which they filled meanwhile, one is woken, and
// flushes it; the others would only find that it is being flushed. That is why there are two
// conditions: one for batches of even number, one for odd. With a single one every sync would wake
// every caller. After a failure, and in Close, the one that wakes may leave without having flushed,
// so then all are woken.
//
// The locks are taken in this order: release, mu, the spare's. mu is held while records are
// encoded, and not while a batch is written and synced, but for writeInPlace. What is used without
// it is the flusher's alone: the batch, which is sealed, with the file of its segment, and the
// marker.

// A Writer appends to a log. Create and Open make one. Only one can exist for a log at a time, and
// none while an etcd has the log open. All methods may be called concurrently.
//
// The first failure is the last: every later call returns its error. Close the Writer and Open the
// log to find out what is on the disk.
//
//   - A write, sync or rename that fails is a failure. What it left is not known, and a sync that
//     is tried again may return nil for bytes that were dropped.
//   - A next segment that cannot be synced is one, unless for want of space.
//   - Code of the caller's that does not return is one: an Observer, a callback of Append, the
//     Logger's handler, Background or the FS that panics, or calls runtime.Goexit. The Writer does
//     not recover the panic. In a goroutine of its own that is the end of the process.
//   - A full disk is not one. The space for a record is reserved before it is written, and a record
//     for which there is none is refused with ErrNoSpace.
//   - A next segment that cannot be made is not one. Appends go on in the last one as long as they
//     find room.
//
// The zero Writer has no log. Its methods return ErrClosed.
type Writer struct {
	dir      logDir
	opts     Options
	metadata []byte           // in the head of every segment
	owner    uint32           // the checksum of metadata, for marks
	found    []walpb.Snapshot // see Snapshots; they stay as they are

	// release is held by Release, and by Close at its end. No callback is called under it, so that
	// callbacks may call Release.
	release sync.Mutex
	spare   spare
	marker  marker        // used by the flusher, and by Close once there is none
	ended   chan struct{} // closed at the end of Close

	// mu guards everything below. It is not held while anything is written or synced, but for
	// writeInPlace.
	mu        sync.Mutex
	err       error // the first failure; once it is set, nothing is written
	closed    bool  // Close has been called; once it is set, callers append nothing
	history   history.History
	encoder   frame.Encoder
	segments  []segment       // in order, but for one that has not got its name yet
	locks     locks           // of these segments
	snapshots history.Records // those from which the log might be replayed

	gathering *batch // takes records; nil in the zero Writer only
	idle      *batch // will gather next; nil while it is being flushed
	flushing  bool   // a goroutine writes and syncs the batch before gathering
	durable   uint64 // the number of the last batch that is durable

	// waiting[n%2] is where those wait who need batch n durable, or out of the way.
	waiting [2]sync.Cond

	worker worker
}

const (
	// A batch that has grown to maxBatch takes no more records. It may be larger, by one Save.
	maxBatch = 1 << 20
	// A buffer that one large Save has made larger than maxKeptBuffer is not kept for the next.
	maxKeptBuffer = 4 * maxBatch
	// A sync that takes longer than slowSync is logged, as etcd does.
	slowSync = time.Second
)

// newWriter returns a Writer that goes on at the end of the last of the segments, which holds page,
// the bytes of its last page.
func newWriter(dir logDir, o Options, metadata []byte, segments []segment, k locks, end int64, page []byte) *Writer {
	w := &Writer{dir: dir, opts: o, metadata: metadata, owner: walpb.Checksum(0, metadata), segments: segments, locks: k, ended: make(chan struct{})}
	w.marker = marker{dir: &w.dir, off: o.NoSync}
	w.spare = spare{dir: &w.dir, size: o.SegmentSize, background: o.Background, observer: o.Observer.Spare, fail: w.failUnlocked}
	w.waiting[0].L, w.waiting[1].L = &w.mu, &w.mu
	w.worker = worker{mu: &w.mu, pending: w.appendsWait, flush: w.flush, fail: func(err error) { w.fail(err) }, done: make(chan struct{})}
	w.worker.wake.L = &w.mu
	w.encoder = frame.Encoder{Plain: o.PlainEtcd, Claims: !o.PlainEtcd && !o.NoSync}
	last := k.last()
	w.gathering = &batch{number: 1, seg: last, base: end / frame.PageSize * frame.PageSize, start: end}
	w.gathering.content.Append(page)
	w.encoder.Begin(&w.gathering.content, w.gathering.base)
	w.idle = &batch{}
	return w
}

// started begins to prepare the second segment, and returns w. If the caller's Background does not
// return, w is closed: the caller will never have it.
func (w *Writer) started() *Writer {
	returned := false
	defer func() {
		if !returned {
			w.Close()
		}
	}()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.guard(w.spare.prepare)
	returned = true
	return w
}

// Save appends entries and then a hard state, and returns once they are durable: they survive any
// crash, in order, or Open reports the log as corrupt, and where. Concurrent calls share a sync.
// Save keeps nothing that it is given.
//
// What is saved must go on from what the log holds:
//
//   - The indexes of the entries are consecutive. The first is at most one above the last index in
//     the log, and above the commit and the snapshot that the log begins with. It voids all entries
//     at or above it.
//   - Terms do not fall, and a vote stays for its term.
//   - The commit is at most the last index. A zero hard state is none.
//   - With PlainEtcd, the type of an entry is one of raft's three.
//
// A Save that changes only the commit does not wait for a sync: the commit can be learnt again from
// the other members. It is durable with the next Save that waits, Sync or Close.
//
// The errors are
//
//   - ErrInvalid if this cannot follow what the log holds; nothing was written.
//   - ErrTooLarge if a record would exceed MaxRecord; nothing was written.
//   - ErrNoSpace if the disk has no space for it; nothing was written.
//   - ErrClosed after Close.
//   - Any other is the first failure, in this call or before. The entries may be durable, or some
//     of them, or none.
func (w *Writer) Save(state walpb.HardState, entries []walpb.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	number, must, err := w.append(state, entries)
	if err != nil || !must {
		return err
	}
	return w.commit(number)
}

// Append is Save that does not wait. It returns once the entries have their place in the log, with
// the errors of Save. It blocks only while the batch before is being synced and the next is full.
//
//   - done is called with nil once the entries are durable, or with the error that Save would have
//     returned once they cannot be any more. A commit alone is synced, too.
//   - Calls of done are in the order of Append, in one goroutine. A slow one delays the next.
//   - done may call any method but Close.
//   - A done that panics ends the process. After one that calls runtime.Goexit the others are still
//     called.
//   - done may be nil. It is not called if Append returns an error.
func (w *Writer) Append(state walpb.HardState, entries []walpb.Entry, done func(error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, _, err := w.append(state, entries); err != nil {
		return err
	}
	if done == nil {
		done = func(error) {}
	}
	w.gathering.acked = append(w.gathering.acked, done)
	w.worker.start()
	return nil
}

// appendsWait reports whether a flush would get Append's callers their answer. While another is on
// its way they wait for that, and Close flushes itself.
func (w *Writer) appendsWait() bool {
	return len(w.gathering.acked) > 0 && w.err == nil && !w.flushing && !w.closed
}

// SaveSnapshot appends a snapshot record, and returns once it is durable. The errors are those of
// Save.
//
//   - Save the snapshot's file first: the record says that it is there.
//   - The record of an installed snapshot takes effect with the hard state that commits its index.
//     Call SaveSnapshot first, and then Save with that hard state and what follows. Save refuses
//     the other order, which older raft systems have: a crash in between would leave a commit of
//     entries that are not there.
//   - ConfState is raft's, as it is encoded, or nil. etcd wants one, but for index 0.
func (w *Writer) SaveSnapshot(s walpb.Snapshot) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	if err := w.fits(s.Size()); err != nil {
		return err
	}
	if err := walpb.CheckConfState(s.ConfState); err != nil {
		return fmt.Errorf("wal: %w: snapshot record %d/%d: %w", ErrInvalid, s.Term, s.Index, err)
	}
	if err := w.room(frame.MaxExtra+s.Size(), func() error { return w.history.AdmitsSnapshot(s) }); err != nil {
		return err
	}
	w.encoder.Snapshot(s)
	w.record(s)
	w.gathering.must = true
	return w.commit(w.gathering.number)
}

// record takes a snapshot record that the gathering batch holds.
func (w *Writer) record(s walpb.Snapshot) {
	w.history.TakeSnapshot(s)
	s.ConfState = bytes.Clone(s.ConfState)
	w.snapshots = append(w.snapshots, history.Record{Snapshot: s, Segment: w.gathering.seg.seq, Whole: true})
}

// Sync makes durable all that was saved before, commits included. The errors are those of Save.
func (w *Writer) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	return w.commit(w.pendingNumber())
}

// Snapshots returns the snapshot records from which the log could be replayed when it was opened,
// as the function Snapshots does, but without reading the log again.
//
//   - Of a log that was created, it is that of the empty snapshot.
//   - Those of SaveSnapshot are not among them.
//   - Of a log whose Release a crash cut short, they may be fewer than the function returns once
//     Open has finished it. The newest is always among them.
func (w *Writer) Snapshots() []walpb.Snapshot { return slices.Clone(w.found) }

// append gives records their place in the gathering batch. It returns the batch's number, and
// whether the caller has to wait until that is durable.
func (w *Writer) append(state walpb.HardState, entries []walpb.Entry) (number uint64, must bool, err error) {
	if err := w.usable(); err != nil {
		return 0, false, err
	}
	size := frame.MaxExtra + state.Size()
	for i := range entries {
		e := &entries[i]
		most := frame.MaxEntryHead + len(e.Data)
		if most+frame.MaxHead > w.opts.MaxRecord { // then it matters how long the heads are
			if err := w.fits(e.Size()); err != nil {
				return 0, false, err
			}
		}
		size += frame.MaxExtra + most
		if w.opts.PlainEtcd && (e.Type < walpb.EntryNormal || e.Type > walpb.EntryConfChangeV2) {
			// Without a header_crc, a type that has no name is damage to every reader.
			return 0, false, fmt.Errorf("wal: %w: entry %d/%d is of type %d, which is none of raft's", ErrInvalid, e.Term, e.Index, e.Type)
		}
	}
	if err := w.room(size, func() error { return w.history.Admits(state, entries) }); err != nil {
		return 0, false, err
	}
	b := w.gathering
	for i := range entries {
		w.encoder.Entry(&entries[i])
		if sabotaged(earlyWitness) {
			w.encoder.Synced = b.end()
		}
	}
	must = len(entries) > 0
	if !state.IsZero() {
		must = must || state.Term != w.history.State.Term || state.Vote != w.history.State.Vote
		w.encoder.State(state)
	}
	w.history.Take(state, entries)
	if b.end() >= w.opts.SegmentSize && !b.empty() && w.spare.isThere() {
		b.full, must = true, true // the segment ends here, even if only the commit is new
	}
	must = must || w.opts.NoSync // no later sync takes the commit along, so it is written at once
	b.must = b.must || must
	return b.number, must, nil
}

// fits returns the error of a record that is larger than MaxRecord.
func (w *Writer) fits(data int) error {
	if data+frame.MaxHead > w.opts.MaxRecord {
		return fmt.Errorf("wal: %w: %d bytes, the limit is %d", ErrTooLarge, data+frame.MaxHead, w.opts.MaxRecord)
	}
	return nil
}

// usable returns why nothing can be written any more, or nil.
func (w *Writer) usable() error {
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return fmt.Errorf("wal: %w", ErrClosed)
	}
	if w.gathering == nil {
		return fmt.Errorf("wal: %w: this Writer is not from Create or Open", ErrClosed)
	}
	return nil
}

// room waits until the gathering batch can take records of that size in all, and has the space for
// them. It may let go of the lock, so what the log admits is asked last, and before any space is
// reserved.
func (w *Writer) room(size int, admits func() error) error {
	for {
		if err := w.usable(); err != nil {
			return err
		}
		b := w.gathering
		shared := !w.opts.PlainEtcd || !b.must // calls do not share a sync, as in etcd
		if !b.full && len(b.content.Bytes) < maxBatch && shared {
			if err := admits(); err != nil {
				return fmt.Errorf("wal: %w: %w", ErrInvalid, err)
			}
			if err := w.reserve(size); err != nil || !b.full {
				return err
			}
		}
		w.advance(b.number)
	}
}

// reserve makes sure that the gathering batch has the space for records of that size. So its write
// does not find the disk full, which would leave an unknown part of it and end the Writer.
//
// A segment has its space up to SegmentSize from the start. Beyond that it gets more here, because
// there is no spare to cut to. If the disk has no more, a spare that is there by now has: then the
// batch is marked full, and the records go to the next one. The error is ErrNoSpace if there is no
// spare, or the records would not fit in it.
func (w *Writer) reserve(size int) error {
	b := w.gathering
	end := b.end() + int64(size)
	if end <= min(b.seg.size, w.opts.SegmentSize) || sabotaged(noReserve) {
		return nil
	}
	end = frame.ToPage(end)
	var spare bool
	var err error
	w.guard(func() {
		spare = w.spare.need()
		err = b.seg.file.Preallocate(end)
	})
	switch most := int64(3*frame.MaxExtra + len(w.metadata) + size); { // with the head of a segment
	case err == nil:
		b.seg.size = max(b.seg.size, end)
	case !fileutil.IsFull(err):
		return w.fail(fmt.Errorf("wal: %s: reserve %d bytes: %w", b.seg.name, end, cause(err)))
	case spare && most <= w.opts.SegmentSize && !sabotaged(spareIdle):
		b.full, b.must = true, true
	default:
		return fmt.Errorf("wal: %s: %w: %d bytes at offset %d: %w", b.seg.name, ErrNoSpace, size, b.end(), cause(err))
	}
	return nil
}

// pendingNumber returns the number of the last batch that holds anything.
func (w *Writer) pendingNumber() uint64 {
	if w.gathering.empty() {
		return w.gathering.number - 1
	}
	return w.gathering.number
}

// commit returns once a batch is durable, or nothing can become durable any more.
func (w *Writer) commit(number uint64) error {
	for w.durable < number {
		if w.err != nil {
			return w.err
		}
		w.advance(number)
	}
	return nil
}
