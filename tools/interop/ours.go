package interop

import (
	"errors"
	"io/fs"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// An Ours writes a history with package wal. It lets the log go on only once the spare is there
// that the next cut needs, so that where a log is cut depends on nothing but its size.
type Ours struct {
	dir    string
	opts   *wal.Options
	w      *wal.Writer
	spares chan error
	cuts   *int // segments that were truncated and whose next spare was not waited for
}

func newOurs(dir string, opts wal.Options) *Ours {
	o := &Ours{dir: dir, opts: &opts, spares: make(chan error, 16), cuts: new(int)}
	spares := o.spares
	o.opts.Observer.Spare = func(err error) { spares <- err }
	if opts.FS == nil {
		opts.FS = fileutil.OS{}
	}
	if w, ok := opts.FS.(watchFS); ok {
		opts.FS = w.FS
	}
	// Observer.Cut comes too late: the spare is taken, and the next one begun, when the segment
	// before is truncated.
	opts.FS = watchFS{opts.FS, o.cuts}
	return o
}

// CreateOurs makes a log.
func CreateOurs(dir string, metadata []byte, opts wal.Options) (*Ours, error) {
	o := newOurs(dir, opts)
	var err error
	if o.w, err = wal.Create(dir, metadata, o.opts); err != nil {
		return nil, err
	}
	*o.cuts = 0
	return o, <-o.spares
}

// OpenOurs opens a log.
func OpenOurs(dir string, opts wal.Options) (*Ours, error) {
	o := newOurs(dir, opts)
	var err error
	if o.w, err = wal.Open(dir, o.opts); err != nil {
		return nil, err
	}
	*o.cuts = 0
	return o, <-o.spares
}

// settle waits for the spare if there was a cut.
func (o *Ours) settle(err error) error {
	for ; *o.cuts > 0; *o.cuts-- {
		err = errors.Join(err, <-o.spares)
	}
	return err
}

// Save writes one Save.
func (o *Ours) Save(state walpb.HardState, entries []walpb.Entry) error {
	return o.settle(o.w.Save(state, entries))
}

// SaveSnapshot writes a snapshot record.
func (o *Ours) SaveSnapshot(s walpb.Snapshot) error { return o.settle(o.w.SaveSnapshot(s)) }

// Close closes the log.
func (o *Ours) Close() error { return o.w.Close() }

// Reopen closes the log and opens it again.
func (o *Ours) Reopen() error {
	if err := o.Close(); err != nil {
		return err
	}
	again, err := OpenOurs(o.dir, *o.opts)
	if err != nil {
		return err
	}
	*o = *again
	return nil
}

// ReadOurs is what package wal reads from a snapshot on, and that snapshot as it is recorded. It
// reads from the segment that start selects: the snapshot's index, as a program that starts again
// does, or 0 for all.
func ReadOurs(dir string, start uint64, from walpb.Snapshot, opts *wal.Options) (Content, walpb.Snapshot, error) {
	log, err := wal.Replay(wal.Records(dir, start, opts), from)
	if err != nil {
		return Content{}, walpb.Snapshot{}, err
	}
	return Content{Metadata: log.Metadata, State: log.State, Entries: log.Entries}, log.Snapshot, nil
}

// watchFS counts how often a file is truncated. The files that are, in the life of a Writer, are
// segments that are full. Only the goroutine that saves truncates, so the count needs no lock.
type watchFS struct {
	fileutil.FS
	truncated *int
}

func (w watchFS) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := w.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return watchFile{f, w.truncated}, nil
}

type watchFile struct {
	fileutil.File
	truncated *int
}

func (f watchFile) Truncate(size int64) error {
	*f.truncated++
	return f.File.Truncate(size)
}

// NoSync is the operating system's file system, but for syncs of data, which it leaves out.
// wal.Options.NoSync would also leave out the witnesses.
type NoSync struct{ fileutil.OS }

// OpenFile is that of fileutil.OS.
func (n NoSync) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := n.OS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return noSyncFile{f}, nil
}

// OpenDir is that of fileutil.OS.
func (n NoSync) OpenDir(name string) (fileutil.Dir, error) {
	d, err := n.OS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return noSyncDir{d}, nil
}

type noSyncDir struct{ fileutil.Dir }

func (noSyncDir) Sync() error { return nil }

type noSyncFile struct{ fileutil.File }

func (noSyncFile) SyncData() error  { return nil }
func (noSyncFile) DropCache() error { return nil }
