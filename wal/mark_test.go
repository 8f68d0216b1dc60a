package wal_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const markFile = labDir + "/synced"

// killed returns the files of a log of three segments whose writer was killed, as the page cache
// has them, and the index of the last entry.
func killed(t *testing.T, change ...func(*wal.Options)) (l *lab, files map[string][]byte, last uint64) {
	t.Helper()
	l, w := create(t, change...)
	t.Cleanup(func() { w.Close() })
	for len(l.segments()) < 3 || last%7 != 0 {
		last++
		l.save(t, w, state(1, last-1), entries(1, last, last, 900))
	}
	return l, l.Tree(), last
}

// ends returns the offsets in the last segment at which a frame ends, and that segment's name.
func ends(t *testing.T, files map[string][]byte) (name string, offsets []int64) {
	t.Helper()
	for _, r := range records(t, crashfs.Load(files)) {
		if r.Segment != path.Base(name) {
			name, offsets = labDir+"/"+r.Segment, nil
		}
		offsets = append(offsets, r.Offset+r.Size)
	}
	return name, offsets
}

// Nothing that is left of a log shows that its last records are missing; the mark does.
func TestALogCutShortAtTheEndOfAFrameIsReported(t *testing.T) {
	for name, change := range map[string]func(*wal.Options){"with witnesses": func(*wal.Options) {}, "as etcd writes": plain} {
		t.Run(name, func(t *testing.T) {
			_, files, last := killed(t, change)
			segment, offsets := ends(t, files)
			for i, end := range offsets {
				short, zeroed := maps.Clone(files), maps.Clone(files)
				short[segment] = files[segment][:end]
				zeroed[segment] = append(bytes.Clone(files[segment][:end]), make([]byte, len(files[segment])-int(end))...)
				for _, files := range []map[string][]byte{short, zeroed} {
					if i == len(offsets)-1 {
						log, err := replay(crashfs.Load(files), walpb.Snapshot{})
						must(t, err)
						if n := len(log.Entries); n != int(last) {
							t.Errorf("%d entries of %d", n, last)
						}
						continue
					}
					refused(t, crashfs.Load(files), path.Base(segment), end, wal.LostEnd, wal.BadHead)
					delete(files, markFile)
					if i < 2 {
						continue // a head that is not whole needs no mark to be noticed
					}
					if _, err := replay(crashfs.Load(files), walpb.Snapshot{}); err != nil {
						t.Errorf("offset %d, without the mark: %v", end, err)
					}
				}
			}
		})
	}
}

// The last batch has no witness before the log is closed, but it has the mark.
func TestDamageToTheLastBatchOfAKilledWriterIsReported(t *testing.T) {
	_, files, _ := killed(t)
	segment, offsets := ends(t, files)
	from, to := offsets[len(offsets)-3], offsets[len(offsets)-1] // an entry and a hard state
	for at := from; at < to; at++ {
		content := bytes.Clone(files[segment])
		content[at] ^= 0x10
		damaged := maps.Clone(files)
		damaged[segment] = content
		var corrupt *wal.CorruptError
		if _, err := replay(crashfs.Load(damaged), walpb.Snapshot{}); !errors.As(err, &corrupt) || corrupt.Offset < from {
			t.Errorf("offset %d: %v", at, err)
		}
	}
}

