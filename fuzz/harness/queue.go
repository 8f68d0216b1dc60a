package harness

import "sync"

// A Queue holds what a Writer does in the background until [Queue.Run], which is called between the
// calls on it. So the order of all operations of the file system depends on the calls alone.
type Queue struct {
	mu    sync.Mutex
	tasks []func()
}

// Add is a Background of wal.Options.
func (q *Queue) Add(task func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tasks = append(q.tasks, task)
}

// Empty reports whether nothing is to be done.
func (q *Queue) Empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tasks) == 0
}

// Run does what is to be done, in the calling goroutine.
func (q *Queue) Run() {
	for !q.Empty() {
		q.take()()
	}
}

func (q *Queue) take() func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	task := q.tasks[0]
	q.tasks = q.tasks[1:]
	return task
}
