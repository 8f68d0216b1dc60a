package wal_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A deserter stands for code of the caller's. Once it is armed, the next call of it does not
// return.
type deserter struct {
	armed atomic.Bool
	leave func()
}

const lastWords = "the caller's own words"

func panics() { panic(lastWords) }

func (d *deserter) called() {
	if d.armed.CompareAndSwap(true, false) {
		d.leave()
	}
}

// Handle makes it a slog.Handler.
func (d *deserter) Handle(context.Context, slog.Record) error { d.called(); return nil }

func (d *deserter) Enabled(context.Context, slog.Level) bool { return true }

func (d *deserter) WithAttrs([]slog.Attr) slog.Handler { return d }

func (d *deserter) WithGroup(string) slog.Handler { return d }

// posts are where the Writer calls the caller's code while it works for a Save. Each puts d there.
var posts = map[string]func(d *deserter, l *lab, o *wal.Options){
	"Observer.Wrote":  func(d *deserter, _ *lab, o *wal.Options) { o.Observer.Wrote = func(int, time.Duration) { d.called() } },
	"Observer.Synced": func(d *deserter, _ *lab, o *wal.Options) { o.Observer.Synced = func(time.Duration) { d.called() } },
	"Observer.Cut":    func(d *deserter, _ *lab, o *wal.Options) { o.Observer.Cut = func(string, time.Duration) { d.called() } },
	"FS": func(d *deserter, l *lab, _ *wal.Options) {
		l.onOp = func(op crashfs.Op) error {
			if op.Kind == crashfs.OpWrite {
				d.called()
			}
			return nil
		}
	},
	"Logger": func(d *deserter, l *lab, o *wal.Options) {
		o.Logger = slog.New(d)
		l.onOp = func(op crashfs.Op) error {
			if op.Kind == crashfs.OpWrite && strings.HasSuffix(op.Name, "/synced") && d.armed.Load() {
				return errors.New("no mark, so that there is something to log")
			}
			return nil
		}
	},
}

// deserted makes a log with a deserter at each post and each way to leave.
func deserted(t *testing.T, do func(t *testing.T, d *deserter, l *lab, w *wal.Writer)) {
	for post, put := range posts {
		for way, leave := range map[string]func(){"panic": panics, "Goexit": runtime.Goexit} {
			t.Run(post+" "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &deserter{leave: leave}
					l, w := newLab(crashfs.New()), (*wal.Writer)(nil)
					o := l.options()
					put(d, l, o)
					w, err := wal.Create(labDir, []byte("meta"), o)
					must(t, err)
					must(t, l.settle())
					l.save(t, w, state(1, 0), entries(1, 1, 1, 10))
					do(t, d, l, w)
					l.onOp = nil
					l.nothingLeft(t)
					w, err = wal.Open(labDir, l.options())
					must(t, err)
					defer w.Close()
					if log, err := replay(l, walpb.Snapshot{}); err != nil || len(log.Entries) == 0 {
						t.Errorf("after it was opened again: %v, %v", log, err)
					}
				})
			})
		}
	}
}

// apart calls f in a goroutine of its own, as a server does that recovers what its handlers panic
// with, and returns what that was and the stack that it had.
func apart(f func()) (value any, stack string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if value = recover(); value != nil {
				stack = string(debug.Stack())
			}
		}()
		f()
	}()
	<-done
	return value, stack
}

// seen fails unless a panic of the deserter reached the caller, with its stack.
func (d *deserter) seen(t *testing.T, value any, stack string) {
	t.Helper()
	if d.armed.Load() {
		t.Fatal("the caller's code was not called")
	}
	if value != nil && (value != lastWords || !strings.Contains(stack, "wal_test.panics")) {
		t.Errorf("seen is %v, with\n%s", value, stack)
	}
}

