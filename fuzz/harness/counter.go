package harness

import (
	"sync"
	"time"
)

// A Counter is what the workers of a campaign count together, in a result R.
type Counter[R any] struct {
	began time.Time
	tell  func(r *R, took time.Duration)

	mu   sync.Mutex
	r    R
	told time.Time // when tell was last called
}

// NewCounter returns a Counter. If tell is not nil it is called about once a second, by one worker
// at a time.
func NewCounter[R any](r R, tell func(r *R, took time.Duration)) *Counter[R] {
	now := time.Now()
	return &Counter[R]{began: now, tell: tell, r: r, told: now}
}

// Count counts something.
func (c *Counter[R]) Count(count func(r *R)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count(&c.r)
	if c.tell == nil {
		return
	}
	if now := time.Now(); now.Sub(c.told) >= time.Second {
		c.told = now
		c.tell(&c.r, now.Sub(c.began))
	}
}

// Result returns what was counted so far, and how long that took.
func (c *Counter[R]) Result() (R, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r, time.Since(c.began)
}
