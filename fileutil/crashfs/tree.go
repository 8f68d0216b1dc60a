package crashfs

import (
	"encoding/binary"
	"hash/maphash"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// What a test puts on the disk, and looks at there, beside the program that it tests.

// Load returns a file system that holds these files, all durable. The keys are their names; a key
// that ends in a slash is a directory, which is needed only if it is empty. The data are copied.
func Load(files map[string][]byte) *FS {
	f := New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "/") {
			f.mkdirAll(name)
		} else {
			f.WriteFile(name, files[name])
		}
	}
	return f
}

// FromDir returns a file system whose root holds what the directory dir of the operating system
// holds, regular files and directories, all durable. It reads every file whole. Its errors are
// those of the operating system.
func FromDir(dir string) (*FS, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		switch {
		case rel == ".":
		case e.IsDir():
			files[rel+"/"] = nil
		case e.Type().IsRegular():
			files[rel], err = os.ReadFile(name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return Load(files), nil
}

// WriteFile makes data the content of the file called name, and it and the directories above it
// durable. It is for setting the stage: hooks and faults do not see it. It panics if the name
// cannot be a file.
func (f *FS) WriteFile(name string, data []byte) {
	f.mkdirAll(path.Dir(clean(name)))
	f.mu.Lock()
	defer f.mu.Unlock()
	d, base, err := f.parent(name)
	if err != nil {
		panic(err)
	}
	id := f.inodes[d].child(base)
	if id == 0 {
		id = f.create(d, base, &inode{perm: 0o600})
	}
	if f.inodes[id].dir {
		panic("crashfs: " + name + " is a directory")
	}
	n := f.own(id)
	n.truncate(0, f.next)
	n.write(data, 0, f.next)
	n.sync()
	f.own(d).syncName(base)
}

// mkdirAll makes a directory and those above it, durable.
func (f *FS) mkdirAll(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := rootID
	for part := range strings.SplitSeq(clean(name), "/") {
		if part == "" {
			continue
		}
		id := f.inodes[d].child(part)
		if id == 0 {
			id = f.create(d, part, &inode{dir: true, perm: 0o700})
		}
		f.own(d).syncName(part)
		d = id
	}
}

// ReadFile returns the content of the file called name, as a reader sees it now. Hooks and faults
// do not see it. The error wraps fs.ErrNotExist if the name is not there.
func (f *FS) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, err := f.lookup(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	n := f.inodes[id]
	if n.dir {
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	return n.content(), nil
}

// Tree returns every file as a reader sees it now, by its name from the root without a leading
// slash. A directory has a name that ends in a slash and no data. Hooks and faults do not see it.
func (f *FS) Tree() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	tree := map[string][]byte{}
	f.tree(tree, rootID, "")
	return tree
}

func (f *FS) tree(tree map[string][]byte, dir inodeID, prefix string) {
	for _, e := range f.inodes[dir].entries {
		switch {
		case e.live == 0:
		case f.inodes[e.live].dir:
			tree[prefix+e.name+"/"] = nil
			f.tree(tree, e.live, prefix+e.name+"/")
		default:
			tree[prefix+e.name] = f.inodes[e.live].content()
		}
	}
}

// Sum returns a hash of the Tree. File systems whose trees are the same have the same sum, with the
// same seed, and others have not, except by chance. It costs much less than the Tree. Hooks and
// faults do not see it.
func (f *FS) Sum(seed maphash.Seed) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var h maphash.Hash
	h.SetSeed(seed)
	f.sum(&h, rootID)
	return h.Sum64()
}

func (f *FS) sum(h *maphash.Hash, dir inodeID) {
	var word [8]byte
	number := func(n int64) {
		binary.LittleEndian.PutUint64(word[:], uint64(n))
		h.Write(word[:])
	}
	for _, e := range f.inodes[dir].entries {
		if e.live == 0 {
			continue
		}
		number(int64(len(e.name)))
		h.WriteString(e.name)
		n := f.inodes[e.live]
		if n.dir {
			number(-1)
			f.sum(h, e.live)
			number(-2)
			continue
		}
		number(n.size)
		for i, s := range n.live {
			if s != nil && *s != zeros {
				number(int64(i))
				h.Write(s[:])
			}
		}
		number(-3)
	}
}
