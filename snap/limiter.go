package snap

import (
	"context"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
)

// A Limiter bounds how many bytes a second go through all of its readers and writers together. In
// any time t no more go through than t times the rate, a twentieth of a second's worth, and one
// block of 64 KiB for each reader and writer. Its methods may be called concurrently. The zero
// Limiter limits nothing.
type Limiter struct {
	perByte float64 // nanoseconds

	mu   sync.Mutex
	free time.Time // when the bytes let through so far have used up their time
}

const (
	// burst is how much unused time can be used later.
	burst = time.Second / 20
	// forever is the longest time that bytes count for. More than a Duration holds would wrap to a
	// time in the past.
	forever = math.MaxInt64 / 4
)

// NewLimiter returns a Limiter of that many bytes a second. With 0 or less nothing is limited.
func NewLimiter(bytesPerSecond int64) *Limiter {
	l := new(Limiter)
	if bytesPerSecond > 0 {
		l.perByte = float64(time.Second) / float64(bytesPerSecond)
	}
	return l
}

// Wait waits until n more bytes may go through. If ctx ends before, its error is returned at once,
// and the bytes count as gone through.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	delay := l.take(time.Now(), n)
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("snap: %w", ctx.Err())
	}
}

// take lets n bytes through after those before, and returns how long that is from now.
func (l *Limiter) take(now time.Time, n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.perByte == 0 || n <= 0 {
		return 0
	}
	if earliest := now.Add(-burst); l.free.Before(earliest) {
		l.free = earliest
	}
	l.free = l.free.Add(time.Duration(min(l.perByte*float64(n), forever)))
	return l.free.Sub(now)
}

// Reader returns a reader of what r reads, limited. It reads at most 64 KiB at a time, and waits
// after it. When ctx ends Read returns its error. It is used by one goroutine at a time.
func (l *Limiter) Reader(ctx context.Context, r io.Reader) io.Reader {
	return &limitedReader{l, ctx, r}
}

// Writer returns a writer to w, limited. It waits before it writes, at most 64 KiB at a time. When
// ctx ends Write returns its error. It is used by one goroutine at a time.
func (l *Limiter) Writer(ctx context.Context, w io.Writer) io.Writer {
	return &limitedWriter{l, ctx, w}
}

type limitedReader struct {
	limiter *Limiter
	ctx     context.Context
	r       io.Reader
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p[:min(len(p), BlockSize)])
	if err2 := r.limiter.Wait(r.ctx, n); err2 != nil {
		return 0, err2
	}
	return n, err
}

type limitedWriter struct {
	limiter *Limiter
	ctx     context.Context
	w       io.Writer
}

func (w *limitedWriter) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		b := p[:min(len(p), BlockSize)]
		if err := w.limiter.Wait(w.ctx, len(b)); err != nil {
			return written, err
		}
		n, err := w.w.Write(b)
		written += n
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
		p = p[len(b):]
	}
	return written, nil
}
