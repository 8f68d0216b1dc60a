package wal_test

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func TestReleaseRemovesNothingBeyondItsIndexThoughASnapshotIsNewer(t *testing.T) {
	l, w := create(t)
	last := l.fill(t, w, 4)
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last - 1, Term: 1}))
	before := l.segments()
	var seq, index uint64 // at which the second segment begins
	if _, err := fmt.Sscanf(filepath.Base(before[1]), "%x-%x.wal", &seq, &index); err != nil {
		t.Fatal(err)
	}
	must(t, w.Release(index-1))
	if got := l.segments(); len(got) != 4 {
		t.Errorf("Release(%d) left %v of %v", index-1, got, before)
	}
	must(t, w.Release(index))
	if got := l.segments(); len(got) != 3 || got[0] != before[1] {
		t.Errorf("Release(%d) left %v of %v", index, got, before)
	}
	must(t, w.Close())
}

// What makes segments unnecessary is durable before they go. A snapshot record that is saved while
// Release waits for an earlier batch is not durable yet, and Release must not rely on it.
func TestReleaseReliesOnlyOnWhatIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		last := l.fill(t, w, 4)
		must(t, w.Sync())
		before := l.segments()
		gate := make(chan struct{})
		l.onOp = func(op crashfs.Op) error {
			if op.Kind == crashfs.OpSyncData && isSegment(op) {
				<-gate
			}
			return nil
		}
		saved, released, recorded := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() { saved <- w.Save(state(1, last), entries(1, last+1, last+1, 10)) }()
		synctest.Wait() // its sync is held
		go func() { released <- w.Release(last) }()
		synctest.Wait() // it waits for that
		go func() { recorded <- w.SaveSnapshot(walpb.Snapshot{Index: last - 2, Term: 1}) }()
		synctest.Wait()
		gate <- struct{}{}
		must(t, <-saved)
		must(t, <-released)
		synctest.Wait() // the record's sync is held
		if len(recorded) > 0 {
			t.Fatal("the record is durable: the test tests nothing")
		}
		if left := l.segments(); !slices.Equal(left, before) {
			t.Errorf("on the word of a record that is not durable, Release left %v of %v", left, before)
		}
		f := l.FS.Crash(crashfs.DropAll)
		if log, err := replay(f, walpb.Snapshot{}); err != nil || text(log.Entries) != text(entries(1, 1, last+1, 0)) {
			t.Errorf("after a power cut: %v, %v; want the entries up to %d", log, err, last+1)
		}
		reopened, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
		must(t, err)
		must(t, reopened.Close())

		// The next one may.
		close(gate)
		must(t, <-recorded)
		must(t, w.Release(last))
		if left := l.segments(); len(left) >= len(before) {
			t.Errorf("once the record is durable, Release left %v", left)
		}
		must(t, w.Close())
	})
}

// D19. A callback may call Release. Close waits for the callback, so it must hold nothing that
// Release waits for.
func TestCloseDoesNotWaitForAReleaseThatWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := create(t)
		goOn := make(chan struct{})
		released, closed := make(chan error, 1), make(chan error, 2)
		must(t, w.Append(walpb.HardState{}, entries(1, 1, 1, 10), func(err error) {
			<-goOn
			// If the two waited for each other, they would until the tests are out of time.
			released <- w.Release(1)
		}))
		synctest.Wait() // the callback is at work
		go func() { closed <- w.Close() }()
		synctest.Wait() // for the callback
		go func() { closed <- w.Close() }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("a Close returned while a callback was at work")
		}
		close(goOn)
		if err := <-released; !errors.Is(err, wal.ErrClosed) {
			t.Errorf("Release while Close waits: %v", err)
		}
		must(t, <-closed)
		must(t, <-closed)
		l.nothingLeft(t)
	})
}

