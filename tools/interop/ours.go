package interop

import (
	"errors"
	"io/fs"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// An Ours writes a history with package wal. It lets the log go on only once the spare is there
// that the next cut needs, so that where a log is cut depends on nothing but its size.
type Ours struct {
	dir        string
	opts       wal.Options
	w          *wal.Writer
	background harness.Queue
	spare      error // of the last that was made
}

func newOurs(dir string, opts wal.Options) *Ours {
	o := &Ours{dir: dir, opts: opts}
	o.opts.Background = o.background.Add
	o.opts.Observer.Spare = func(err error) { o.spare = err }
	return o
}

// CreateOurs makes a log.
func CreateOurs(dir string, metadata []byte, opts wal.Options) (*Ours, error) {
	o := newOurs(dir, opts)
	var err error
	if o.w, err = wal.Create(dir, metadata, &o.opts); err != nil {
		return nil, err
	}
	return o, o.settle(nil)
}

// OpenOurs opens a log.
func OpenOurs(dir string, opts wal.Options) (*Ours, error) {
	o := newOurs(dir, opts)
	var err error
	if o.w, err = wal.Open(dir, &o.opts); err != nil {
		return nil, err
	}
	return o, o.settle(nil)
}

// settle has the spare made if it is to be made, after a call that returned err.
func (o *Ours) settle(err error) error {
	o.background.Run()
	return errors.Join(err, o.spare)
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
	w, err := wal.Open(o.dir, &o.opts)
	if err != nil {
		return err
	}
	o.w = w
	return o.settle(nil)
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

// NoSync is the operating system's file system without syncs of data.
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
