package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/stele-wal/stele/fileutil"
)

// spare is the next segment, which is made in the background while the last one fills: a file of
// full size that reads as zeros, with its space reserved and its lock held.
type spare struct {
	mu     sync.Mutex
	making bool
	made   *openSegment
	failed bool // the last attempt; it has been reported
	closed bool
	count  int // of attempts, for the name: the one before may not have its final name yet
	maker  sync.WaitGroup
}

// spareName returns a name that etcd takes for its own, and ignores.
func spareName(n int) string { return fmt.Sprintf("%d.tmp", n) }

// ready tells whether there is a spare to cut to. If there is none, it sees to it that one is made.
func (s *spare) ready(w *Writer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made == nil {
		s.begin(w)
	}
	return s.made != nil
}

// isThere reports whether there is a spare to cut to.
func (s *spare) isThere() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made != nil
}

// prepare has a spare made if there is none and the last attempt has not failed; after a failure,
// one is made when it is needed.
func (s *spare) prepare(w *Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made == nil && !s.failed {
		s.begin(w)
	}
}

func (s *spare) begin(w *Writer) {
	if s.making || s.closed {
		return
	}
	s.making = true
	name := spareName(s.count)
	s.count++
	s.maker.Go(func() { s.run(w, name) })
}

func (s *spare) run(w *Writer, name string) {
	returned := false
	defer w.unlessReturned(&returned)
	file, err := w.makeSpare(name)
	if errors.Is(err, errSpareSync) {
		w.mu.Lock()
		w.fail(err)
		w.mu.Unlock()
	}
	s.mu.Lock()
	s.making, s.made = false, file
	report := err != nil && !s.failed
	s.failed = err != nil
	s.mu.Unlock()
	if report {
		w.opts.Logger.Warn("wal: no spare segment; appends go on in the last one", "dir", w.dir, "error", err)
	}
	if f := w.opts.Observer.Spare; f != nil {
		f(err)
	}
	returned = true
}

// take hands the spare over. The caller has seen it ready.
func (s *spare) take() *openSegment {
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.made
	s.made = nil
	return file
}

// close waits until nothing is being made, and removes what was.
func (s *spare) close(w *Writer) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.maker.Wait()
	if s.made == nil {
		return nil
	}
	// The name goes first, while the lock is still held: it may be somebody else's a moment later.
	err := w.removeIfThere(s.made.name)
	return errors.Join(err, s.made.file.Close())
}

// errSpareSync is in the error of a spare that could not be synced, unless for want of space. It
// ends the Writer: what the disk dropped may be what the log has just written, of which the log's
// own sync need not hear any more.
var errSpareSync = errors.New("sync of the spare")

// makeSpare makes the file. Whatever stands under its name is removed first, not written to: etcd
// opens such a file as it is, and takes the records in it for its own.
func (w *Writer) makeSpare(name string) (*openSegment, error) {
	if err := w.removeIfThere(name); err != nil {
		return nil, err
	}
	file, err := w.opts.FS.OpenFile(filepath.Join(w.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = file.Lock()
	if err == nil {
		err = file.Preallocate(w.opts.SegmentSize)
	}
	if err == nil && !w.opts.NoSync {
		err = file.SyncData() // so that the first sync of the segment need not
		if err != nil && !fileutil.IsFull(err) {
			err = fmt.Errorf("%w: %w", errSpareSync, err)
		}
	}
	if err != nil {
		err = errors.Join(err, w.removeIfThere(name), file.Close())
		return nil, fmt.Errorf("wal: %w", err)
	}
	return &openSegment{segment: segment{name: name}, file: file, size: w.opts.SegmentSize}, nil
}
