// Package crashfs is a file system in memory that can lose power.
//
// It implements [fileutil.FS]. A test runs a program on an [FS], and at any moment asks for the
// state that a power cut could leave, with [FS.Crash]: the test chooses among all that are allowed.
// The FS itself goes on, so that one run can be crashed at every operation and in many ways.
//
// # What is assumed of disks
//
// The allowed states are those that follow from these assumptions and no others.
//
//  1. SyncData of a file returned nil: the bytes written to it before, and its size, are there
//     after a crash. Sync of a directory returned nil: the names in it, and what they name, are
//     there. Nothing else makes anything durable; in particular SyncData does not make the file's
//     name durable, and that of a directory neither what the files hold nor the name of the
//     directory itself.
//  2. A sector of 512 bytes, at a multiple of 512 in its file, is the unit that a disk writes. What
//     is written between two syncs is there or not sector by sector, in any combination, whatever
//     the order of the writes. A sector written several times since the last sync may be in any
//     state it had since.
//  3. A sector that was being written may also be torn, its first bytes new and the rest as it was
//     durable; or garbage. But garbage is found only between the first and the last byte that the
//     write changes: the durable bytes before and after them are safe. (This is the assumption
//     SQLite calls powersafe overwrite.)
//  4. Sectors that were not written do not change.
//  5. The size of a file is apart from its bytes. After a crash it is the durable one or any that
//     the file had since. Bytes beyond it are gone. Bytes below it that were never written,
//     preallocated or not, read as zeros; never as what another file left there.
//  6. Each name is apart: it names what it durably named, or anything it named since, or nothing if
//     it did not exist or was removed. A removed name can come back. A rename is two changes, of
//     the new name and of the old: the new name has the old file or the new one; both names may
//     name the file; but a file that had a durable name and was not removed has a name after the
//     crash. When both names lie in different directories, each is made durable by the sync of its
//     own; but syncing the old one alone does not lose the file.
//  7. A SyncData that fails may have made durable any part of what it should have, and what it has
//     not is forgotten without being lost from memory, as on Linux: reads go on to return it, a
//     later SyncData returns nil, and yet it is durable only if it is written again before. The
//     file's size is not forgotten, it waits for the next SyncData; so do names after a sync of
//     their directory that fails.
//
// A write that the power cut interrupts needs nothing of its own: right after the write all its
// sectors are pending, and each can be dropped, torn or kept, so a crash there covers every crash
// within.
//
// These states include many that no real file system leaves, such as a file under both names of a
// rename. A program that survives them all depends on none of the differences.
//
// # Life of a test
//
// [New] or [Load] makes a state; [FS.SetDirect] makes writes as strict as direct ones; [FS.SetHook]
// calls the test around each change, and there it takes crashes; [FS.SetFault] makes operations
// fail; [FS.SetSize] makes the disk one that can be full; [FS.Clone] is what the next process finds
// when a process dies and the machine does not.
package crashfs

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stele-wal/stele/fileutil"
)

// An FS is a file system in memory that can lose power. It implements [fileutil.FS], with the
// errors that Linux returns. Make one with [New], [Load], [FromDir], [FS.Clone] or [FS.Crash].
//
// There is one root: "/a/b", "a/b" and "./a/b" name the same file. There is no umask, and
// permissions are recorded but not enforced. Modification times are zero. Methods may be called
// concurrently.
type FS struct {
	mu     sync.Mutex
	inodes map[inodeID]*inode // all that a name or a handle refers to, and others
	lastID inodeID
	change uint64 // numbers the changes, so that they can be put in the order they were made in
	ops    int
	size   int64             // of the disk; 0 is without end
	direct func(string) bool // see SetDirect; may be nil
	open   map[inodeID]int   // how many handles are open
	locks  map[inodeID]*file // the handle that holds the lock

	before, after func(Op)
	fault         func(Op) error
}

var _ fileutil.FS = (*FS)(nil)

const rootID inodeID = 1

// New returns an empty file system: a root directory, with nothing pending.
func New() *FS {
	f := &FS{lastID: rootID, open: map[inodeID]int{}, locks: map[inodeID]*file{}}
	f.inodes = map[inodeID]*inode{rootID: {dir: true, perm: 0o777}}
	return f
}

