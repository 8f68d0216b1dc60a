package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"
)

const (
	stageLimit = 15 * time.Minute // for a stage in its whole form, which takes two at most
	// For the programs of a stage to clean up after themselves when they are told to end.
	stageGrace = time.Minute
)

// limit returns how long a stage may take.
func (s *settings) limit() time.Duration {
	return time.Duration(float64(stageLimit) * max(1, s.scale))
}

// watch runs a stage and returns what it came to, and whether it has come to an end. One that has
// not when its time is over is told to end, and what it does then goes to stderr; it may go on
// doing that.
func watch(ctx context.Context, st stage, s *settings, p *progress, stderr io.Writer) (rows []row, ended bool) {
	return watchFor(ctx, st, s, p, stderr, s.limit(), stageGrace)
}

func watchFor(ctx context.Context, st stage, s *settings, p *progress, stderr io.Writer, limit, grace time.Duration) (rows []row, ended bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan []row, 1)
	go func() { done <- st.run(ctx, s, p) }()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case rows := <-done:
		return rows, true
	case <-late.C:
	}
	p.end()
	fmt.Fprintf(stderr, "proof: %s has not ended after %v:\n%s\n", st.name, limit, stacks())
	cancel()
	over := time.NewTimer(grace)
	defer over.Stop()
	select {
	case rows = <-done:
	case <-over.C:
	}
	return append(rows, row{stage: st.name, broken: fmt.Sprintf("it has not ended after %v", limit)}), false
}

// stacks returns what all goroutines do.
func stacks() []byte {
	const most = 64 << 20
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size || size >= most {
			return buf[:n]
		}
	}
}

// again says how to run a stage again, of rows in which something failed and that do not say it.
func again(rows []row, name string, s *settings) {
	for i := range rows {
		if r := &rows[i]; r.bad() && len(r.details) == 0 {
			r.details = []string{fmt.Sprintf("again: go run ./tools/proof -stages %s -seed %d -scale %v -workers %d", name, s.seed, s.scale, s.workers)}
		}
	}
}