// over fails unless the Writer has failed, and says why whatever it is asked.
func over(t *testing.T, w *wal.Writer, last uint64) {
	t.Helper()
	for what, err := range map[string]error{
		"Save":         w.Save(walpb.HardState{}, entries(1, last+1, last+1, 10)),
		"Append":       w.Append(walpb.HardState{}, entries(1, last+1, last+1, 10), func(error) { t.Error("done was called") }),
		"SaveSnapshot": w.SaveSnapshot(walpb.Snapshot{}),
		"Sync":         w.Sync(),
		"Release":      w.Release(1),
		"Close":        w.Close(),
		"second Close": w.Close(),
	} {
		if err == nil || !strings.Contains(err.Error(), "panicked") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCallersCodeThatDoesNotReturnEndsTheWriterAndEveryWait(t *testing.T) {
	deserted(t, func(t *testing.T, d *deserter, l *lab, w *wal.Writer) {
		waiting, told := make(chan error, 1), make(chan error, 1)
		leave := d.leave
		d.leave = func() {
			go func() { waiting <- w.Save(walpb.HardState{}, entries(1, 2, 2, 10)) }()
			synctest.Wait() // it waits for the batch that called this
			if err := w.Append(walpb.HardState{}, entries(1, 3, 3, 10), func(err error) { told <- err }); err != nil {
				t.Error(err)
			}
			leave()
		}
		last := uint64(1)
		d.armed.Store(true)
		value, stack := apart(func() {
			for d.armed.Load() { // of a cut, after a few
				must(t, w.Save(walpb.HardState{}, entries(1, 2, 2, 3000)))
			}
		})
		d.seen(t, value, stack)
		for _, heard := range []chan error{waiting, told} {
			if err := <-heard; err == nil || !strings.Contains(err.Error(), "panicked") {
				t.Errorf("one that waited heard %v", err)
			}
		}
		over(t, w, last)
	})
}

// Without syncs the FS is called under the lock.
func TestAFileSystemThatDoesNotReturnToAWriteInPlaceEndsTheWriter(t *testing.T) {
	for way, leave := range map[string]func(){"panic": panics, "Goexit": runtime.Goexit} {
		t.Run(way, func(t *testing.T) {
			d := &deserter{leave: leave}
			l := newLab(crashfs.New())
			o := l.options()
			o.NoSync = true
			posts["FS"](d, l, o)
			w, err := wal.Create(labDir, []byte("meta"), o)
			must(t, err)
			d.armed.Store(true)
			value, stack := apart(func() { w.Save(walpb.HardState{}, entries(1, 1, 1, 10)) })
			d.seen(t, value, stack)
			over(t, w, 0)
			l.onOp = nil
			l.nothingLeft(t)
		})
	}
}

func TestCallersCodeThatDoesNotReturnToCloseLeavesNothingOpen(t *testing.T) {
	for _, post := range []string{"Observer.Wrote", "FS"} {
		for way, leave := range map[string]func(){"panic": panics, "Goexit": runtime.Goexit} {
			t.Run(post+" "+way, func(t *testing.T) {
				d := &deserter{leave: leave}
				l := newLab(crashfs.New())
				o := l.options()
				posts[post](d, l, o)
				w, err := wal.Create(labDir, nil, o)
				must(t, err)
				must(t, l.settle())
				d.armed.Store(true)
				value, stack := apart(func() { w.Close() })
				d.seen(t, value, stack)
				if err := w.Close(); err == nil || !strings.Contains(err.Error(), "panicked") {
					t.Errorf("second Close: %v", err)
				}
				l.nothingLeft(t)
			})
		}
	}
}

func TestCallersCodeThatDoesNotReturnToOpenOrCreateLeavesNothingOpen(t *testing.T) {
	for way, leave := range map[string]func(){"panic": panics, "Goexit": runtime.Goexit} {
		t.Run(way, func(t *testing.T) {
			d := &deserter{leave: leave}
			l := newLab(crashfs.New())
			o := l.options()
			o.Observer.Synced = func(time.Duration) { d.called() }
			o.Observer.Trimmed = func(string, int64, int64, string) { d.called() }
			o.Logger = slog.New(d)
			d.armed.Store(true)
			value, stack := apart(func() { wal.Create(labDir, nil, o) })
			d.seen(t, value, stack)
			l.nothingLeft(t)

			w, err := wal.Create(labDir, nil, o)
			must(t, err)
			must(t, w.Save(state(1, 0), entries(1, 1, 9, 100)))
			must(t, w.Close())
			b, err := l.ReadFile(labDir + "/" + l.segments()[0])
			must(t, err)
			end := check(t, l).Segments[0].End
			copy(b[end:], []byte{100, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}) // a frame that was begun
			l.WriteFile(labDir+"/"+l.segments()[0], b)
			d.armed.Store(true)
			value, stack = apart(func() { wal.Open(labDir, o) })
			d.seen(t, value, stack)
			l.nothingLeft(t)
			w, err = wal.Open(labDir, o)
			must(t, err)
			must(t, w.Close())
		})
	}
}

// runtime.Goexit is what t.FailNow does.
func TestCallbacksAreCalledAlsoAfterOneThatDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		var called []int
		must(t, h.w.Append(state(1, 0), entries(1, 1, 1, 10), nil))
		synctest.Wait() // its sync is held: the others are of one batch
		for i := 2; i <= 6; i++ {
			must(t, h.w.Append(state(1, 0), entries(1, uint64(i), uint64(i), 10), func(err error) {
				if err != nil {
					t.Errorf("append %d: %v", i, err)
				}
				called = append(called, i)
				if i == 3 || i == 4 || i == 6 {
					runtime.Goexit()
				}
			}))
		}
		close(h.gate)
		synctest.Wait()
		if len(called) != 5 || called[4] != 6 {
			t.Errorf("called: %v", called)
		}
		over(t, h.w, 6)
		h.nothingLeft(t)
	})
}

