package snap

import (
	"errors"
	"fmt"
	"io/fs"
)

// Errors on which a caller may branch. They are wrapped: compare with errors.Is.
var (
	// ErrNoSnapshot says that none of the snapshots that the log records has a good file.
	ErrNoSnapshot = errors.New("no snapshot found")

	// ErrForeign says that a file with the name of a body is something else: etcd's database, or
	// what a later version of this package wrote. It is never removed or replaced: move it away.
	ErrForeign = errors.New("not a body that this version knows")

	// ErrInvalid says that an argument is not valid. Nothing was written.
	ErrInvalid = errors.New("invalid")

	// ErrBusy says that another Writer of this Store is writing a body of the same index.
	ErrBusy = errors.New("a body of this index is being written")

	// ErrClosed is what a Reader or Writer returns after Close. It is fs.ErrClosed.
	ErrClosed = fs.ErrClosed
)

// A CorruptError says that the bytes of a file are not those that were written. A file that cannot
// be read is not corrupt.
type CorruptError struct {
	Name   string // of the file, without its directory; empty if the bytes are not from a file
	Offset int64  // in the file, in bytes, where the damage begins, as far as is known
	Detail string // what is wrong
}

// Error names the file, the offset and the reason.
func (e *CorruptError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("snap: offset %d: %s", e.Offset, e.Detail)
	}
	return fmt.Sprintf("snap: %s: offset %d: %s", e.Name, e.Offset, e.Detail)
}

func corrupt(offset int64, format string, args ...any) *CorruptError {
	return &CorruptError{Offset: offset, Detail: fmt.Sprintf(format, args...)}
}

// isCorrupt reports whether err says that bytes are wrong.
func isCorrupt(err error) bool {
	var c *CorruptError
	return errors.As(err, &c)
}

// fileError puts the name of the file into an error of it, unless the file system has.
func fileError(name string, err error) error {
	var path *fs.PathError
	switch {
	case err == nil:
		return nil
	case isCorrupt(err):
		return named(name, err)
	case errors.As(err, &path):
		return fmt.Errorf("snap: %w", err)
	}
	return fmt.Errorf("snap: %s: %w", name, err)
}

// named puts the name of the file into an error of its bytes.
func named(name string, err error) error {
	var c *CorruptError
	if errors.As(err, &c) && c.Name == "" {
		c.Name = name
		return c
	}
	return err
}
