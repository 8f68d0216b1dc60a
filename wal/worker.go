package wal

import "sync"

// worker is the goroutine that makes durable what Append has appended, and calls back. It starts with the first Append.
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
	defer close(k.done)
	w := k.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case len(k.results) > 0:
			results := k.results
			k.results = nil
			w.mu.Unlock()
			for _, r := range results {
				r.done(r.err)
			}
			w.mu.Lock()
		case len(w.gathering.acked) > 0 && w.err == nil && !w.flushing && !w.closed:
			w.flush()
		case k.stopped:
			return
		default:
			k.wake.Wait()
		}
	}
}