// D19, T25. Corfu does not sync the mark of what it has trimmed. Before Release removes anything,
// what makes it unnecessary is durable; once it has returned, the segments stay away.
func TestReleaseRemovesNothingThatACrashNeeds(t *testing.T) {
	l, w := create(t)
	last := l.fill(t, w, 4)
	at := walpb.Snapshot{Index: last - 2, Term: 1}
	must(t, w.SaveSnapshot(at))
	crashes := 0
	l.FS.SetHook(nil, func(op crashfs.Op) {
		for i, p := range append([]crashfs.Place{{}}, l.FS.Pending()...) {
			for _, choose := range []crashfs.Chooser{crashfs.DropAll, crashfs.KeepAll, crashfs.DropOne(i), crashfs.KeepOne(i)} {
				crashes++
				f := l.FS.Crash(choose)
				w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
				if err != nil {
					t.Errorf("after %v, place %v: %v", op, p, err)
					return
				}
				w.Close()
				if log, err := replay(f, at); err != nil || text(log.Entries) != text(entries(1, at.Index+1, last, 0)) {
					t.Errorf("after %v, place %v: %v, %v", op, p, log, err)
				}
			}
		}
	})
	must(t, w.Release(last))
	l.FS.SetHook(nil, nil)
	if crashes < 10 {
		t.Errorf("only %d crashes", crashes)
	}
	left := l.segments()
	if len(left) > 2 {
		t.Errorf("Release left %v", left)
	}
	for _, name := range names(l.FS.Crash(crashfs.DropAll)) {
		if strings.HasSuffix(name, ".wal") && !slices.Contains(left, name) {
			t.Errorf("after Release and a power cut %s is there again", name)
		}
	}
	must(t, w.Close())
}

// R9, the exception: the names of segments that are no longer needed.
func TestFailedRemovalInReleaseLeavesTheWriterUsable(t *testing.T) {
	l, w := create(t)
	for i := uint64(1); i <= 30; i++ {
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 20, Term: 1}))
	broken := true
	l.onOp = func(op crashfs.Op) error {
		if broken && op.Kind == crashfs.OpRemove && isSegment(op) {
			return syscall.EIO
		}
		return nil
	}
	before := names(l.FS)
	if err := w.Release(20); !errors.Is(err, syscall.EIO) {
		t.Errorf("Release: %v", err)
	}
	if !slices.Equal(names(l.FS), before) {
		t.Errorf("there are %v, there were %v", names(l.FS), before)
	}
	l.save(t, w, walpb.HardState{}, entries(1, 31, 31, 10))
	broken = false
	must(t, w.Release(20))
	if now := names(l.FS); len(now) >= len(before) || now[1] == segment0 {
		t.Errorf("Release left %v of %v", now, before)
	}
	must(t, w.Close())
	l.nothingLeft(t)
}

// Release removes the copies of the segments that go. If one cannot be removed, it says so and
// leaves the segments. A copy that is gone already is no error.
func TestReleaseRemovesCopiesOrSaysWhyNot(t *testing.T) {
	l, w := create(t)
	last := l.fill(t, w, 3)
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last - 1, Term: 1}))
	before := l.segments()
	copies := []string{labDir + "/" + segment0 + ".16.1.torn", labDir + "/" + segment0 + ".16.torn", labDir + "/" + before[1] + ".0.torn"}
	for _, name := range copies {
		l.WriteFile(name, []byte("torn"))
	}
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpRemove && op.Name == copies[0] {
			return syscall.EIO
		}
		return nil
	}
	if err := w.Release(last); !errors.Is(err, syscall.EIO) {
		t.Errorf("a copy that cannot be removed: %v", err)
	}
	if left := l.segments(); !slices.Equal(left, before) {
		t.Errorf("segments went without their copies: there are %v, there were %v", left, before)
	}
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpRemove && op.Name == copies[0] {
			return l.FS.Remove(copies[0]) // an operator is a moment faster
		}
		return nil
	}
	must(t, w.Release(last))
	if left := names(l.FS); !slices.Contains(left, path.Base(copies[2])) || slices.ContainsFunc(left, func(n string) bool { return strings.HasPrefix(n, segment0) }) {
		t.Errorf("Release of %s left %v", segment0, left)
	}
	must(t, w.Close())
}
