package wal

import (
	"errors"
	"fmt"
	"sync"

	"github.com/stele-wal/stele/fileutil"
)

// A spare is the file of the next segment, which a background task makes while the last segment
// fills. So a cut does not wait for the disk to reserve a segment's space.
//
// Its methods may be called with the Writer's lock held, but for run and close: those call fail,
// which takes that lock.
type spare struct {
	dir        *logDir
	size       int64             // of the file
	background func(task func()) // Options.Background, may be nil
	observer   func(err error)   // of what came of a task; may be nil
	fail       func(err error)   // ends the Writer

	mu      sync.Mutex
	queued  bool       // a task has been given to background and has not ended; never two
	waiting string     // the name of the file that the queued task makes, until it has started
	made    *spareFile // nil if there is none
	failing bool       // the last task failed, and that has been logged
	closed  bool       // a task that has not started does nothing any more
	count   int        // of tasks, for names: the file before may not have been renamed yet

	// running counts the tasks that have started. None is added once closed is set, so that close
	// can wait for them.
	running sync.WaitGroup
}

// A spareFile is a file made for a segment, under a name that is no segment's.
type spareFile struct {
	name string
	file fileutil.File
}

// spareName returns a name that etcd takes for its own, and ignores.
func spareName(n int) string { return fmt.Sprintf("%d.tmp", n) }

// isThere reports whether there is a spare to cut to.
func (s *spare) isThere() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made != nil
}

// prepare has a spare made if there is none, unless the last attempt failed: then the next is made
// by need, when one is missed.
func (s *spare) prepare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.failing {
		s.begin()
	}
}

// need has a spare made if there is none, and reports whether there is one.
func (s *spare) need() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	return s.made != nil
}

// begin is called with mu held.
func (s *spare) begin() {
	if s.made != nil || s.queued || s.closed {
		return
	}
	name := spareName(s.count)
	s.queued, s.waiting = true, name
	s.count++
	task := func() { s.run(name) }
	if s.background == nil {
		s.running.Go(task)
		return
	}
	s.background(task)
}

// run is the task that makes a file. Run again it does nothing, whatever background says of that:
// it would remove the file that it made.
func (s *spare) run(name string) {
	s.mu.Lock()
	if s.closed || s.waiting != name {
		s.mu.Unlock()
		return
	}
	s.waiting = ""
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	returned := false
	defer func() {
		if !returned {
			s.fail(errNotReturned)
		}
	}()
	file, err := s.dir.makeSegment(name, s.size)
	if err != nil {
		err = fmt.Errorf("wal: %w", err)
	}
	if errors.Is(err, errSpareSync) {
		s.fail(err)
	}
	s.mu.Lock()
	s.queued = false
	if err == nil {
		s.made = &spareFile{name, file}
	}
	report := err != nil && !s.failing
	s.failing = err != nil
	s.mu.Unlock()
	if report {
		s.dir.warn("no spare segment; appends go on in the last one", "error", err)
	}
	if s.observer != nil {
		s.observer(err)
	}
	returned = true
}

// take hands the spare over. There must be one.
func (s *spare) take() *spareFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := s.made
	s.made = nil
	return made
}

// close waits for the task that has started, if one has, and removes what was made.
func (s *spare) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	if s.made == nil {
		return nil
	}
	// The name goes first, while the lock is still held: a moment later it may be another Writer's.
	return errors.Join(s.dir.remove(s.made.name), s.made.file.Close())
}
