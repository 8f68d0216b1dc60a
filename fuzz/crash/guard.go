package crash

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/stele-wal/stele/fuzz/oracle"
)

// patience is how long a history may do nothing: much longer than any one operation takes.
const patience = time.Minute

// guard does what a history does. A panic is a failure of it. One that comes to a stop ends the
// program, since nothing else ends the goroutines that wait: with the seed, what was done, and the
// stacks of all goroutines.
func (c *campaign) guard(h *history, do func()) {
	h.alarm = time.AfterFunc(c.patience, func() { c.stuck(h.plight()) })
	defer h.alarm.Stop()
	if c.cfg.Recover != nil {
		do() // its panics are its own
		return
	}
	h.protect(do)
}

// protect makes a failure of a panic. What the goroutine held by then may stay locked.
func (h *history) protect(do func()) {
	defer func() {
		if p := recover(); p != nil {
			h.fail(oracle.Refused, "panic: %v\n%s", p, strings.TrimSpace(string(debug.Stack())))
		}
	}()
	do()
}

// alive puts off the alarm.
func (h *history) alive() {
	if h.alarm != nil {
		h.alarm.Reset(h.campaign.patience)
	}
}

// plight says of a history that is stuck how to meet it again, and where.
func (h *history) plight() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return fmt.Sprintf("crash: nothing has happened for %v (seed %d)\n\t%s\n\n%s", h.campaign.patience, h.seed, strings.Join(h.trace.Lines(), "\n\t"), stacks)
}
