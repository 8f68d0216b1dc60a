//go:build unix && !linux

package fileutil

import (
	"errors"

	"golang.org/x/sys/unix"
)

// lock takes a BSD lock, as etcd does on these systems.
func lock(fd uintptr) error {
	err := unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// locked cannot know: a BSD lock can be asked for only by taking it.
func locked(uintptr) (bool, error) { return false, nil }

func preallocate(uintptr, int64) error { return errors.ErrUnsupported }

func nextData(_ uintptr, off, _ int64) (int64, error) { return off, nil }

func dropCache(uintptr) error { return nil }

func interrupted(err error) bool { return errors.Is(err, unix.EINTR) }
