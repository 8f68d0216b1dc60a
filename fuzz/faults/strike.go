package faults

import (
	"sync"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
)

// A striker is asked before each operation of a file system how it fails.
type striker struct {
	run   run
	trace *harness.Trace

	mu     sync.Mutex   // the goroutine that calls back after an Append writes too
	seen   []crashfs.Op // every operation so far
	fired  []firing
	mended bool // nothing fails any more
	making bool // a spare is being made
	late   bool // the step that is at work has synced the directory

	// hold, if not nil, stops the next write until it is closed; held is closed by then.
	hold, held chan struct{}
}

// A firing is an operation that was made to fail.
type firing struct {
	crashfs.Op
	making bool // it was one of those that make a spare
	late   bool // the same step has synced the directory before
}

// strike returns how an operation fails.
func (s *striker) strike(op crashfs.Op) error {
	if op.Kind == crashfs.OpWrite {
		s.stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.late = s.late || op.Kind == crashfs.OpSyncDir }()
	n := len(s.seen)
	s.seen = append(s.seen, op)
	f := s.run.fault
	if s.run.op < 0 || n < s.run.op || s.mended || n > s.run.op && (!f.lasts || !f.strikes(op)) {
		return nil
	}
	if len(s.fired) == 0 {
		s.trace.Addf("%v fails with %v", op, f.err)
	}
	// Files keep the name that they were opened by, so a segment that was a spare still has that
	// one.
	s.fired = append(s.fired, firing{op, s.making && harness.IsSpare(op.Name), s.late})
	return f.err
}

// stop waits if a write is to be held.
func (s *striker) stop() {
	s.mu.Lock()
	hold, held := s.hold, s.held
	s.hold, s.held = nil, nil
	s.mu.Unlock()
	if hold != nil {
		close(held)
		<-hold
	}
}

// holdWrite has the next write wait until hold is closed, and then closes held.
func (s *striker) holdWrite() (hold, held chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold, s.held = make(chan struct{}), make(chan struct{})
	return s.hold, s.held
}

// letWrite holds no write any more.
func (s *striker) letWrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold, s.held = nil, nil
}

// begin begins a step. It returns how many operations have failed before.
func (s *striker) begin() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = false
	return len(s.fired)
}

// make says whether what follows makes a spare.
func (s *striker) make(making bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.making = making
}

// mend lets everything succeed from now on.
func (s *striker) mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mended = true
}

// firings returns the operations that have failed, without the first n.
func (s *striker) firings(n int) []firing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fired[n:]
}