// T28. A mark is a lower bound: one that is older, damaged, cut short or another log's means
// nothing.
func TestAMarkThatIsOldOrDamagedMeansNothing(t *testing.T) {
	l, files, last := killed(t)
	whole := func(what string, mark []byte) {
		t.Helper()
		files := maps.Clone(files)
		files[markFile] = mark
		log, err := replay(crashfs.Load(files), walpb.Snapshot{})
		if err != nil || len(log.Entries) != int(last) {
			t.Errorf("%s: %v", what, err)
		}
		w, err := wal.Open(labDir, &wal.Options{FS: crashfs.Load(files), SegmentSize: 8 << 10})
		if err != nil {
			t.Errorf("%s: Open: %v", what, err)
			return
		}
		must(t, w.Close())
	}
	mark := files[markFile]
	if len(mark) != 64 {
		t.Fatalf("the mark has %d bytes", len(mark))
	}
	for bit := range len(mark) * 8 {
		damaged := bytes.Clone(mark)
		damaged[bit/8] ^= 1 << (bit % 8)
		whole("a bit", damaged)
	}
	for size := range mark {
		whole("a size", mark[:size])
	}
	whole("garbage after it", append(bytes.Clone(mark), "xyz"...))

	// Those that the log had before.
	older := 0
	for seed := range uint64(40) {
		old := l.Crash(crashfs.Prefix(int(seed))).Tree()[markFile]
		if len(old) == 64 && !bytes.Equal(old, mark) {
			whole("an older one", old)
			older++
		}
	}
	if older == 0 {
		t.Error("no crash has left an older mark: the test tests nothing")
	}

	other := crashfs.New()
	w, err := wal.Create(labDir, []byte("another member"), &wal.Options{FS: other, SegmentSize: 8 << 10})
	must(t, err)
	must(t, w.Save(state(1, 0), entries(1, 1, 500, 900)))
	must(t, w.Close())
	whole("another log's", other.Tree()[markFile])
}

// T26. Two logs of one owner are the same up to some record. The mark of one is not a mark of the
// other, even if the other is longer.
func TestAMarkOfAnotherHistoryIsReported(t *testing.T) {
	var trees [2]map[string][]byte
	for i := range trees {
		l, w := create(t)
		l.save(t, w, state(1, 0), entries(1, 1, 1, 100))
		l.save(t, w, state(2, 0), entries(2, 2, 2, 100+100*i))
		trees[i] = l.Tree() // the one ends here, in the middle of a frame of the other
		l.save(t, w, state(2, 0), entries(2, 3, 5, 100))
		if i == 1 {
			trees[i] = l.Tree()
		}
		must(t, w.Close())
	}
	trees[1][markFile] = trees[0][markFile]
	_, err := replay(crashfs.Load(trees[1]), walpb.Snapshot{})
	var corrupt *wal.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Kind != wal.Contradiction || !strings.Contains(corrupt.Detail, "synced says") {
		t.Errorf("%v", err)
	}
}

// A log that was removed by hand, segment by segment, may have left its mark. The next log must not
// be judged by it.
func TestCreateRemovesTheMarkOfTheLogBefore(t *testing.T) {
	_, files, _ := killed(t)
	for name := range files {
		if strings.HasSuffix(name, ".wal") || strings.HasSuffix(name, ".tmp") {
			delete(files, name)
		}
	}
	f := crashfs.Load(files)
	boundaries := 0
	var created atomic.Bool
	f.SetHook(nil, func(op crashfs.Op) {
		if created.Load() {
			return
		}
		boundaries++
		for _, choose := range []crashfs.Chooser{crashfs.KeepAll, crashfs.DropAll, crashfs.Prefix(1), crashfs.Prefix(2), crashfs.DropOne(0), crashfs.DropOne(1), crashfs.DropOne(2), crashfs.KeepOne(0), crashfs.KeepOne(1)} {
			crashed := f.Crash(choose)
			w, err := wal.Open(labDir, &wal.Options{FS: crashed, SegmentSize: 8 << 10})
			if errors.Is(err, fs.ErrNotExist) {
				w, err = wal.Create(labDir, []byte("meta"), &wal.Options{FS: crashed, SegmentSize: 8 << 10})
			}
			if err != nil {
				t.Errorf("after %v: %v", op, err)
				continue
			}
			must(t, w.Close())
		}
	})
	w, err := wal.Create(labDir, []byte("meta"), &wal.Options{FS: f, SegmentSize: 8 << 10})
	must(t, err)
	created.Store(true)
	must(t, w.Close())
	if boundaries < 5 {
		t.Errorf("%d boundaries", boundaries)
	}
	log, err := replay(f, walpb.Snapshot{})
	if err != nil || len(log.Entries) != 0 {
		t.Errorf("%v %v", log, err)
	}
}

