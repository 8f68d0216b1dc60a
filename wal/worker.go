package wal

import "sync"

// worker is the goroutine that makes durable what Append has appended, and calls back. It starts
// with the first Append.
type worker struct {
	w       *Writer
	wake    sync.Cond
	started bool
	stopped bool
	done    chan struct{}
	results []result
}

// result is a callback whose time has come.
type result struct {
	done func(error)
	err  error
}

func (k *worker) init(w *Writer) {
	k.w, k.wake.L, k.done = w, &w.mu, make(chan struct{})
}

// start makes sure that somebody flushes the gathering batch. The lock is held.
func (k *worker) start() {
	if !k.started {
		k.started = true
		go k.run()
	}
	k.wake.Signal()
}

// ready queues the callbacks of a batch. The lock is held.
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

// stop tells the worker to end once it has called back. The lock is held.
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
	w := k.w
	w.mu.Lock()
	defer w.mu.Unlock()
	returned := false
	defer func() {
		if returned {
			close(k.done)
			return
		}
		// Something that was called did not return. If it panicked, the process ends with this
		// goroutine's stack. If it called runtime.Goexit, the goroutine ends, and the other
		// callbacks are still to be called.
		w.fail(errNotReturned)
		go k.run()
	}()
	for {
		switch {
		case len(k.results) > 0:
			k.callBack()
		case len(w.gathering.acked) > 0 && w.err == nil && !w.flushing && !w.closed:
			w.flush()
		case k.stopped:
			returned = true
			return
		default:
			k.wake.Wait()
		}
	}
}

// callBack calls the callbacks whose time has come. The lock is held when it is called and when it
// returns, and not in between.
func (k *worker) callBack() {
	results := k.results
	k.results = nil
	k.w.mu.Unlock()
	defer func() {
		k.w.mu.Lock()
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
