package wal_test

import (
	"fmt"
	"log"
	"runtime"
	"sync"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A program that decides when the log works in the background: here only between its own calls.
func ExampleOptions_background() {
	dir, remove := tempDir()
	defer remove()
	var tasks []func()
	w, err := wal.Create(dir, nil, &wal.Options{
		SegmentSize: 4096,
		Background:  func(task func()) { tasks = append(tasks, task) },
		Observer:    wal.Observer{Spare: func(err error) { fmt.Println("made the next segment:", err) }},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	for i := uint64(1); i <= 3; i++ {
		if err := w.Save(walpb.HardState{Term: 1}, []walpb.Entry{{Term: 1, Index: i, Data: make([]byte, 3000)}}); err != nil {
			log.Fatal(err)
		}
		fmt.Println("saved", i)
		for _, task := range tasks {
			task()
		}
		tasks = nil
	}
	// Output:
	// saved 1
	// made the next segment: <nil>
	// saved 2
	// made the next segment: <nil>
	// saved 3
}

func TestATaskThatIsNotRunHoldsUpNothing(t *testing.T) {
	l := newLab(crashfs.New())
	var tasks []func()
	o := l.options()
	o.Background = func(task func()) { tasks = append(tasks, task) }
	w, err := wal.Create(labDir, nil, o)
	must(t, err)
	save := func(from, to uint64) {
		for i := from; i <= to; i++ {
			must(t, w.Save(state(1, 0), entries(1, i, i, 3000)))
		}
	}
	save(1, 20)
	if len(tasks) != 1 || l.cuts.Load() > 0 {
		t.Fatalf("%d tasks and %d cuts, of a task that was not run", len(tasks), l.cuts.Load())
	}
	tasks[0]()
	save(21, 40)
	if len(tasks) != 2 || l.cuts.Load() != 1 {
		t.Fatalf("%d tasks and %d cuts, after a task that was run", len(tasks), l.cuts.Load())
	}
	must(t, w.Close())
	l.nothingLeft(t)
	tasks[1]()
	l.nothingLeft(t)
	if r := check(t, l.FS); r.Verdict != wal.Clean || len(r.Spares) > 0 {
		t.Errorf("a task after Close leaves %v, with spares %v", r.Verdict, r.Spares)
	}
}

// A program may run a task twice, at once or later. The second run does nothing: it would remove
// the file that the first has made, of which the Writer still has the name.
func TestATaskThatIsRunTwiceIsRunOnce(t *testing.T) {
	l := newLab(crashfs.New())
	var tasks []func()
	o := l.options()
	o.Background = func(task func()) { tasks = append(tasks, task) }
	w, err := wal.Create(labDir, nil, o)
	must(t, err)
	for i := uint64(1); i <= 60; i++ {
		must(t, w.Save(state(1, 0), entries(1, i, i, 3000)))
		for _, task := range tasks { // all that there ever were
			var both sync.WaitGroup
			both.Go(task)
			both.Go(task)
			both.Wait()
		}
	}
	if l.cuts.Load() < 10 {
		t.Errorf("%d cuts", l.cuts.Load())
	}
	must(t, w.Close())
	l.nothingLeft(t)
	if r := check(t, l.FS); r.Verdict != wal.Clean || r.LastIndex != 60 {
		t.Errorf("%v up to %d", r.Verdict, r.LastIndex)
	}
}

func TestBackgroundThatDoesNotReturnEndsTheWriter(t *testing.T) {
	for way, leave := range map[string]func(){"panic": panics, "Goexit": runtime.Goexit} {
		t.Run(way, func(t *testing.T) {
			d := &deserter{leave: leave}
			l := newLab(crashfs.New())
			o := l.options()
			o.Background = func(task func()) { d.called(); l.tasks <- task }
			fails := func(do func()) {
				d.armed.Store(true)
				value, stack := apart(do)
				d.seen(t, value, stack)
			}
			fails(func() { wal.Create(labDir, nil, o) })
			l.nothingLeft(t)
			fails(func() { wal.Open(labDir, o) })
			l.nothingLeft(t)

			w, err := wal.Open(labDir, o)
			must(t, err)
			must(t, l.settle())
			last := uint64(0)
			fails(func() {
				for d.armed.Load() {
					last++
					must(t, w.Save(state(1, 0), entries(1, last, last, 3000)))
				}
			})
			over(t, w, last)
			l.nothingLeft(t)
			log, err := replay(l, walpb.Snapshot{})
			must(t, err)
			if uint64(len(log.Entries)) != last {
				t.Errorf("%d entries were durable before, %d are there", last, len(log.Entries))
			}
		})
	}
}