// A file that is longer than a mark is not the log's, whatever it is called and begins with. It is
// not removed, not written to, and not believed.
func TestALongerFileThatIsCalledSyncedIsLeftAlone(t *testing.T) {
	theirs := []byte("what another program has synced, and when: a list that is longer than a mark")
	f := crashfs.Load(map[string][]byte{markFile: theirs})
	var said bytes.Buffer
	o := &wal.Options{FS: f, SegmentSize: 8 << 10, Logger: slog.New(slog.NewTextHandler(&said, nil))}
	w, err := wal.Create(labDir, []byte("meta"), o)
	must(t, err)
	must(t, w.Save(state(1, 0), entries(1, 1, 3, 10)))
	must(t, w.Close())
	w, err = wal.Open(labDir, o)
	must(t, err)
	must(t, w.Save(state(1, 0), entries(1, 4, 5, 10)))
	must(t, w.Close())
	if b, err := f.ReadFile(markFile); err != nil || !bytes.Equal(b, theirs) {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if log, err := replay(f, walpb.Snapshot{}); err != nil || text(log.Entries) != text(entries(1, 1, 5, 0)) {
		t.Errorf("%v, %v", log, err)
	}
	if n := strings.Count(said.String(), "level=WARN"); n != 2 {
		t.Errorf("%d warnings of two Writers: %s", n, said.String())
	}

	_, files, _ := killed(t)
	segment, offsets := ends(t, files)
	files[segment] = files[segment][:offsets[len(offsets)-3]]
	refused(t, crashfs.Load(files), path.Base(segment), offsets[len(offsets)-3], wal.LostEnd)
	files[markFile] = append(files[markFile], 'x')
	if _, err := replay(crashfs.Load(files), walpb.Snapshot{}); err != nil {
		t.Errorf("a file that begins like a mark: %v", err)
	}
}

// The Writer that had the lock may have written until it let it go. The mark that counts is the one
// that is there then.
func TestOpenGoesByTheMarkThatIsThereUnderTheLock(t *testing.T) {
	_, files, _ := killed(t)
	segment, offsets := ends(t, files)
	end := offsets[len(offsets)-3]
	files[segment] = files[segment][:end]
	newer := files[markFile]
	delete(files, markFile)
	l := newLab(crashfs.Load(files))
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpLock {
			l.WriteFile(markFile, newer)
		}
		return nil
	}
	_, err := wal.Open(labDir, &wal.Options{FS: l})
	var corrupt *wal.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Kind != wal.LostEnd || corrupt.Offset != end {
		t.Errorf("%v", err)
	}
	l.nothingLeft(t)
}

// The mark makes a log safer. A disk without room for it does not make the log unusable.
func TestAMarkThatCannotBeWrittenIsNoFailure(t *testing.T) {
	for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpWrite, crashfs.OpClose} {
		var said bytes.Buffer
		l := newLab(crashfs.New())
		failed := 0
		l.onOp = func(op crashfs.Op) error {
			if path.Base(op.Name) == "synced" && op.Kind == kind {
				failed++
				return syscall.ENOSPC
			}
			return nil
		}
		o := l.options()
		o.Logger = slog.New(slog.NewTextHandler(&said, nil))
		w, err := wal.Create(labDir, []byte("meta"), o)
		must(t, err)
		for i := uint64(1); i < 20; i++ {
			must(t, w.Save(state(1, 0), entries(1, i, i, 900)))
		}
		must(t, w.Close())
		if failed == 0 {
			t.Errorf("%v: the mark was never written", kind)
		}
		if n := strings.Count(said.String(), "level=WARN"); n != 1 {
			t.Errorf("%v: %d warnings: %s", kind, n, said.String())
		}
		l.onOp = nil
		log, err := replay(l.FS, walpb.Snapshot{})
		if err != nil || len(log.Entries) != 19 {
			t.Errorf("%v: %v", kind, err)
		}
	}
}

