package wal

import (
	"errors"
	"fmt"

	"github.com/stele-wal/stele/fileutil"
)

// Close makes durable all that was saved, appends a last witness, removes the spare, and closes the
// files, which releases their locks.
//
//   - It waits for callbacks of Append, for a Release at work, and for a task of Background that
//     has started.
//   - Any other Close waits for the first, and returns the same.
//   - The error is the first failure of the Writer, if there was one.
func (w *Writer) Close() (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		w.mu.Unlock()
		<-w.ended // by the Close that came first
		w.mu.Lock()
		return w.err
	}
	if w.gathering == nil {
		return w.usable()
	}
	defer close(w.ended)
	w.closed = true // from here on nothing is appended
	// Each of the three steps is done even if code of the caller's does not return to the one
	// before.
	defer func() { err = w.closeFiles(err) }()
	defer func() { err = w.settle() }()
	for w.flushing || w.err == nil && w.durable < w.pendingNumber() {
		w.advance(w.pendingNumber())
	}
	if w.err == nil {
		w.lastWitness()
	}
	return nil
}

// settle ends what runs in the background. The lock is held when it is called and when it returns.
func (w *Writer) settle() error {
	w.worker.ready(w.gathering, w.err)
	w.worker.stop()
	w.mu.Unlock()
	defer w.mu.Lock()
	w.worker.wait() // what it calls back may call Release
	w.release.Lock()
	defer w.release.Unlock()
	err := w.spare.close()
	w.marker.close()
	return err
}

// closeFiles closes the segments and the directory. err is an error of settle; the result is that
// of Close.
func (w *Writer) closeFiles(err error) error {
	if idle := w.enter(w.gathering.seg); idle != nil { // after a failure only
		err = errors.Join(err, idle.file.Close())
	}
	err = errors.Join(err, w.locks.close())
	w.dir.close()
	if w.err == nil && err != nil {
		w.err = fmt.Errorf("wal: close: %w", err)
	}
	return w.err
}

// lastWitness appends a record that says that all before it was synced. It is not synced itself: a
// crash that takes it takes a proof and nothing else. On a full disk there may be no space for it.
func (w *Writer) lastWitness() {
	if !w.encoder.Claims {
		return
	}
	b := w.gathering
	w.encoder.CRC()
	b.seal()
	w.err = errNotReturned // if write does not return, it stays
	err := w.write(b, false)
	if fileutil.IsFull(err) {
		w.dir.warn("the last record, which says that all before it was synced, has no space", "error", err)
		err = nil
	}
	w.err = err
}

// errNotReturned is the failure of a Writer that called code of its caller's which did not return.
var errNotReturned = errors.New("wal: an Observer, a callback of Append, the Logger's handler, Background or the FS panicked, or called runtime.Goexit")

// guard calls what may call code of the caller's. If that does not return, it ends the Writer. The
// lock is held.
func (w *Writer) guard(call func()) {
	returned := false
	defer func() {
		if !returned {
			w.fail(errNotReturned)
		}
	}()
	call()
	returned = true
}

// failUnlocked is fail for those who do not hold the lock.
func (w *Writer) failUnlocked(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail(err)
}

// fail makes err the Writer's error, unless it has one already, and returns the Writer's error. It
// is for failures outside flush. All who wait are notified: at once, or, if a batch is being
// flushed, by flushed. The lock is held.
func (w *Writer) fail(err error) error {
	if w.err != nil {
		return w.err
	}
	w.err = err
	if !w.flushing {
		w.worker.ready(w.gathering, err)
		w.waiting[0].Broadcast()
		w.waiting[1].Broadcast()
	}
	return err
}
