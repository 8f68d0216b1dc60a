package wal

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/history"
	"github.com/stele-wal/stele/walpb"
)

// A Writer appends to a log. Create and Open make one; only one can exist for a log at a time, an
// etcd that has the log open counted. All methods may be called concurrently.
//
// The first write, sync or rename that fails is the last: every later call returns that error,
// because what the failed one left on disk is not known, and a sync that is tried again may return
// nil for bytes that were dropped. Close the Writer and Open the log to find out what is there.
// That the next segment cannot be prepared is not such a failure, for want of space say: appends
// then go on in the last one as long as they find room. That it cannot be synced is one, unless for
// want of space. Nor is a full disk: the space for a record is reserved before it is written, and
// what has none is refused with ErrNoSpace.
//
// Code of the caller's that the Writer calls and that does not return is such a failure too: an
// Observer, a callback of Append, the Logger's handler or the FS that panics, or calls
// runtime.Goexit. The panic goes its way up the goroutine in which it was called, so that its stack
// is seen: that of a Save, or one of the Writer's own, and then it is the end of the process.
//
// The zero Writer is of no log; its methods return ErrClosed.
type Writer struct {
	dir      logDir
	opts     Options
	metadata []byte

	release sync.Mutex    // serialises Release, and the end of Close. It is taken before mu, and not held while a callback runs
	spare   spare         // has a lock of its own, which is taken after mu
	marker  marker        // of whoever flushes, and of Close when nobody does any more
	ended   chan struct{} // closed at the end of Close

	// mu guards everything below. It is not held while anything is synced.
	mu        sync.Mutex
	err       error // the first failure; nothing is written after it
	closed    bool
	history   history.History
	encoder   encoder
	segments  []segment        // that have their names, in order
	locks     locks            // of these segments
	found     []walpb.Snapshot // see Snapshots
	snapshots history.Records  // those from which the log might be replayed

	// One batch gathers while at most one other is being written and synced, so no byte of a batch
	// is written before all of the batch before it is durable. Recovery relies on that: FORMAT.md,
	// chapter 8.
	gathering *batch
	idle      *batch
	flushing  bool
	durable   uint64       // the number of the last batch that is durable
	waiting   [2]sync.Cond // for batches of even and of odd number

	worker worker
}

const (
	// A batch that has grown to maxBatch takes no more records. It may be larger, by one Save.
	maxBatch = 1 << 20
	// Buffers that a single large Save has grown beyond this are let go.
	maxKeptBuffer = 4 * maxBatch
	// A sync that takes longer than this is logged, as etcd does.
	slowSync = time.Second
)