// The mark is the only proof of the last batch, so it is worth another try: the next one finds
// room, or a descriptor.
func TestTheMarkIsWrittenAgainOnceItCan(t *testing.T) {
	for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpWrite} {
		l := newLab(crashfs.New())
		var failing atomic.Bool
		failing.Store(true)
		l.onOp = func(op crashfs.Op) error {
			if failing.Load() && path.Base(op.Name) == "synced" && op.Kind == kind {
				return syscall.ENOSPC
			}
			return nil
		}
		w, err := wal.Create(labDir, []byte("meta"), l.options())
		must(t, err)
		must(t, w.Save(state(1, 0), entries(1, 1, 1, 100)))
		before, err := l.ReadFile(labDir + "/synced")
		if kind == crashfs.OpCreate && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the mark: %v", err)
		}
		failing.Store(false)
		must(t, w.Save(state(1, 0), entries(1, 2, 2, 100)))
		after, err := l.ReadFile(labDir + "/synced")
		if err != nil || len(after) != 64 || slices.Equal(before, after) {
			t.Errorf("%s of the mark failed once: now it has %d bytes, %v", kind, len(after), err)
		}
		must(t, w.Close())
	}
}

// A mark that cannot be read is not taken for one that is not there.
func TestAMarkThatCannotBeReadIsAnError(t *testing.T) {
	_, files, _ := killed(t)
	l := newLab(crashfs.Load(files))
	l.onOp = func(op crashfs.Op) error {
		if path.Base(op.Name) == "synced" && op.Kind == crashfs.OpRead {
			return syscall.EIO
		}
		return nil
	}
	if _, err := wal.Open(labDir, l.options()); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "synced") {
		t.Errorf("Open: %v", err)
	}
	if _, err := replay(l, walpb.Snapshot{}); !errors.Is(err, syscall.EIO) {
		t.Errorf("Replay: %v", err)
	}
	if _, err := wal.Check(labDir, l.options()); !errors.Is(err, syscall.EIO) {
		t.Errorf("Check: %v", err)
	}
}

// A batch whose own sync went well is not durable if another has failed meanwhile, which may have
// dropped it. Its callers are told of a failure, and the mark must not say otherwise.
func TestTheMarkDoesNotCoverABatchThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(crashfs.New())
		var created, armed atomic.Bool
		var before *crashfs.FS
		spare, segment := make(chan struct{}), make(chan struct{})
		l.onOp = func(op crashfs.Op) error {
			switch {
			case op.Kind == crashfs.OpRename:
				created.Store(true)
			case op.Kind == crashfs.OpSyncData && isSpare(op) && created.Load():
				<-spare
				return syscall.EIO
			case op.Kind == crashfs.OpSyncData && isSegment(op) && armed.Load():
				// The disk drops the batch, and reports that to the sync of the spare.
				before = l.FS.Crash(crashfs.DropAll)
				<-segment
			}
			return nil
		}
		w, err := wal.Create(labDir, []byte("meta"), l.options())
		must(t, err)
		must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
		armed.Store(true)
		saved := make(chan error, 1)
		go func() { saved <- w.Save(state(1, 0), entries(1, 2, 2, 10)) }()
		synctest.Wait() // its sync is held
		close(spare)
		if err := l.settle(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("the spare: %v", err)
		}
		close(segment) // that sync returns nil
		if err := <-saved; !errors.Is(err, syscall.EIO) {
			t.Fatalf("Save: %v", err)
		}
		files := before.Tree()
		files[markFile] = l.Tree()[markFile]
		if err := w.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("Close: %v", err)
		}
		f := crashfs.Load(files)
		w, err = wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
		if err != nil {
			t.Fatalf("nothing that was acknowledged is lost, but Open: %v", err)
		}
		must(t, w.Close())
		if log, err := replay(f, walpb.Snapshot{}); err != nil || text(log.Entries) != "1/1" {
			t.Errorf("%v, %v", log, err)
		}
	})
}
