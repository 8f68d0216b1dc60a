package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// Create makes a new, empty log in dir and opens it. metadata is whatever tells its owner apart
// from others; every segment carries it, and it never changes. dir is made if it is not there, mode
// 0700, as are its parents. Other files are left alone, but for the mark of an earlier log, a file
// called synced. If that has more than 64 bytes it is somebody else's: it is left alone, and the
// log goes without a mark.
//
// Once Create has returned nil, the log survives a crash. After a crash before that, Create can be
// called again, unless the log is there after all, whole and empty: the error is then ErrExists,
// which is also an fs.ErrExist, and Open opens it. The error is ErrLocked if another Create is at
// work in dir, and ErrForeign if dir holds a .wal file that is not a segment.
func Create(dir string, metadata []byte, opts *Options) (_ *Writer, err error) {
	o := opts.withDefaults()
	if len(metadata)+maxHead > o.MaxRecord {
		return nil, fmt.Errorf("wal: metadata: %w: %d bytes, the limit is %d", ErrTooLarge, len(metadata)+maxHead, o.MaxRecord)
	}
	if metadata != nil {
		metadata = append([]byte{}, metadata...)
	}
	fsys := o.FS
	if o.NoSync {
		fsys = unsynced{fsys}
	}
	if err := fileutil.MkdirAll(fsys, dir); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	if err := vacant(o.FS, dir); err != nil {
		return nil, err
	}
	// The first segment grows under the name of a spare, so that it is whole when it gets its own.
	// Whoever holds the lock of that name, and still finds no segment, is the only one.
	spare := filepath.Join(dir, spareName(0))
	file, err := o.FS.OpenFile(spare, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	var d logDir
	created := false
	defer func() {
		if !created { // an Observer that panics has got here, too
			d.close()
			err = errors.Join(err, file.Close())
		}
	}()
	if d, err = openLogDir(dir, o); err != nil {
		return nil, err
	}
	w, err := create(d, file, metadata, o)
	if err != nil {
		return nil, err
	}
	created = true
	return w.started(), nil
}

func create(dir logDir, file fileutil.File, metadata []byte, o Options) (*Writer, error) {
	if err := file.Lock(); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	if err := vacant(dir.fs, dir.path); err != nil {
		return nil, err
	}
	first := newSegment(0, 0, file, o.SegmentSize)
	w := newWriter(dir, o, metadata, []*openSegment{first}, 0, nil)
	w.encoder.head(w.gathering, 0, metadata, walpb.HardState{})
	w.encoder.snapshot(w.gathering, walpb.Snapshot{})
	w.record(walpb.Snapshot{})
	err := removeMark(dir.fs, dir.path, !o.NoSync)
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		err = file.Preallocate(o.SegmentSize)
	}
	if err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	b := w.gathering
	b.seal()
	w.gathering, w.idle = w.next(b), b
	if err := w.write(b, !o.NoSync); err != nil {
		return nil, err
	}
	w.durable = b.number
	if err := dir.rename(spareName(0), first.name); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	if err := dir.sync(); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	// From here on, the log survives a crash.
	w.marker.set(w.mark())
	return w, nil
}

// unsynced is a file system whose names nobody waits for.
type unsynced struct{ fileutil.FS }

func (unsynced) OpenDir(string) (fileutil.Dir, error) { return unsyncedDir{}, nil }

type unsyncedDir struct{}

func (unsyncedDir) Sync() error  { return nil }
func (unsyncedDir) Close() error { return nil }

// vacant returns an error unless a directory holds no log.
func vacant(fsys fileutil.FS, dir string) error {
	l, err := list(fsys, dir)
	if err != nil {
		return err
	}
	if l.stray != nil {
		return l.stray
	}
	if len(l.segments) > 0 {
		return fmt.Errorf("wal: %s: %w", dir, ErrExists)
	}
	return nil
}

// Open opens the log in dir to append to it, and locks it. It reads the log once, whole.
//
// If a crash left a torn tail, Open keeps a copy of it beside the segment, in a file called after
// the segment and the offset and ending in .torn, with a number before that if the name is taken;
// zeroes it; and logs a warning. If it came while the log was being cut, Open sets the unborn
// segment aside in the same way. The spares that a crash left go first, to make room. If the disk
// is full all the same, a torn tail goes without a copy where its records are ours, since nobody
// was told of them; where they are without witnesses nothing goes, and the error, which wraps
// syscall.ENOSPC or EDQUOT, says how much to free. Open syncs the log, with its directory and the
// parents of that, so that what Records gives from now on is durable, whoever wrote it.
//
// If what was durable is damaged, or gone, Open changes nothing and returns a *CorruptError.
// Segments that are missing, the first ones or others, are no damage if a snapshot record makes
// them needless, as it does after a Release. The error is ErrNoLog, also an fs.ErrNotExist, if
// there is no log; ErrLocked if another Writer or an etcd has it open; ErrForeign if dir holds a
// .wal file that is not a segment; or what the file system said.
//
// If a crash cut short a Release, and segments are there that stand before the missing ones, Open
// removes them: nothing can be replayed from them, and etcd does not start as long as they are
// there.
//
// Open may itself be cut short by a crash, anywhere, and be called again.
func Open(dir string, opts *Options) (*Writer, error) {
	o := opts.withDefaults()
	l, err := lockLog(o.FS, dir)
	if err != nil {
		return nil, err
	}
	opened := false
	defer l.closeUnless(&opened)
	w, err := open(dir, l, o)
	if err != nil {
		return nil, err
	}
	opened = true
	return w.started(), nil
}

