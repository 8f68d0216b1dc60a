package snap

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The clock in these tests is synctest's: it stands still while anyone computes, and jumps when all
// wait.

func TestRateIsKept(t *testing.T) {
	for name, through := range map[string]func(*Limiter, io.Reader) (int64, error){
		"Reader": func(l *Limiter, r io.Reader) (int64, error) {
			return io.Copy(io.Discard, struct{ io.Reader }{l.Reader(context.Background(), r)})
		},
		"Writer": func(l *Limiter, r io.Reader) (int64, error) {
			return io.Copy(l.Writer(context.Background(), io.Discard), struct{ io.Reader }{r})
		},
		"Writer of one large piece": func(l *Limiter, r io.Reader) (int64, error) {
			b, _ := io.ReadAll(r)
			n, err := l.Writer(context.Background(), io.Discard).Write(b)
			return int64(n), err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			const rate, size = 1 << 20, 10 << 20
			start := time.Now()
			n, err := through(NewLimiter(rate), bytes.NewReader(make([]byte, size)))
			took := time.Since(start)
			if n != size || err != nil {
				t.Fatalf("%s: %d, %v", name, n, err)
			}
			if took > 10*time.Second || took < 10*time.Second-burst-time.Millisecond {
				t.Errorf("%s: %v", name, took)
			}
		})
	}
}

func TestLimitIsOfAllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(1 << 20)
		start := time.Now()
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				if _, err := io.Copy(l.Writer(t.Context(), io.Discard), bytes.NewReader(make([]byte, 1<<20))); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if took := time.Since(start); took > 4*time.Second || took < 4*time.Second-burst-time.Millisecond {
			t.Errorf("%v", took)
		}
	})
}

// Time that was not used is not saved up: after an hour of nothing the rate is as it was.
func TestIdleTimeDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(1 << 20)
		time.Sleep(time.Hour)
		start := time.Now()
		for range 16 {
			if err := l.Wait(t.Context(), 64<<10); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < time.Second-burst-time.Millisecond {
			t.Errorf("%v", took)
		}
	})
}

func TestWithoutALimitNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := NewLimiter(0).Wait(t.Context(), 1<<30); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := NewLimiter(1).Wait(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if time.Since(start) != time.Second {
			t.Errorf("after %v", time.Since(start))
		}
		var out strings.Builder
		if n, err := NewLimiter(0).Writer(ctx, &out).Write([]byte("x")); n != 0 || !errors.Is(err, context.DeadlineExceeded) || out.Len() != 0 {
			t.Errorf("got %d, %v", n, err)
		}
		if _, err := NewLimiter(0).Reader(ctx, strings.NewReader("x")).Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// What a time.Duration cannot hold was taken for a time that is over.
func TestMoreThanALifetimeOfBytesWaits(t *testing.T) {
	for _, n := range []int{math.MaxInt, math.MaxInt / 2, math.MaxInt / (1 << 29)} {
		synctest.Test(t, func(t *testing.T) {
			l := NewLimiter(1)
			for i := range 10 { // all of them add up
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := l.Wait(ctx, n); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d bytes at one a second, for the %d. time: %v", n, i+1, err)
				}
			}
			if err := l.Wait(context.Background(), -1); err != nil {
				t.Error(err)
			}
			if left := l.take(time.Now(), 1); left < 200*365*24*time.Hour {
				t.Errorf("%d bytes ten times, and then a negative number: %v are left", n, left)
			}
		})
	}
}

// A lying writer breaks the contract of io.Writer, and would be asked again and again, or with what
// is not there.
func TestALimitedWriterEndsAtAWriterThatWritesLess(t *testing.T) {
	for _, n := range []int{0, 1} {
		if got, err := NewLimiter(0).Writer(t.Context(), lazy(n)).Write([]byte("abc")); got != n || err != io.ErrShortWrite {
			t.Errorf("%d, %v", got, err)
		}
	}
}

// lazy writes so many bytes, and says nothing.
type lazy int

func (n lazy) Write([]byte) (int, error) { return int(n), nil }
