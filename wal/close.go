package wal

import (
	"errors"
	"fmt"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// Close makes durable all that was saved, appends the last witness, removes the spare and releases
// the lock. It waits for what the Writer does in the background, callbacks of Append and a Release
// at work among it. Any other Close waits for the first, and does nothing else. The error is the
// first failure to write, if there was one, every time.
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
	w.closed = true // whatever comes from here on is turned away
	// Each of these three steps is done also if what the one before calls does not return.
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

// closeFiles closes the segments. It returns what Close is to return; err is an error of settling.
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

// lastWitness appends a record that says that all before it was synced. It need not be synced
// itself: if it is lost, so is a proof, but nothing else. On a full disk there may be no room for
// it.
func (w *Writer) lastWitness() {
	if !w.encoder.claims {
		return
	}
	b := w.gathering
	w.encoder.frame(b, walpb.TypeCRC, nil, nil)
	b.seal()
	w.err = errNotReturned // until it has
	err := w.write(b, false)
	if fileutil.IsFull(err) {
		w.dir.warn("the last record, which says that all before it was synced, has no space", "error", err)
		err = nil
	}
	w.err = err
}

// errNotReturned is the failure of a Writer that called code which did not return.
var errNotReturned = errors.New("wal: an Observer, a callback of Append, the Logger's handler or the FS panicked, or called runtime.Goexit")

// guard calls what may call code of the caller's. If that does not return, the Writer has failed.
// The lock is held.
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

// fail makes err the Writer's error, unless it has one already, and returns that. It is for
// failures outside flush. The lock is held. If a batch is being flushed, those who wait hear of it
// when that has come to its end.
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
