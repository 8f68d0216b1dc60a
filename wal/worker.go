package wal

import "sync"

// A worker is the goroutine that flushes what Append has appended, and calls back. It starts with
// the first Append. Its fields are guarded by mu, the lock of what it works for.
type worker struct {
	mu      *sync.Mutex
	pending func() bool // reports whether Append waits for a batch that the worker can flush
	flush   func()      // lets go of mu in between
	fail    func(error) // ends what it works for

	wake    sync.Cond // signalled when there are results, or pending or stopped may be true
	started bool
	stopped bool          // it ends once there are no results
	done    chan struct{} // closed when it has ended
	results []result      // in the order of Append
}

// A result is a callback that is due.
type result struct {
	done func(error)
	err  error
}

// start makes sure that the worker runs, and looks for what is pending. The lock is held.
func (k *worker) start() {
	if !k.started {
		k.started = true
		go k.run()
	}
	k.wake.Signal()
}

// ready makes the callbacks of a batch due, with err. The lock is held.
func (k *worker) ready(b *batch, err error) {
	for _, done := range b.acked {
		k.results = append(k.results, result{done, err})
	}
	clear(b.acked)
	b.acked = b.acked[:0]
	if k.started {
		k.wake.Signal()
	}
}

// stop has the worker end once it has called back. The lock is held.
func (k *worker) stop() {
	k.stopped = true
	k.wake.Signal()
}

// wait returns when the worker has ended. The lock is not held.
func (k *worker) wait() {
	if k.started {
		<-k.done
	}
}

func (k *worker) run() {
	k.mu.Lock()
	defer k.mu.Unlock()
	returned := false
	defer func() {
		if returned {
			close(k.done)
			return
		}
		// Something that was called did not return. If it panicked, the process ends with this
		// goroutine's stack. If it called runtime.Goexit, the goroutine ends, and the other
		// callbacks are still to be called.
		k.fail(errNotReturned)
		go k.run()
	}()
	for {
		switch {
		case len(k.results) > 0:
			k.callBack()
		case k.pending():
			k.flush()
		case k.stopped:
			returned = true
			return
		default:
			k.wake.Wait()
		}
	}
}

// callBack calls the callbacks that are due. The lock is held when it is called and when it
// returns, and not in between.
func (k *worker) callBack() {
	results := k.results
	k.results = nil
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		if len(results) > 0 { // one of them did not return
			k.results = append(results, k.results...)
		}
	}()
	for len(results) > 0 {
		r := results[0]
		results = results[1:]
		r.done(r.err)
	}
}
