// Package fileutil is how files are made durable. It knows no log.
//
// An [FS] is the few file operations that a store needs in order to survive a crash: to write at an
// offset, to sync the data of a file, to sync the names in a directory, to reserve space and to
// lock. [OS] is the operating system's. Package crashfs has another, in memory, which can lose
// power.
//
// What survives a crash has two halves, and each is synced on its own. The bytes and the size of a
// file are durable once [File.SyncData] returned nil. The name of a file, new or changed or gone,
// is durable once [SyncDir] of its directory, or [Dir.Sync], returned nil. A file that was synced
// under a name that was not may be lost whole. Package crashfs states exactly what is assumed of
// disks.
//
// A sync that failed must not be tried again: Linux may by then have dropped the data that it could
// not write, and a second sync would return nil without them.
package fileutil

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// An FS is a file system, as much of it as a store needs.
//
// Names are paths as the operating system writes them. Every error is an [*fs.PathError] or an
// [*os.LinkError], so that it names its file, and wraps [fs.ErrNotExist], [fs.ErrExist] or another
// error of io/fs where that is the meaning. All methods may be called concurrently. None makes
// anything durable.
type FS interface {
	// OpenFile opens the file called name. The flags are those of [os.OpenFile]. perm, before the
	// umask, is the mode of a file that this call creates. A file opened with O_APPEND cannot be
	// written.
	//
	// The error wraps fs.ErrNotExist if the name, or with O_CREATE its directory, is not there, and
	// fs.ErrExist if it is there and both O_CREATE and O_EXCL are given. A new name survives a
	// crash after SyncDir.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)

	// ReadDir returns what is in the directory, sorted by name.
	// The error wraps fs.ErrNotExist if the directory is not there.
	ReadDir(name string) ([]fs.DirEntry, error)

	// Stat describes the file called name. The error wraps fs.ErrNotExist if it is not there.
	Stat(name string) (fs.FileInfo, error)

	// Mkdir makes a directory. The error wraps fs.ErrExist if the name is taken and fs.ErrNotExist
	// if its parent is not there. The new name survives a crash after SyncDir of the parent.
	Mkdir(name string, perm fs.FileMode) error

	// Rename gives the file another name, and takes that name from the file that had it. The error
	// wraps fs.ErrNotExist if oldpath is not there.
	//
	// After a crash newpath names one of the two files, never neither and never a mixture. That the
	// change lasts is certain after SyncDir of the directory of newpath, and of oldpath's too if it
	// is another. Rename does not sync the file: sync its data first, or a crash may leave the new
	// name on old bytes.
	Rename(oldpath, newpath string) error

	// Remove removes a file or an empty directory. The error wraps fs.ErrNotExist if it is not
	// there. Without SyncDir a crash may bring it back.
	Remove(name string) error

	// OpenDir opens the directory called name, so that the names in it can be synced. The error
	// wraps fs.ErrNotExist if it is not there. A process that syncs a directory often keeps it
	// open: it can then do so even while it has no descriptor left.
	OpenDir(name string) (Dir, error)
}

// A Dir is an open directory. All methods may be called concurrently. After Close each returns an
// error that wraps [fs.ErrClosed], except on Windows.
type Dir interface {
	io.Closer

	// Sync makes durable which names are in the directory and what they name; not the data of those
	// files, and not the name of the directory itself in its parent. After an error nothing is
	// known about the names changed since the last success. On Windows it does nothing, because
	// there is no such call: names are as durable there as NTFS's journal makes them.
	Sync() error
}