func TestAnObserverThatEndsTheWritersOwnGoroutineEndsTheWriter(t *testing.T) {
	d := &deserter{leave: runtime.Goexit}
	l, w := create(t, func(o *wal.Options) {
		o.Observer.Synced = func(time.Duration) { d.called() }
	})
	d.armed.Store(true)
	told := make(chan error, 1)
	must(t, w.Append(state(1, 0), entries(1, 1, 1, 10), func(err error) { told <- err }))
	if err := <-told; err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("the callback heard %v", err)
	}
	over(t, w, 1)
	l.nothingLeft(t)

	w, err := wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle())
	must(t, w.Close())
	o := l.options()
	o.Background = nil
	o.Observer.Spare = func(error) { d.called() }
	d.armed.Store(true)
	w, err = wal.Open(labDir, o)
	must(t, err)
	for d.armed.Load() {
		runtime.Gosched()
	}
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("after Observer.Spare did not return: %v", err)
	}
	l.nothingLeft(t)
}

// A panic in a goroutine of the Writer ends the process, since no caller is there to recover it.
// What is then printed must show the code of the caller, and not an error that the panic causes on
// its way.
func TestAPanicInTheWritersOwnGoroutineShowsTheCallersCode(t *testing.T) {
	own := map[string]func(o *wal.Options) (done func(error)){
		"callback":        func(*wal.Options) func(error) { return func(error) { panics() } },
		"Observer.Spare":  func(o *wal.Options) func(error) { o.Observer.Spare = func(error) { panics() }; return nil },
		"Observer.Synced": func(o *wal.Options) func(error) { o.Observer.Synced = secondTime(panics); return nil },
	}
	if post := os.Getenv("STELE_TEST_PANIC"); post != "" {
		o := &wal.Options{FS: crashfs.New(), SegmentSize: 4096}
		done := own[post](o)
		w, err := wal.Create(labDir, nil, o)
		must(t, err)
		// It returns an error if the spare's maker was faster.
		w.Append(state(1, 0), entries(1, 1, 1, 10), done)
		select {}
	}
	for post := range own {
		t.Run(post, func(t *testing.T) {
			child := exec.Command(os.Args[0], "-test.run", "^TestAPanicInTheWritersOwnGoroutineShowsTheCallersCode$")
			child.Env = append(os.Environ(), "STELE_TEST_PANIC="+post)
			out, err := child.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "panic: "+lastWords) || !strings.Contains(string(out), "wal_test.panics") || strings.Contains(string(out), "fatal error") {
				t.Errorf("%v:\n%.1000s", err, out)
			}
		})
	}
}

