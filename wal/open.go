package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/walpb"
)

// Create makes a new, empty log in dir and opens it. metadata identifies its owner; every segment
// carries it, and it never changes. dir and its parents are made if they are not there, with mode
// 0700. Other files in dir are left alone, except the mark of an earlier log, a file called synced.
// If that has more than 64 bytes it is no mark: it is left alone, and the log goes without one.
//
// Once Create has returned nil, the log survives a crash. After a crash before that, Create can be
// called again.
//
// The error is
//
//   - ErrExists, also an fs.ErrExist, if there is a log already, and be it that of a Create that a
//     crash cut short at its very end: Open opens it,
//   - ErrLocked if another Create is at work in dir,
//   - ErrForeign if dir holds a .wal file that is not a segment,
//   - ErrTooLarge if metadata does not fit in a record,
//   - or what the file system said.
func Create(dir string, metadata []byte, opts *Options) (_ *Writer, err error) {
	o := opts.withDefaults()
	if len(metadata)+frame.MaxHead > o.MaxRecord {
		return nil, fmt.Errorf("wal: metadata: %w: %d bytes, the limit is %d", ErrTooLarge, len(metadata)+frame.MaxHead, o.MaxRecord)
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
	// A Create that holds the lock of that name, and still finds no segment, is the only one.
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
	w := newWriter(dir, o, metadata, []segment{first.segment}, locks{[]*openSegment{first}}, 0, nil)
	w.encoder.Head(0, metadata, walpb.HardState{})
	w.encoder.Snapshot(walpb.Snapshot{})
	w.found = []walpb.Snapshot{{}}
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

// unsynced is a file system that does not sync names.
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

// Open opens the log in dir to append to it, and locks it. It reads every segment once, whole.
//
// Open mends what a crash left, and may itself be cut short by one, anywhere, and be called again:
//
//   - Of a torn tail it keeps a copy beside the segment, in a file called after the segment and the
//     offset and ending in .torn, with a number before that if the name is taken. Then it zeroes
//     it, and logs a warning.
//   - An unborn segment, of a crash while the log was being cut, it sets aside in the same way, and
//     goes on in the one before it.
//   - Spares go first, to make room. If the disk is full all the same, a torn tail whose records
//     are ours goes without a copy, since they were not acknowledged. One without witnesses stays.
//   - Segments before missing ones that a Release has removed go as well: nothing can be replayed
//     from them, and etcd does not start as long as they are there.
//
// It syncs the log, with its directory and the parents of that, so that what Records gives from
// now on is durable, whichever process wrote it.
//
// With an error nothing has changed, but as far as a failure of the file system came in between.
// It is
//
//   - ErrNoLog, also an fs.ErrNotExist, if there is no log,
//   - ErrLocked if another Writer or an etcd has it open,
//   - ErrForeign if dir holds a .wal file that is not a segment,
//   - a *CorruptError if what was durable is damaged, or gone. Segments that are missing, the first
//     ones or others, are no damage if a snapshot record makes them unnecessary, as it does after a
//     Release,
//   - syscall.ENOSPC or EDQUOT, wrapped, if there is no space for the copy of a torn tail without
//     witnesses. It says how much to free,
//   - or what the file system said.
func Open(dir string, opts *Options) (*Writer, error) {
	w, _, err := recoverLog(dir, opts, nil)
	return w, err
}

// Recover is Open, and Replay of what Open has read: all that a restart needs of a log.
//
// choose is given the snapshot records from which the log can be replayed, as Snapshots returns
// them, and returns the one to go on from: the newest that the caller has a snapshot for. It may
// read the log, and must not change it.
//
// The segments that hold the snapshot's last entry and what follows it are read a second time, and
// no others are. The Log is durable, as Open makes it.
//
// The error is
//
//   - one of Open's,
//   - that of choose, as it is; the log has not changed,
//   - or one of Replay's; the log has not changed.
func Recover(dir string, opts *Options, choose func(snapshots []walpb.Snapshot) (walpb.Snapshot, error)) (*Writer, *Log, error) {
	if choose == nil {
		return nil, nil, fmt.Errorf("wal: %w: Recover without choose", ErrInvalid)
	}
	return recoverLog(dir, opts, choose)
}

// recoverLog is Recover, or, without choose, Open.
func recoverLog(dir string, opts *Options, choose func([]walpb.Snapshot) (walpb.Snapshot, error)) (*Writer, *Log, error) {
	o := opts.withDefaults()
	k, err := lockLog(dir, o)
	if err != nil {
		return nil, nil, err
	}
	opened := false
	defer func() {
		if !opened { // also after a panic of the FS, or of choose
			k.locks.close()
		}
	}()
	r := recovery{lockedLog: k}
	if err := r.read(); err != nil {
		return nil, nil, err
	}
	var log *Log
	if choose != nil {
		if log, err = r.replay(choose); err != nil {
			return nil, nil, err
		}
	}
	end, err := recoverTail(k, &r.end, false)
	if err != nil {
		return nil, nil, err
	}
	if r.earlier.segments > 0 && !sabotaged(noFinish) {
		if err := finishRelease(k, r.earlier, r.sum.gap); err != nil {
			return nil, nil, err
		}
	}
	w, err := r.resume(end)
	if err != nil {
		return nil, nil, err
	}
	opened = true
	return w.started(), log, nil
}

// A recovery is a locked log on its way to a Writer.
type recovery struct {
	*lockedLog
	sum     reading   // of its records
	end     judgement // of the last segment
	earlier leftover
}

// read reads the log to its end, and makes durable what it reads.
func (r *recovery) read() error {
	if err := r.syncNames(); err != nil {
		return err
	}
	if first := r.beginning(); first != nil {
		r.sum.gap = first
	}
	s := r.scan()
	for record, err := range s.records() {
		if isGap(err) {
			r.earlier = leftover{s.end.segment + 1, s.end.chain, max(r.earlier.commit, r.sum.history.State.Commit)}
		}
		if err := r.sum.take(&record, err); err != nil {
			return err
		}
	}
	r.end = s.end
	return r.sum.end()
}

// replay reads what follows the snapshot that choose chooses again, up to the end that read found.
func (r *recovery) replay(choose func([]walpb.Snapshot) (walpb.Snapshot, error)) (*Log, error) {
	snapshot, err := choose(r.usable())
	if err != nil {
		return nil, err
	}
	end := r.end.ending
	l := r.listing
	if r.end.verdict == Unborn {
		end, l.segments = r.end.before, l.segments[:len(l.segments)-1]
	}
	first := l.from(snapshot.Index) // the entry there says whether the snapshot replaced the log
	l.segments, l.preceded, l.mark = l.segments[first:], first > 0, mark{}
	tail := recoveredTail{r.lockedLog, l.segments[len(l.segments)-1].seq, end.offset}
	return Replay(newScanner(&l, tail).records(), snapshot)
}

// recoveredTail opens for a second reading what was read and settled: no more than there is of the
// log, so that its end is not searched again.
type recoveredTail struct {
	*lockedLog
	last uint64 // the sequence number of the last segment
	end  int64  // of the log, in that segment
}

func (t recoveredTail) open(seg *segment) (s *openSegment, err error) {
	if held := t.of(seg.seq); held != nil {
		s = &openSegment{held.segment, held.file}
	} else if s, err = t.openFile(seg, os.O_RDONLY); err != nil {
		return nil, err
	}
	if s.seq == t.last {
		s.size = t.end
	}
	return s, nil
}

// usable returns the snapshot records from which the log can be replayed.
func (r *recovery) usable() []walpb.Snapshot {
	return r.sum.history.Replayable(r.sum.snapshots, r.sum.gap != nil)
}

// resume makes the Writer that goes on where the log ends.
func (r *recovery) resume(e ending) (*Writer, error) {
	page := make([]byte, e.offset%frame.PageSize)
	if _, err := r.last().file.ReadAt(page, e.offset-int64(len(page))); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("wal: %w", err)
	}
	d, err := openLogDir(r.dir, r.opts)
	if err != nil {
		return nil, err
	}
	w := newWriter(d, r.opts, r.sum.metadata, r.segments, r.locks, e.offset, page)
	w.encoder.Chain, w.encoder.Ident = e.chain, e.ident
	w.marker.set(w.mark())
	w.found = r.usable()
	r.sum.history.Settle(r.sum.snapshots)
	w.history, w.snapshots = r.sum.history, r.sum.snapshots
	if !e.state && !w.history.State.IsZero() {
		// A reader that starts with this segment must find a hard state. etcd leaves it out after a
		// restart.
		w.encoder.State(w.history.State)
	}
	return w, nil
}