// lockLog lists a log, opens all its segments and locks them.
func lockLog(fsys fileutil.FS, dir string) (listing, error) {
	l, err := list(fsys, dir)
	if err != nil {
		return l, err
	}
	if err := l.check(dir); err != nil {
		return l, err
	}
	if filepath.Base(dir) == l.segments[0].name {
		return l, fmt.Errorf("wal: %s: a segment, not the directory of a log", dir)
	}
	if err := l.open(fsys, dir, 0, os.O_RDWR); err != nil {
		return l, err
	}
	locked := false
	defer l.closeUnless(&locked)
	for i := range l.segments {
		if err := l.segments[i].file.Lock(); err != nil {
			return l, fmt.Errorf("wal: %w", err)
		}
	}
	// Who had the locks before may have cut the log or released segments after it was listed.
	again, err := list(fsys, dir)
	if err == nil && !sameNames(l.segments, again.segments) {
		err = fmt.Errorf("wal: %s: %w: segments came or went", dir, ErrLocked)
	}
	for i := 0; err == nil && i < len(l.segments); i++ {
		l.segments[i].size, err = l.segments[i].file.Size()
	}
	if err != nil {
		return l, err
	}
	l.mark, l.spares, l.copies = again.mark, again.spares, again.copies
	locked = true
	return l, nil
}

func sameNames(a, b []openSegment) bool {
	for i := range a {
		if i >= len(b) || a[i].name != b[i].name {
			return false
		}
	}
	return len(a) == len(b)
}

// open does what Open says with a log that is locked.
func open(dir string, l listing, o Options) (*Writer, error) {
	if err := l.sync(dir, o); err != nil {
		return nil, err
	}
	s := newScanner(&l)
	var (
		rd      reading
		earlier leftover
	)
	if first := l.beginning(); first != nil {
		rd.gap = first
	}
	for r, err := range s.records() {
		if isGap(err) {
			earlier = leftover{s.end.segment + 1, s.end.chain, max(earlier.commit, rd.history.State.Commit)}
		}
		if err := rd.take(&r, err); err != nil {
			return nil, err
		}
	}
	if err := rd.end(); err != nil {
		return nil, err
	}
	end, err := recoverTail(dir, &l, s.end, o, false)
	if err != nil {
		return nil, err
	}
	if earlier.segments > 0 && !sabotaged(noFinish) {
		if err := finishRelease(dir, &l, earlier, rd.gap, o); err != nil {
			return nil, err
		}
	}
	return resume(dir, l, end, &rd, o)
}

// sync makes durable what the writer of the log may have left in memory: all segments and, with its
// parents, the directory. With NoSync it sees to it, all the same, that what the disk never got is
// not taken for the log.
func (l *listing) sync(dir string, o Options) error {
	for i := range l.segments {
		if i < len(l.segments)-1 && sabotaged(lastSyncOnly) {
			continue
		}
		// Read what is on the disk, not what a process that did not sync it, or failed to, left in
		// memory.
		seg := &l.segments[i]
		if !o.NoSync {
			if err := seg.file.SyncData(); err != nil {
				return fmt.Errorf("wal: %w", err)
			}
		}
		if err := seg.file.DropCache(); err != nil {
			return fmt.Errorf("wal: %w", err)
		}
	}
	if o.NoSync {
		return nil
	}
	if err := fileutil.MkdirAll(o.FS, dir); err != nil { // it is there, but it may not last
		return fmt.Errorf("wal: %w", err)
	}
	return nil
}

// resume makes the Writer that goes on where a log ends.
func resume(dir string, l listing, e end, rd *reading, o Options) (*Writer, error) {
	segments := make([]*openSegment, len(l.segments))
	for i := range l.segments {
		segments[i] = &l.segments[i]
	}
	last := segments[len(segments)-1]
	page := make([]byte, e.offset%pageSize)
	if _, err := last.file.ReadAt(page, e.offset-int64(len(page))); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("wal: %w", err)
	}
	d, err := openLogDir(dir, o)
	if err != nil {
		return nil, err
	}
	w := newWriter(d, o, rd.metadata, segments, e.offset, page)
	w.encoder.chain, w.encoder.ident = e.chain, e.ident
	w.marker.set(w.mark())
	rd.history.Settle(rd.snapshots)
	w.history, w.snapshots = rd.history, rd.snapshots
	if !e.state && !w.history.State.IsZero() {
		// Whoever reads from this segment on must find a hard state: etcd leaves it out after a
		// restart.
		w.encoder.state(w.gathering, w.history.State)
	}
	return w, nil
}