// secondTime returns an observer that calls f from the second time on: the first is in Create.
func secondTime(f func()) func(time.Duration) {
	n := 0
	return func(time.Duration) {
		if n++; n > 1 {
			f()
		}
	}
}

func TestASegmentThatIsNotReservedEndsTheWriter(t *testing.T) {
	for way, leave := range map[string]func(){"panic": panics, "Goexit": runtime.Goexit} {
		t.Run(way, func(t *testing.T) {
			l, w := create(t)
			l.onOp = func(op crashfs.Op) error {
				switch {
				case op.Kind == crashfs.OpPreallocate && isSegment(op):
					leave()
				case op.Kind == crashfs.OpRemove:
					return errors.New("no spare, so that the segment grows")
				}
				return nil
			}
			value, stack := apart(func() {
				for i := uint64(1); ; i++ {
					must(t, w.Append(walpb.HardState{}, entries(1, i, i, 3000), nil))
					must(t, w.Sync())
					if i > 10 {
						t.Error("nothing was reserved")
						return
					}
				}
			})
			(&deserter{}).seen(t, value, stack)
			over(t, w, 10)
			l.onOp = nil
			l.nothingLeft(t)
		})
	}
}

// Wherever an FS leaves Open or a repair, no segment is left open and no lock held, and the next
// Open finds the log.
func TestAFileSystemThatLeavesOpenOrARepairLeavesNothingLocked(t *testing.T) {
	disk := crashfs.New()
	w, err := wal.Create(labDir, nil, &wal.Options{FS: disk, SegmentSize: 8 << 10})
	must(t, err)
	must(t, w.Save(state(1, 0), entries(1, 1, 9, 1000)))
	must(t, w.Save(state(1, 9), entries(1, 10, 10, 1000)))
	must(t, w.Close())
	names, err := disk.ReadDir(labDir)
	must(t, err)
	name := labDir + "/" + names[len(names)-2].Name() // the last is the mark
	b, err := disk.ReadFile(name)
	must(t, err)
	report := check(t, disk)
	copy(b[report.Segments[len(report.Segments)-1].End:], []byte{100, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3})
	disk.WriteFile(name, b)
	var opened atomic.Bool
	for what, do := range map[string]func(*wal.Options) error{
		"Open": func(o *wal.Options) error {
			w, err := wal.Open(labDir, o)
			if err == nil {
				opened.Store(true)
				err = w.Close()
			}
			return err
		},
		"a repair": func(o *wal.Options) error {
			p, err := wal.PlanRepair(labDir, o)
			if err == nil {
				err = p.Apply()
			}
			return err
		},
	} {
		for n, left := 1, true; left; n++ {
			l := newLab(disk.Clone())
			o := l.options()
			ops := 0
			opened.Store(false)
			l.onOp = func(op crashfs.Op) error {
				if opened.Load() || op.Kind == crashfs.OpClose {
					return nil // a Close that panics has not closed
				}
				if ops++; ops == n {
					panics()
				}
				return nil
			}
			value, stack := apart(func() { must(t, do(o)) })
			if value == nil {
				left = false // there are no more operations
			}
			// The directory and the mark may be: no other process waits for them.
			if open := slices.DeleteFunc(l.handles(), func(name string) bool { return name == labDir+"/synced" }); len(open) > 0 {
				t.Errorf("%s, operation %d: left open: %v\n%s", what, n, open, stack)
			}
			opened.Store(true)
			w, err := wal.Open(labDir, l.options())
			if err != nil {
				t.Fatalf("%s, operation %d: %v", what, n, err)
			}
			must(t, w.Close())
			if n < 20 && !left {
				t.Errorf("%s: only %d operations", what, n)
			}
		}
	}
}
