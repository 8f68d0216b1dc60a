package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/stele-wal/stele/fileutil"
)

// A logDir is the directory of a log for those who change what is in it.
type logDir struct {
	fs     fileutil.FS
	path   string
	logger *slog.Logger

	// handle is open for the life of the log, so that the names can be synced even while the
	// process has no descriptor left. It is nil with NoSync.
	handle fileutil.Dir
}

func openLogDir(path string, o Options) (logDir, error) {
	d := logDir{fs: o.FS, path: path, logger: o.Logger}
	if o.NoSync {
		return d, nil
	}
	var err error
	if d.handle, err = o.FS.OpenDir(path); err != nil {
		return d, fmt.Errorf("wal: %w", err)
	}
	return d, nil
}

func (d *logDir) close() {
	if d.handle != nil {
		d.handle.Close() // nothing is to be learnt from it
	}
}

func (d *logDir) open(name string, flag int) (fileutil.File, error) {
	return d.fs.OpenFile(filepath.Join(d.path, name), flag, 0o600)
}

// lock opens a segment to change it, and locks it.
func (d *logDir) lock(seg segment) (*openSegment, error) {
	file, err := d.open(seg.name, os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	locked := false
	defer closeUnless(&locked, file)
	if err := file.Lock(); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	locked = true
	return &openSegment{seg, file}, nil
}

func (d *logDir) rename(from, to string) error {
	return d.fs.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to))
}

// remove removes a file that need not be there.
func (d *logDir) remove(name string) error {
	err := d.fs.Remove(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeCopies removes the copies, of those listed, that Open and Repair kept of one segment.
func (d *logDir) removeCopies(copies []string, segment string) (err error) {
	for _, name := range copies {
		if strings.HasPrefix(name, segment) {
			err = errors.Join(err, d.remove(name))
		}
	}
	return err
}

// sync makes durable which names are in the directory. With NoSync it does nothing.
func (d *logDir) sync() error {
	switch {
	case d.handle == nil:
		return nil
	case sabotaged(openAnew):
		return fileutil.SyncDir(d.fs, d.path)
	}
	return d.handle.Sync()
}

// warn logs what no caller is told.
func (d *logDir) warn(text string, args ...any) {
	d.logger.Warn("wal: "+text, append([]any{"dir", d.path}, args...)...)
}

// makeSegment makes a file for the next segment: size bytes long, reading as zeros, with its space
// reserved and its lock held. A file that has the name already is removed, not written to: etcd
// opens such a file as it is, and takes the records in it for its own.
func (d *logDir) makeSegment(name string, size int64) (fileutil.File, error) {
	if err := d.remove(name); err != nil {
		return nil, err
	}
	file, err := d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	err = file.Lock()
	if err == nil {
		err = file.Preallocate(size)
	}
	if err == nil && d.handle != nil {
		err = file.SyncData() // so that the first sync of the segment need not
		if err != nil && !fileutil.IsFull(err) {
			err = fmt.Errorf("%w: %w", errSpareSync, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, d.remove(name), file.Close())
	}
	return file, nil
}

// errSpareSync is in the error of a spare that could not be synced, unless for want of space. It
// ends the Writer: what the disk dropped may be what the log has just written, and the log's own
// sync need not report that any more.
var errSpareSync = errors.New("sync of the spare")