// A File is an open file.
//
// All methods may be called concurrently, with reads and writes of the same bytes in no particular
// order. After Close each returns an error that wraps [fs.ErrClosed], as does a second Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// Name returns the name that was given to OpenFile, even if the file has been renamed since.
	Name() string

	// Size returns the size of the file in bytes.
	Size() (int64, error)

	// Truncate makes the file size bytes long. What it gains reads as zeros. The size survives a
	// crash after SyncData.
	Truncate(size int64) error

	// Preallocate reserves space for the first size bytes, and makes the file that long if it is
	// shorter. It never shrinks a file and never changes what was written. What the file gains
	// reads as zeros. size 0 does nothing.
	//
	// If the disk is full, the error is one that IsFull reports, and the file has the size that it
	// had. Where the file system cannot reserve space, the file is extended without, and a write
	// may find the disk full later. The size survives a crash after SyncData.
	Preallocate(size int64) error

	// SyncData makes durable what was written to the file, through any handle, before the call, and
	// the size of the file; not its name. After an error nothing is known about what was written
	// since the last success, and no later success says anything about it.
	SyncData() error

	// Lock locks the whole file without waiting. The error wraps [ErrLocked] if another open file
	// holds the lock, in this process or in another. The file must be open for writing. Close
	// releases the lock, as does the end of the process. Call it once: whether a second call fails
	// on the handle that holds the lock depends on the platform.
	//
	// On Linux the lock is the one that etcd takes, an open file description lock, so that each
	// excludes the other.
	Lock() error

	// Locked reports whether another open file holds the lock. It takes no lock, not for a moment.
	// It reports false where it cannot know: everywhere except on Linux.
	Locked() (bool, error)

	// NextData returns an offset n such that the file reads as zeros from off up to n: the first
	// that may hold data, as far as the file system knows, or the size of the file if only a hole
	// follows. If off is at the end or beyond, or where holes cannot be found, it is off.
	NextData(off int64) (int64, error)

	// DropCache asks the system to forget its copy of the file, so that reads come from the disk. A
	// process that starts after another's failed sync needs it: the bytes that were not written
	// stay readable until then, and would be taken for durable. Bytes that were written but not yet
	// synced are kept, so call SyncData first. It is a request, and does nothing where there is no
	// such call: everywhere except on Linux.
	DropCache() error
}

// ErrLocked says that another open file holds the lock of this file.
var ErrLocked = errors.New("file is locked")

// IsFull reports whether an error says that there is no space left: on the disk, or in the quota of
// the user.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// SyncDir opens the directory called name, syncs it, and closes it again; see [Dir]. The errors are
// those of [FS.OpenDir] and [Dir.Sync].
func SyncDir(fsys FS, name string) error {
	d, err := fsys.OpenDir(name)
	if err != nil {
		return err
	}
	defer d.Close() // its error says nothing new
	return d.Sync()
}

// WriteFile makes data the content of the file called name, as [ReplaceFile] does, with the same
// errors.
func WriteFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	return ReplaceFile(fsys, name, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// ReplaceFile makes what write writes the content of the file called name, whole or not at all. It
// writes a new file beside the old, called name, a number and .tmp, with the mode perm before the
// umask; syncs it; renames it over name; and syncs the directory.
//
// What is there afterwards, by the outcome:
//   - nil: the new content, which survives a crash;
//   - an error of syncing the directory: the new content, which a crash may undo;
//   - any other error, or a panic of write: what was there before, and nothing of the new file;
//   - a crash during the call: the old content or the new, and perhaps the .tmp file, which is
//     never read.
//
// An error of write is returned wrapped. Calls may be concurrent, for the same name too: one of
// them is last.
func ReplaceFile(fsys FS, name string, perm fs.FileMode, write func(w io.Writer) error) error {
	dir, err := fsys.OpenDir(filepath.Dir(name)) // first, while nothing has changed
	if err != nil {
		return err
	}
	defer dir.Close() // its error says nothing new
	f, err := createTemp(fsys, name, perm)
	if err != nil {
		return err
	}
	tmp, renamed := f.Name(), false
	defer func() {
		if !renamed {
			// The first error is returned. If the removal fails too, a file is left that is never
			// read.
			_ = fsys.Remove(tmp)
		}
	}()
	if err := fill(f, write); err != nil {
		return err
	}
	// The data are durable before they get the name. Otherwise a crash could leave the name on an
	// empty file.
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	renamed = true
	return dir.Sync() // from here on the new content survives a crash
}

// createTemp creates a file beside name that did not exist. It counts instead of drawing random
// names, so that what a test does in a crashfs depends on its seed alone.
func createTemp(fsys FS, name string, perm fs.FileMode) (File, error) {
	const attempts = 10000
	var err error
	for i := range attempts {
		var f File
		f, err = fsys.OpenFile(name+"."+strconv.Itoa(i)+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return nil, err
}

// fill writes the content of f, makes it durable and closes f.
func fill(f File, write func(w io.Writer) error) (err error) {
	defer func() {
		if err2 := f.Close(); err == nil {
			err = err2
		}
	}()
	w := bufio.NewWriterSize(io.NewOffsetWriter(f, 0), 64<<10)
	if err := write(w); err != nil {
		var path *fs.PathError
		if errors.As(err, &path) && path.Path == f.Name() {
			return err // of w, which names the file
		}
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.SyncData()
}
