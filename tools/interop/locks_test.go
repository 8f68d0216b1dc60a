package interop

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	etcdpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const lockSegment = 2048

// fill saves entries until there is one more segment.
func fill(t *testing.T, dir string, next *uint64, save func(walpb.HardState, []walpb.Entry) error) {
	t.Helper()
	before, err := SegmentNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		*next++
		e := walpb.Entry{Term: 1, Index: *next, Data: bytes.Repeat([]byte("x"), 300)}
		if err := save(walpb.HardState{Term: 1, Vote: 1, Commit: *next}, []walpb.Entry{e}); err != nil {
			t.Fatal(err)
		}
		now, err := SegmentNames(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(now) > len(before) {
			return
		}
	}
	t.Fatal("no cut in 100 entries")
}

func openEtcdAt(dir string, index, term uint64) error {
	w, err := etcd.Open(zap.NewNop(), dir, &etcdpb.Snapshot{Index: new(index), Term: new(term)})
	if err != nil {
		return err
	}
	w.Close()
	return nil
}

func TestEtcdCannotOpenALogThatIsOpen(t *testing.T) {
	etcd.SegmentSizeBytes = lockSegment
	dir := filepath.Join(t.TempDir(), "wal")
	w, err := CreateOurs(dir, nil, wal.Options{SegmentSize: lockSegment})
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for cut := range 3 {
		if err := openEtcdAt(dir, 0, 0); !errors.Is(err, fileutil.ErrLocked) {
			t.Errorf("after %d cuts, etcd's Open: %v, want %v", cut, err, fileutil.ErrLocked)
		}
		names, err := SegmentNames(dir)
		if err != nil {
			t.Fatal(err)
		}
		// The first segment, the last two, and the spares: etcd opens only those that it needs, and
		// the last is always among them.
		names = slices.Compact(slices.Concat(names[:1], names[max(0, len(names)-2):]))
		spares, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
		if err != nil || len(spares) == 0 {
			t.Fatalf("no spare: %v", err)
		}
		for _, spare := range spares {
			names = append(names, filepath.Base(spare))
		}
		for _, name := range names {
			if f, err := fileutil.TryLockFile(filepath.Join(dir, name), os.O_WRONLY, 0o600); !errors.Is(err, fileutil.ErrLocked) {
				t.Errorf("after %d cuts, etcd locks %s: %v, want %v", cut, name, err, fileutil.ErrLocked)
				if err == nil {
					f.Close()
				}
			}
		}
		fill(t, dir, &last, w.Save)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openEtcdAt(dir, 0, 0); err != nil {
		t.Errorf("after Close, etcd's Open: %v", err)
	}
}

func TestNoMomentOfACutLetsEtcdIn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	// The functions are called in the middle of the cut, before the segment is written and after it
	// got its name.
	var (
		tried int
		in    []error
	)
	try := func() {
		tried++
		names, err := SegmentNames(dir)
		if err != nil {
			in = append(in, err)
		}
		for i, name := range names {
			if 0 < i && i < len(names)-2 {
				continue // FORMAT.md, chapter 12
			}
			f, err := fileutil.TryLockFile(filepath.Join(dir, name), os.O_WRONLY, 0o600)
			if err == nil {
				f.Close()
				in = append(in, errors.New(name+" was not locked"))
			} else if !errors.Is(err, fileutil.ErrLocked) {
				in = append(in, err)
			}
		}
	}
	w, err := wal.Create(dir, nil, &wal.Options{SegmentSize: lockSegment, Observer: wal.Observer{
		Cut:    func(string, time.Duration) { try() },
		Wrote:  func(int, time.Duration) { try() },
		Synced: func(time.Duration) { try() },
	}})
	if err != nil {
		t.Fatal(err)
	}
	in, tried = nil, 0 // in Create the segment does not have its name yet
	var last uint64
	for range 3 {
		fill(t, dir, &last, w.Save)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if len(in) > 0 || tried < 9 {
		t.Errorf("in %d tries: %v", tried, errors.Join(in...))
	}
}

func TestEtcdsPurgeTakesNoSegmentOfALogThatIsOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	w, err := CreateOurs(dir, nil, wal.Options{SegmentSize: lockSegment})
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for range 4 {
		fill(t, dir, &last, w.Save)
	}
	before, err := SegmentNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	purge(t, dir)
	after, err := SegmentNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(before, after) || len(after) < 5 {
		t.Errorf("etcd purged down to %q, there were %q", after, before)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// It is the lock that keeps it from them.
	purge(t, dir)
	if after, err = SegmentNames(dir); err != nil || len(after) != 1 {
		t.Errorf("after Close, etcd purged down to %q, want one; %v", after, err)
	}
}

// purge lets etcd remove all segments but one, in one round.
func purge(t *testing.T, dir string) {
	t.Helper()
	stop := make(chan struct{})
	close(stop) // it looks for that after its first round
	done, failed := fileutil.PurgeFileWithDoneNotify(zap.NewNop(), dir, "wal", 1, time.Hour, stop)
	<-done
	select {
	case err := <-failed:
		t.Fatalf("etcd's PurgeFile: %v", err)
	default:
	}
}

func TestOursCannotOpenALogThatEtcdHasOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	const sync = true
	w, err := CreateEtcd(dir, nil, lockSegment, sync)
	if err != nil {
		t.Fatal(err)
	}
	opts := &wal.Options{SegmentSize: lockSegment}
	locked := func(when string) {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			o, err := wal.Open(dir, opts)
			if err == nil {
				o.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, wal.ErrLocked) {
				t.Errorf("%s, Open: %v, want ErrLocked", when, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s, Open waits for the lock", when)
		}
		if report, err := wal.Check(dir, opts); err != nil || !report.Locked || report.Verdict != wal.Clean {
			t.Errorf("%s, Check: %+v %v, want a clean log that is locked", when, report, err)
		}
	}
	var last uint64
	save := func(s walpb.HardState, e []walpb.Entry) error {
		const cut, never = false, false
		return w.Save(s, e, cut, never)
	}
	locked("created")
	fill(t, dir, &last, save)
	locked("cut")
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	locked("opened again")
	fill(t, dir, &last, save)
	locked("cut again")
	if err := w.SaveSnapshot(walpb.Snapshot{Index: last, Term: 1, ConfState: []byte{8, 1}}); err != nil {
		t.Fatal(err)
	}
	// It lets go of all but the last; the writer still has that one.
	if err := w.w.ReleaseLockTo(last); err != nil {
		t.Fatal(err)
	}
	locked("old segments released")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	o, err := wal.Open(dir, opts)
	if err != nil {
		t.Fatalf("closed: %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}
