package harness

import (
	"fmt"
	"slices"
	"sync"
)

// A Trace is what was done to a log, one line after the other.
type Trace struct {
	mu    sync.Mutex
	lines []string
}

// Addf adds a line.
func (t *Trace) Addf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, fmt.Sprintf(format, args...))
}

// Lines returns a copy of the lines so far.
func (t *Trace) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines)
}