// Clone returns a copy with everything that is pending in the original, and without its handles,
// locks, hooks and faults: what the next process finds when this one was killed. Neither changes
// with the other. It shares memory with the original, so that it costs about as much as the number
// of files.
func (f *FS) Clone() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.inodes {
		n.freeze()
	}
	return &FS{
		inodes: maps.Clone(f.inodes),
		lastID: f.lastID,
		change: f.change,
		size:   f.size,
		direct: f.direct,
		open:   map[inodeID]int{},
		locks:  map[inodeID]*file{},
	}
}

// Handles returns how many files are open. After a program has closed what it opened there are
// none.
func (f *FS) Handles() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, open := range f.open {
		n += open
	}
	return n
}

// OpenFile opens a file; see [fileutil.FS]. A directory can be opened for reading, and then neither
// read nor written.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	op := Op{Kind: OpOpen, Name: name, Flag: flag}
	f.mu.Lock()
	switch id, err := f.lookup(name); {
	case err != nil && flag&os.O_CREATE != 0:
		op.Kind = OpCreate
	case err == nil && flag&os.O_TRUNC != 0 && flag&os.O_EXCL == 0 && !f.inodes[id].dir:
		op.Kind = OpTruncate
	}
	f.mu.Unlock()

	var h *file
	err := f.do(op, func() (err error) {
		h, err = f.openFile(name, flag, perm)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return h, nil
}

func (f *FS) openFile(name string, flag int, perm fs.FileMode) (*file, error) {
	const access = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
	d, base, err := f.parent(name)
	if err != nil {
		return nil, err
	}
	id := rootID
	if base != "" {
		id = f.inodes[d].child(base)
	}
	switch {
	case id == 0 && flag&os.O_CREATE == 0:
		return nil, syscall.ENOENT
	case id == 0:
		id = f.create(d, base, &inode{perm: perm.Perm()})
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, syscall.EEXIST
	case f.inodes[id].dir && (flag&access != os.O_RDONLY || flag&(os.O_CREATE|os.O_TRUNC) != 0):
		return nil, syscall.EISDIR
	case flag&os.O_TRUNC != 0:
		f.own(id).truncate(0, f.next)
	}
	f.open[id]++
	return &file{
		fs:      f,
		id:      id,
		name:    name,
		dir:     f.inodes[id].dir,
		reads:   flag&access != os.O_WRONLY,
		writes:  flag&access != os.O_RDONLY,
		append_: flag&os.O_APPEND != 0,
		direct:  f.direct != nil && f.direct(name),
	}, nil
}

// ReadDir lists a directory; see [fileutil.FS].
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	var list []fs.DirEntry
	err := f.do(Op{Kind: OpReadDir, Name: name}, func() error {
		id, err := f.lookup(name)
		if err != nil {
			return err
		}
		if !f.inodes[id].dir {
			return syscall.ENOTDIR
		}
		for _, e := range f.inodes[id].entries {
			if e.live != 0 {
				list = append(list, fs.FileInfoToDirEntry(f.info(e.live, e.name)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return list, nil
}

// Stat describes a file; see [fileutil.FS].
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	var info fs.FileInfo
	err := f.do(Op{Kind: OpStat, Name: name}, func() error {
		id, err := f.lookup(name)
		if err == nil {
			info = f.info(id, path.Base(clean(name)))
		}
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return info, nil
}

// Mkdir makes a directory; see [fileutil.FS].
func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	err := f.do(Op{Kind: OpMkdir, Name: name}, func() error {
		d, base, err := f.parent(name)
		if err != nil {
			return err
		}
		if base == "" || f.inodes[d].child(base) != 0 {
			return syscall.EEXIST
		}
		f.create(d, base, &inode{dir: true, perm: perm.Perm()})
		return nil
	})
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return nil
}

// Rename renames a file or a directory; see [fileutil.FS]. As with [os.Rename] on Linux, newpath
// must not be a directory.
func (f *FS) Rename(oldpath, newpath string) error {
	err := f.do(Op{Kind: OpRename, Name: oldpath, NewName: newpath}, func() error {
		return f.rename(oldpath, newpath)
	})
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldpath, New: newpath, Err: err}
	}
	return nil
}

func (f *FS) rename(oldpath, newpath string) error {
	id, err := f.lookup(oldpath)
	if err != nil {
		return err
	}
	oldDir, oldName, _ := f.parent(oldpath)
	newDir, newName, err := f.parent(newpath)
	if err != nil {
		return err
	}
	if newName == "" {
		return syscall.EEXIST
	}
	if oldName == "" || f.inodes[id].dir && strings.HasPrefix(clean(newpath)+"/", clean(oldpath)+"/") && clean(newpath) != clean(oldpath) {
		return syscall.EINVAL // a directory cannot move into itself
	}
	switch over := f.inodes[newDir].child(newName); {
	case over == 0:
	case f.inodes[over].dir:
		return syscall.EEXIST
	case f.inodes[id].dir:
		return syscall.ENOTDIR
	case over == id:
		return nil // two names of one file, which a crash can leave: rename(2) does nothing
	}
	// The new name is the first change, so that a crash that keeps the changes up to some point
	// keeps the file.
	f.own(newDir).setName(newName, id, f.next())
	f.own(oldDir).setName(oldName, 0, f.next())
	return nil
}

// Remove removes a file or an empty directory; see [fileutil.FS].
func (f *FS) Remove(name string) error {
	err := f.do(Op{Kind: OpRemove, Name: name}, func() error {
		id, err := f.lookup(name)
		if err != nil {
			return err
		}
		if id == rootID {
			return syscall.EBUSY
		}
		if slices.ContainsFunc(f.inodes[id].entries, func(e entry) bool { return e.live != 0 }) {
			return syscall.ENOTEMPTY
		}
		d, base, _ := f.parent(name)
		f.own(d).setName(base, 0, f.next())
		return nil
	})
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// OpenDir opens a directory; see [fileutil.FS].
func (f *FS) OpenDir(name string) (fileutil.Dir, error) {
	var h *file
	err := f.do(Op{Kind: OpOpen, Name: name}, func() (err error) {
		if id, err := f.lookup(name); err == nil && !f.inodes[id].dir {
			return syscall.ENOTDIR
		}
		h, err = f.openFile(name, os.O_RDONLY, 0)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return dir{h}, nil
}

// syncNames makes the names in directory d durable.
//
// A file that was renamed out of d loses its durable name by that. Its new name becomes durable
// with it, for a file must not be lost by a rename.
func (f *FS) syncNames(d inodeID) {
	keep := f.survivors()
	n := f.own(d)
	for i := range n.entries {
		n.entries[i].sync()
	}
	n.dropEmpty()
	f.keepNamed(keep)
	f.sweep()
}

// sweep forgets the inodes that no name can refer to any more, after any crash, and no handle does.
func (f *FS) sweep() {
	named := f.walk(anyNames)
	for id := range f.inodes {
		if f.open[id] == 0 && !named.has(id) {
			delete(f.inodes, id)
		}
	}
}

// own returns the inode, which the caller may change: a copy if others share it.
func (f *FS) own(id inodeID) *inode {
	n := f.inodes[id]
	if n.frozen.Load() {
		n = n.thaw()
		f.inodes[id] = n
	}
	return n
}

// next numbers a change.
func (f *FS) next() uint64 {
	f.change++
	return f.change
}

// create gives a new inode a name.
func (f *FS) create(dir inodeID, name string, n *inode) inodeID {
	f.lastID++
	f.inodes[f.lastID] = n
	f.own(dir).setName(name, f.lastID, f.next())
	return f.lastID
}

// lookup finds what a name names now.
func (f *FS) lookup(name string) (inodeID, error) {
	d, base, err := f.parent(name)
	if err != nil {
		return 0, err
	}
	if base == "" {
		return rootID, nil
	}
	id := f.inodes[d].child(base)
	if id == 0 {
		return 0, syscall.ENOENT
	}
	return id, nil
}

// parent finds the directory that holds a name, and the last part of the name, which is empty for
// the root.
func (f *FS) parent(name string) (inodeID, string, error) {
	rest := clean(name)
	d := rootID
	for {
		part, after, more := strings.Cut(rest, "/")
		if !more {
			return d, part, nil
		}
		d = f.inodes[d].child(part)
		if d == 0 {
			return 0, "", syscall.ENOENT
		}
		if !f.inodes[d].dir {
			return 0, "", syscall.ENOTDIR
		}
		rest = after
	}
}

// clean returns a name as parts with slashes between, from the root; the root itself is empty.
func clean(name string) string {
	name = filepath.ToSlash(name[len(filepath.VolumeName(name)):])
	return path.Clean("/" + name)[1:]
}

func (f *FS) info(id inodeID, name string) fs.FileInfo {
	n := f.inodes[id]
	i := info{name: name, size: n.size, mode: n.perm}
	if n.dir {
		i.mode |= fs.ModeDir
	}
	return i
}

type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) Sys() any           { return nil }