// newWriter returns a Writer that goes on at the end of the last of the segments, which holds page,
// the bytes of its last page.
func newWriter(dir logDir, o Options, metadata []byte, segments []segment, k locks, end int64, page []byte) *Writer {
	w := &Writer{dir: dir, opts: o, metadata: metadata, segments: segments, locks: k, ended: make(chan struct{})}
	w.marker = marker{dir: &w.dir, off: o.NoSync}
	w.spare = spare{dir: &w.dir, size: o.SegmentSize, background: o.Background, observer: o.Observer.Spare, fail: w.failUnlocked}
	w.waiting[0].L, w.waiting[1].L = &w.mu, &w.mu
	w.worker.init(w)
	w.encoder = encoder{plain: o.PlainEtcd, claims: !o.PlainEtcd && !o.NoSync, claimed: -1}
	last := k.last()
	w.gathering = &batch{number: 1, seg: last, base: end / pageSize * pageSize, start: end}
	w.gathering.content.append(page)
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

// Save appends entries and then a hard state, and returns once they are durable: whatever happens
// then, they are there, in order, or Open says that the log is corrupt, and where. Concurrent calls
// share a sync.
//
// The entries' indexes follow on each other, and the first is at most one above the last in the
// log, above the commit and above the snapshot that the log begins with; it voids every entry at or
// above it. Terms do not fall, and a vote stays for its term. A zero hard state is none. The commit
// is at most the last index. With PlainEtcd, the type of an entry is one of raft's three. The
// Writer keeps nothing that it is given.
//
// A Save that changes nothing but the commit does not wait for a sync: the commit can be learnt
// again from the others. It is durable with the next Save that is, Sync or Close.
//
// The error is ErrInvalid or ErrTooLarge if the log cannot hold this, and ErrNoSpace if the disk
// has no space for it; nothing was written. It is ErrClosed after Close. Any other is the first
// failure to write, of this call or an earlier one: the entries may be durable, or in part, or not.
func (w *Writer) Save(state walpb.HardState, entries []walpb.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	number, must, err := w.append(state, entries)
	if err != nil || !must {
		return err
	}
	return w.commit(number)
}

// Append is Save that does not wait. It returns once the entries have their place in the log, and
// calls done when they are durable, with nil, or when they cannot be any more, with the error that
// Save would have returned. Calls of done are in the order of Append, from one goroutine, and a
// done that is slow delays those that follow; it may call any method but Close. A done that panics
// ends the process, as nothing above it could recover; after one that calls runtime.Goexit the
// others are called all the same. Even a commit alone is synced before done is called. done may be
// nil.
//
// If Append returns an error, done is not called. Append waits while the batch before is being
// synced and the next one is full.
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

// SaveSnapshot appends a snapshot record, and returns once it is durable. Save the snapshot's file
// first: the record says that it is there. The record of an installed snapshot takes effect with
// the hard state that commits its index: call SaveSnapshot first, and then Save with that hard
// state and what follows. Save refuses the other order, which older raft systems have, because a
// crash in between would leave a commit of what is not there.
//
// ConfState must be raft's, as it is encoded, or nil; etcd wants one, but for index 0. The errors
// are those of Save.
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
	if err := w.room(mostFrame+s.Size(), func() error { return w.history.AdmitsSnapshot(s) }); err != nil {
		return err
	}
	w.encoder.snapshot(w.gathering, s)
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

// append gives records their place in the gathering batch. It reports the batch's number, and
// whether the caller must wait until that is durable.
func (w *Writer) append(state walpb.HardState, entries []walpb.Entry) (number uint64, must bool, err error) {
	if err := w.usable(); err != nil {
		return 0, false, err
	}
	size := mostFrame + state.Size()
	for i := range entries {
		e := &entries[i]
		if err := w.fits(e.Size()); err != nil {
			return 0, false, err
		}
		size += mostFrame + e.Size()
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
		w.encoder.entry(b, &entries[i])
	}
	must = len(entries) > 0
	if !state.IsZero() {
		must = must || state.Term != w.history.State.Term || state.Vote != w.history.State.Vote
		w.encoder.state(b, state)
	}
	w.history.Take(state, entries)
	if b.end() >= w.opts.SegmentSize && !b.empty() && w.spare.isThere() {
		b.full, must = true, true
	}
	must = must || w.opts.NoSync // there is no later sync to go with
	b.must = b.must || must
	return b.number, must, nil
}

// fits returns the error of a record that is larger than MaxRecord.
func (w *Writer) fits(data int) error {
	if data+maxHead > w.opts.MaxRecord {
		return fmt.Errorf("wal: %w: %d bytes, the limit is %d", ErrTooLarge, data+maxHead, w.opts.MaxRecord)
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

// room waits until the gathering batch takes records of that size in all, and has the space for
// them. What the log does not admit at that moment is refused before there is space for it.
func (w *Writer) room(size int, admits func() error) error {
	for {
		if err := w.usable(); err != nil {
			return err
		}
		b := w.gathering
		if !b.full && len(b.content.bytes) < maxBatch && !(w.opts.PlainEtcd && b.must) {
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

// reserve sees to it that the gathering batch has the space for records of that size, so that its
// write cannot find the disk full: what such a write leaves is not known, and would be the end of
// the Writer. A segment is reserved up to SegmentSize from the start. Where the disk has no more
// for it, it is cut here, before the records, since the spare has. The error is ErrNoSpace if there
// is no spare either.
func (w *Writer) reserve(size int) error {
	b := w.gathering
	end := b.end() + int64(size)
	if end <= min(b.seg.size, w.opts.SegmentSize) || sabotaged(noReserve) {
		return nil
	}
	end = toPage(end)
	var spare bool
	var err error
	w.guard(func() {
		spare = w.spare.need()
		err = b.seg.file.Preallocate(end)
	})
	switch most := int64(3*mostFrame + len(w.metadata) + size); {
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
