package fileutil

import (
	"errors"

	"golang.org/x/sys/unix"
)

// lock takes an open file description lock for writing on the whole file, which is what etcd takes.
// A classic POSIX lock would not do: it belongs to the process, and closing any other handle of the
// file would drop it. A BSD lock would not either, where the kernel has the better: the two kinds
// do not see each other.
func lock(fd uintptr) error {
	err := unix.FcntlFlock(fd, unix.F_OFD_SETLK, wholeFile())
	if errors.Is(err, unix.EINVAL) { // a kernel before 3.15; etcd does the same then
		err = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	return err
}

func locked(fd uintptr) (bool, error) {
	l := wholeFile()
	err := unix.FcntlFlock(fd, unix.F_OFD_GETLK, l)
	if errors.Is(err, unix.EINVAL) {
		return false, nil // a BSD lock can be asked for only by taking it
	}
	return err == nil && l.Type != unix.F_UNLCK, err
}

// wholeFile describes the lock: a length of 0 reaches to the end of the file, wherever that comes
// to be.
func wholeFile() *unix.Flock_t {
	return &unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET}
}

// syncData leaves out times, which fsync would write, but not a new size: fdatasync writes what is
// needed to read the data back.
func syncData(o osFile) error {
	return o.control("fdatasync", func(fd uintptr) error { return unix.Fdatasync(int(fd)) })
}

func preallocate(fd uintptr, size int64) error {
	return unix.Fallocate(int(fd), 0, 0, size)
}

func nextData(fd uintptr, off, size int64) (int64, error) {
	n, err := unix.Seek(int(fd), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, nil
	case errors.Is(err, unix.EINVAL):
		return off, nil
	}
	return n, err
}

func dropCache(fd uintptr) error {
	return unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED)
}

func interrupted(err error) bool { return errors.Is(err, unix.EINTR) }
