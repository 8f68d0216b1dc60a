package fileutil

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// OS is the file system of the operating system. Its errors and guarantees are those of [FS] and
// [File].
type OS struct{}

var _ FS = OS{}

// OpenFile opens a file; see [FS].
func (OS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// ReadDir lists a directory; see [FS].
func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

// Stat describes a file; see [FS].
func (OS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// Mkdir makes a directory; see [FS].
func (OS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

// Rename renames a file; see [FS].
func (OS) Rename(oldpath, newpath string) error { return os.Rename(oldpath, newpath) }

// Remove removes a file or an empty directory; see [FS].
func (OS) Remove(name string) error { return os.Remove(name) }

// OpenDir opens a directory; see [FS].
func (OS) OpenDir(name string) (Dir, error) { return openDir(name) }

// osFile hides the rest of [os.File]: what a caller cannot reach, crashfs need not imitate. Its
// methods use only positional reads and writes, so the file's offset means nothing, and NextData
// may move it.
type osFile struct{ f *os.File }

func (o osFile) ReadAt(b []byte, off int64) (int, error)  { return o.f.ReadAt(b, off) }
func (o osFile) WriteAt(b []byte, off int64) (int, error) { return o.f.WriteAt(b, off) }
func (o osFile) Close() error                             { return o.f.Close() }
func (o osFile) Name() string                             { return o.f.Name() }
func (o osFile) Truncate(size int64) error                { return o.f.Truncate(size) }

func (o osFile) Size() (int64, error) {
	info, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (o osFile) Preallocate(size int64) error {
	before, err := o.Size()
	if err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	err = o.control("preallocate", func(fd uintptr) error { return preallocate(fd, size) })
	if errors.Is(err, errors.ErrUnsupported) {
		if size <= before {
			return nil
		}
		return o.f.Truncate(size)
	}
	if err == nil {
		return nil
	}
	// ext4 gives up in the middle when the disk is full, and keeps the size that it had reached.
	if after, err2 := o.Size(); err2 == nil && after > before {
		if err2 := o.f.Truncate(before); err2 != nil {
			return errors.Join(err, err2)
		}
	}
	return err
}

func (o osFile) SyncData() error { return syncData(o) }

func (o osFile) Lock() error { return o.control("lock", lock) }

func (o osFile) Locked() (held bool, err error) {
	err = o.control("query lock of", func(fd uintptr) error {
		held, err = locked(fd)
		return err
	})
	return held, err
}

func (o osFile) NextData(off int64) (int64, error) {
	size, err := o.Size()
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, &fs.PathError{Op: "seek", Path: o.Name(), Err: syscall.EINVAL}
	}
	if off >= size {
		return off, nil
	}
	next := off
	err = o.control("seek", func(fd uintptr) error {
		next, err = nextData(fd, off, size)
		return err
	})
	return next, err
}

func (o osFile) DropCache() error { return o.control("drop cache of", dropCache) }

// control calls f with the descriptor, which stays open meanwhile even if another goroutine closes
// the file, and again for as long as a signal interrupts it. It names the file in the error.
func (o osFile) control(op string, f func(fd uintptr) error) error {
	c, err := o.f.SyscallConn()
	if err != nil {
		return &fs.PathError{Op: op, Path: o.Name(), Err: err}
	}
	var ferr error
	err = c.Control(func(fd uintptr) {
		for {
			if ferr = f(fd); !interrupted(ferr) {
				return
			}
		}
	})
	if err == nil {
		err = ferr
	}
	if err == nil {
		return nil
	}
	// The runtime reports a closed file by an error of its own, which is unexported.
	if _, err2 := o.f.Stat(); errors.Is(err2, fs.ErrClosed) {
		err = fs.ErrClosed
	}
	return &fs.PathError{Op: op, Path: o.Name(), Err: err}
}
