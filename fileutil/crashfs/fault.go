package crashfs

import (
	"fmt"
	"io"
)

// An OpKind is what an operation does.
type OpKind string

// The operations. Hooks see those up to OpMkdir, which change the file system; faults see all.
const (
	OpCreate      OpKind = "create"      // OpenFile of a name that is not there, with O_CREATE
	OpWrite       OpKind = "write"       // WriteAt: N bytes at Off
	OpTruncate    OpKind = "truncate"    // Truncate to N bytes, or OpenFile with O_TRUNC
	OpPreallocate OpKind = "preallocate" // Preallocate N bytes
	OpSyncData    OpKind = "syncdata"
	OpSyncDir     OpKind = "syncdir" // Sync of a directory
	OpRename      OpKind = "rename"
	OpRemove      OpKind = "remove"
	OpMkdir       OpKind = "mkdir"

	OpOpen      OpKind = "open"
	OpRead      OpKind = "read" // ReadAt: N bytes at Off; and NextData at Off
	OpReadDir   OpKind = "readdir"
	OpStat      OpKind = "stat" // Stat and Size
	OpLock      OpKind = "lock" // Lock and Locked
	OpClose     OpKind = "close"
	OpDropCache OpKind = "dropcache"
)

// Changes reports whether operations of this kind change what a crash can leave.
func (k OpKind) Changes() bool {
	switch k {
	case OpCreate, OpWrite, OpTruncate, OpPreallocate, OpSyncData, OpSyncDir, OpRename, OpRemove, OpMkdir:
		return true
	}
	return false
}

// An Op is one operation.
type Op struct {
	Kind    OpKind
	Name    string // as given by the caller; of a File's operations, as given to OpenFile
	NewName string // of a rename
	Off     int64  // in bytes
	N       int64  // in bytes
	Flag    int    // of an OpenFile
}

// String returns the operation as one line.
func (op Op) String() string {
	switch op.Kind {
	case OpWrite, OpRead:
		return fmt.Sprintf("%s %s [%d,+%d)", op.Kind, op.Name, op.Off, op.N)
	case OpTruncate, OpPreallocate:
		return fmt.Sprintf("%s %s %d", op.Kind, op.Name, op.N)
	case OpRename:
		return fmt.Sprintf("%s %s %s", op.Kind, op.Name, op.NewName)
	}
	return fmt.Sprintf("%s %s", op.Kind, op.Name)
}

// SetHook has before called before, and after called after, each operation that changes the file
// system, also if it fails. Either may be nil. They run outside the FS's lock, in the caller's
// goroutine, so they may use the FS: take a Clone or a Crash at every boundary between operations.
// An operation of a hook calls the hooks again. Clones and crashed copies have no hooks.
func (f *FS) SetHook(before, after func(Op)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

// SetFault has fault called before each operation, outside the FS's lock. The operation fails with
// what it returns, if that is not nil, wrapped as the operating system's errors are: in an
// [*io/fs.PathError], or of a rename in an [*os.LinkError]. Then nothing is changed, with these
// exceptions: a failed close closes; a failed SyncData has the effect that the package describes;
// and a write or a read that fails with [ShortWrite] or [After] is done in part. nil takes the
// fault away. Clones and crashed copies have no faults.
func (f *FS) SetFault(fault func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// Ops returns how many operations that change the file system were done on it, also those that
// failed. It starts from 0 in a clone or a crashed copy.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// ShortWrite returns an error for a fault to return: a write that fails with it first writes n
// bytes, or all if it has fewer. Beyond the end of the file it writes whole sectors only: a file
// that a write was making longer when it was cut short ends at the border of a sector, on ext4,
// xfs, btrfs and tmpfs. It wraps [io.ErrShortWrite].
func ShortWrite(n int) error { return After(n, io.ErrShortWrite) }

// After returns an error for a fault to return: a write or a read that fails with it is first done
// for n bytes, or all if it has fewer. It wraps err. So it goes on a disk that becomes full, or has
// a bad sector, in the middle.
func After(n int, err error) error { return partial{n, err} }

type partial struct {
	n   int
	err error
}

func (p partial) Error() string { return fmt.Sprintf("%v, after %d bytes", p.err, p.n) }
func (p partial) Unwrap() error { return p.err }

// do runs apply under the lock, between the hooks, unless a fault prevents it.
func (f *FS) do(op Op, apply func() error) error {
	return f.try(op, func(fault error) error {
		if fault != nil {
			return fault
		}
		return apply()
	})
}

// try is do for operations that a fault does not prevent altogether: apply is given the fault.
func (f *FS) try(op Op, apply func(fault error) error) error {
	f.mu.Lock()
	before, after, fault := f.before, f.after, f.fault
	f.mu.Unlock()

	changes := op.Kind.Changes()
	if changes && before != nil {
		before(op)
	}
	var err error
	if fault != nil {
		err = fault(op)
	}

	f.mu.Lock()
	err = apply(err)
	if changes {
		f.ops++
	}
	f.mu.Unlock()

	if changes && after != nil {
		after(op)
	}
	return err
}
