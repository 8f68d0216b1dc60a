package crashfs

import (
	"errors"
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"

	"github.com/stele-wal/stele/fileutil"
)

// A file is a handle. It refers to its inode by number, because the FS replaces an inode that it
// shares before it changes it.
type file struct {
	fs                          *FS
	id                          inodeID
	name                        string
	dir, reads, writes, append_ bool
	direct                      bool
	closed                      atomic.Bool
}

// maxSize bounds a write, so that a wrong offset is an error and not a table of pointers without
// end.
const maxSize = 1 << 32

// The os package says the same, with errors that it does not export.
var (
	errNegative = errors.New("negative offset")
	errAppend   = errors.New("WriteAt on a file opened with O_APPEND")
)

func (h *file) Name() string { return h.name }

func (h *file) ReadAt(b []byte, off int64) (n int, err error) {
	err = h.try("read", Op{Kind: OpRead, Off: off, N: int64(len(b))}, func(fault error) error {
		var part partial
		if fault != nil && !errors.As(fault, &part) {
			return fault
		}
		switch {
		case h.dir:
			return syscall.EISDIR
		case !h.reads:
			return syscall.EBADF
		case off < 0:
			return errNegative
		}
		if fault != nil {
			b = b[:min(len(b), part.n)]
		}
		n = h.inode().read(b, off)
		return fault
	})
	if err == nil && n < len(b) {
		err = io.EOF
	}
	return n, err
}

func (h *file) WriteAt(b []byte, off int64) (n int, err error) {
	err = h.try("write", Op{Kind: OpWrite, Off: off, N: int64(len(b))}, func(fault error) error {
		var part partial
		if fault != nil && !errors.As(fault, &part) {
			return fault
		}
		switch {
		case !h.writes:
			return syscall.EBADF
		case h.append_:
			return errAppend
		case off < 0:
			return errNegative
		case h.direct && !aligned(b, off):
			return syscall.EINVAL
		case off+int64(len(b)) > maxSize:
			return syscall.EFBIG
		}
		n = len(b)
		if fault != nil {
			n = min(n, part.n)
			if end, size := off+int64(n), h.inode().size; n < len(b) && end > size {
				n = int(max(0, max(size, end/sectorSize*sectorSize)-off)) // a file grows by sectors
			}
		}
		if fits := int(h.fs.fits(h.inode(), off, int64(n))); fits < n {
			n, fault = fits, syscall.ENOSPC
		}
		h.own().write(b[:n], off, h.fs.next)
		return fault
	})
	return n, err
}

func (h *file) Size() (size int64, err error) {
	err = h.do("stat", Op{Kind: OpStat}, func() error {
		size = h.inode().size
		return nil
	})
	return size, err
}

func (h *file) Truncate(size int64) error {
	return h.do("truncate", Op{Kind: OpTruncate, N: size}, func() error {
		if size < 0 || !h.writes {
			return syscall.EINVAL
		}
		h.own().truncate(size, h.fs.next)
		return nil
	})
}

func (h *file) Preallocate(size int64) error {
	return h.do("preallocate", Op{Kind: OpPreallocate, N: size}, func() error {
		switch {
		case size == 0:
			return nil
		case size < 0:
			return syscall.EINVAL
		case !h.writes:
			return syscall.EBADF
		}
		if err := h.fs.reserve(h.own(), size); err != nil {
			return err
		}
		if size > h.inode().size {
			h.own().truncate(size, h.fs.next)
		}
		return nil
	})
}

func (h *file) SyncData() error {
	return h.try("fdatasync", Op{Kind: OpSyncData}, func(fault error) error {
		if fault != nil {
			h.own().failSync()
			return fault
		}
		h.own().sync() // from here on the data survive a crash
		return nil
	})
}

func (h *file) Lock() error {
	return h.do("lock", Op{Kind: OpLock}, func() error {
		if !h.writes {
			return syscall.EBADF
		}
		if holder := h.fs.locks[h.id]; holder != nil && holder != h {
			return fileutil.ErrLocked
		}
		h.fs.locks[h.id] = h
		return nil
	})
}

func (h *file) Locked() (held bool, err error) {
	err = h.do("query lock of", Op{Kind: OpLock}, func() error {
		holder := h.fs.locks[h.id]
		held = holder != nil && holder != h
		return nil
	})
	return held, err
}

func (h *file) NextData(off int64) (next int64, err error) {
	err = h.do("seek", Op{Kind: OpRead, Off: off}, func() error {
		if off < 0 {
			return syscall.EINVAL
		}
		next = h.inode().nextData(off)
		return nil
	})
	return next, err
}

func (h *file) DropCache() error {
	return h.do("drop cache of", Op{Kind: OpDropCache}, func() error {
		h.own().dropCache()
		return nil
	})
}

func (h *file) Close() error {
	return h.try("close", Op{Kind: OpClose}, func(fault error) error {
		if h.closed.Swap(true) {
			return fs.ErrClosed
		}
		f := h.fs
		if f.locks[h.id] == h {
			delete(f.locks, h.id)
		}
		if f.open[h.id]--; f.open[h.id] == 0 {
			delete(f.open, h.id)
		}
		return fault
	})
}

// A dir is the handle of a directory. It is open as a file is.
type dir struct{ h *file }

// Sync makes the names in the directory durable; see [fileutil.Dir]. If a fault makes it fail, the
// names stay pending, and a later Sync can make them durable.
func (d dir) Sync() error {
	return d.h.do("fsync", Op{Kind: OpSyncDir}, func() error {
		d.h.fs.syncNames(d.h.id)
		return nil
	})
}

func (d dir) Close() error { return d.h.Close() }

func (h *file) inode() *inode { return h.fs.inodes[h.id] }
func (h *file) own() *inode   { return h.fs.own(h.id) }

// do is FS.do for an operation on this handle.
func (h *file) do(verb string, op Op, apply func() error) error {
	return h.try(verb, op, func(fault error) error {
		if fault != nil {
			return fault
		}
		return apply()
	})
}

// try is FS.try for an operation on this handle: it refuses if the handle is closed, and names the
// file in the error.
func (h *file) try(verb string, op Op, apply func(fault error) error) error {
	op.Name = h.name
	err := fs.ErrClosed
	if !h.closed.Load() {
		err = h.fs.try(op, func(fault error) error {
			if h.closed.Load() && op.Kind != OpClose {
				return fs.ErrClosed // by another goroutine, or by a hook
			}
			return apply(fault)
		})
	}
	if err != nil {
		return &fs.PathError{Op: verb, Path: h.name, Err: err}
	}
	return nil
}
