package fileutil

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lock locks the first byte, as etcd does. A lock on Windows also keeps others from reading what it
// covers.
//
// ERROR_LOCK_VIOLATION is how Windows says that another has the lock. Taking it for success is how
// two writers come to share a file.
func lock(fd uintptr) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(fd), flags, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return ErrLocked
	}
	return err
}

// locked cannot know: on Windows only an attempt to take a lock shows that it is held.
func locked(uintptr) (bool, error) { return false, nil }

// syncData leaves it to os.File.Sync, which is FlushFileBuffers.
func syncData(o osFile) error { return o.f.Sync() }

// openDir only sees whether the directory is there: it cannot be opened for writing, which
// FlushFileBuffers asks for.
func openDir(name string) (Dir, error) {
	if _, err := os.Stat(name); err != nil {
		return nil, err
	}
	return unsynced{}, nil
}

// unsynced is a directory that there is no way to sync.
type unsynced struct{}

func (unsynced) Sync() error  { return nil }
func (unsynced) Close() error { return nil }

func preallocate(uintptr, int64) error { return errors.ErrUnsupported }

func nextData(_ uintptr, off, _ int64) (int64, error) { return off, nil }

func dropCache(uintptr) error { return nil }

func interrupted(error) bool { return false }
