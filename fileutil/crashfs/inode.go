package crashfs

import (
	"bytes"
	"cmp"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
)

const sectorSize = 512

// A sector is never changed once a table refers to it, so that tables can share it. nil stands for
// zeros.
type sector = [sectorSize]byte

var zeros sector

// An inodeID names an inode within one FS, and the same inode in its clones. 0 names none.
type inodeID uint64

// An inode is a file or a directory, apart from its names.
//
// Clones share inodes. One that is frozen never changes again: thaw makes a copy to be changed.
type inode struct {
	frozen atomic.Bool
	dir    bool
	perm   fs.FileMode

	// Of a file. A table holds the sectors from the first on, and ends where only zeros follow.
	// They are zero beyond the size.
	size, durableSize     int64
	reserved              int64           // its first bytes up to here have space
	sizes                 []sizeVersion   // pending, oldest first
	live, durable         []*sector       // what is read; what SyncData made durable
	ownsLive, ownsDurable bool            // no clone shares the table
	sectors               []pendingSector // by index; those whose durable state is not certain

	// Of a directory.
	entries []entry // sorted by name; also those that a crash may bring back
}

type sizeVersion struct {
	size   int64
	change uint64
}

// A pendingSector is a sector with what was written to it since it was durable, oldest first.
type pendingSector struct {
	index    int
	versions []sectorVersion
	// The first clean versions were there when a SyncData failed. If all are, the system takes the
	// sector for written, and no SyncData will write it.
	clean int
}

type sectorVersion struct {
	data   *sector
	change uint64
}

// An entry is a name in a directory.
type entry struct {
	name          string
	live, durable inodeID
	versions      []nameVersion // pending, oldest first
}

type nameVersion struct {
	id     inodeID
	change uint64
}

// freeze makes the inode one that can be shared.
func (n *inode) freeze() {
	if !n.frozen.Load() { // only reading, as a rule: clones in other goroutines read it too
		n.frozen.Store(true)
	}
}

// thaw returns a copy that may be changed.
func (n *inode) thaw() *inode {
	c := &inode{
		dir: n.dir, perm: n.perm,
		size: n.size, durableSize: n.durableSize, reserved: n.reserved,
		sizes: slices.Clip(n.sizes),
		live:  n.live, durable: n.durable,
		sectors: slices.Clone(n.sectors),
		entries: slices.Clone(n.entries),
	}
	// An append must not write into an array that another copy appends to as well.
	for i := range c.sectors {
		c.sectors[i].versions = slices.Clip(c.sectors[i].versions)
	}
	for i := range c.entries {
		c.entries[i].versions = slices.Clip(c.entries[i].versions)
	}
	return c
}

// content returns what the file holds.
func (n *inode) content() []byte {
	b := make([]byte, n.size)
	n.read(b, 0)
	return b
}

// read reads from off, and returns how much there was.
func (n *inode) read(b []byte, off int64) int {
	if off >= n.size {
		return 0
	}
	b = b[:min(int64(len(b)), n.size-off)]
	for done := 0; done < len(b); {
		pos := off + int64(done)
		i, at := int(pos/sectorSize), int(pos%sectorSize)
		if i >= len(n.live) {
			clear(b[done:])
			break
		}
		src := n.live[i]
		if src == nil {
			src = &zeros
		}
		done += copy(b[done:], src[at:])
	}
	return len(b)
}

// nextData returns where the next sector begins that is not zero, but not before off.
func (n *inode) nextData(off int64) int64 {
	for i := int(min(off/sectorSize, int64(len(n.live)))); i < len(n.live); i++ {
		if n.live[i] != nil {
			return max(off, int64(i)*sectorSize)
		}
	}
	return max(off, n.size)
}

// write writes b at off. change numbers each change.
func (n *inode) write(b []byte, off int64, change func() uint64) {
	if len(b) == 0 {
		return
	}
	end := off + int64(len(b))
	if end > n.size {
		n.setSize(end, change())
	}
	first, last := int(off/sectorSize), int((end-1)/sectorSize)
	// One allocation each, however many sectors.
	fresh := make([]sector, 0, last-first+1)
	versions := make([]sectorVersion, 0, last-first+1)
	for i := first; i <= last; i++ {
		at := max(0, off-int64(i)*sectorSize)
		fresh = fresh[:len(fresh)+1]
		s := &fresh[len(fresh)-1]
		if old := get(n.live, i); old != nil {
			*s = *old
		}
		b = b[copy(s[at:], b):]
		versions = n.put(i, s, change, versions)
	}
}

// truncate sets the size, and zeros what is beyond it.
func (n *inode) truncate(size int64, change func() uint64) {
	if size == n.size {
		return
	}
	n.setSize(size, change())
	n.reserved = min(n.reserved, size)
	if cut := int(size / sectorSize); cut < len(n.live) {
		for i := cut; i < len(n.live); i++ {
			if n.live[i] == nil {
				continue
			}
			var s sector
			if i == cut {
				copy(s[:size%sectorSize], n.live[i][:])
			}
			n.put(i, &s, change, nil)
		}
		n.live = trim(n.live)
	}
}

func (n *inode) setSize(size int64, change uint64) {
	n.size = size
	n.sizes = append(n.sizes, sizeVersion{size, change})
}

// put makes s the content of sector i, pending. s may be zero but not nil, and is not changed
// afterwards. The version is taken from the spare capacity of the array, which is returned with
// what is left.
func (n *inode) put(i int, s *sector, change func() uint64, array []sectorVersion) []sectorVersion {
	at, found := slices.BinarySearchFunc(n.sectors, i, func(p pendingSector, i int) int { return cmp.Compare(p.index, i) })
	clean := found && n.sectors[at].clean == len(n.sectors[at].versions)
	old := get(n.live, i)
	if !clean && (old == nil && *s == zeros || old != nil && *s == *old) {
		return array // the same bytes again make no state that is not there already
	}
	if *s == zeros {
		s = nil
	}
	if !n.ownsLive {
		n.live, n.ownsLive = slices.Clone(n.live), true
	}
	n.live = set(n.live, i, s)

	v := sectorVersion{s, change()}
	if found {
		p := &n.sectors[at]
		p.versions = append(p.versions, v)
		return array
	}
	array = append(array, v)
	k := len(array)
	n.sectors = slices.Insert(n.sectors, at, pendingSector{index: i, versions: array[k-1 : k : k]})
	return array
}

// sync makes data and size durable, except sectors that were there when an earlier sync failed and
// were not written since.
func (n *inode) sync() {
	n.durableSize, n.sizes = n.size, nil
	if len(n.sectors) == 0 {
		return
	}
	if !n.ownsDurable {
		n.durable, n.ownsDurable = slices.Clone(n.durable), true
	}
	kept := n.sectors[:0]
	for _, p := range n.sectors {
		if p.clean == len(p.versions) {
			kept = append(kept, p)
			continue
		}
		n.durable = set(n.durable, p.index, get(n.live, p.index))
	}
	clear(n.sectors[len(kept):])
	n.sectors = kept
	n.durable = trim(n.durable)
}

// failSync is a sync that fails: the system forgets that the sectors were to be written.
func (n *inode) failSync() {
	for i := range n.sectors {
		n.sectors[i].clean = len(n.sectors[i].versions)
	}
}

// dropCache forgets the sectors that a failed sync did not write. They had not reached the disk, so
// what was durable is read again, unless the file has become too short for it.
func (n *inode) dropCache() {
	kept := n.sectors[:0]
	for _, p := range n.sectors {
		durable := get(n.durable, p.index)
		if p.clean < len(p.versions) || !fits(durable, n.size-int64(p.index)*sectorSize) {
			kept = append(kept, p)
			continue
		}
		if !n.ownsLive {
			n.live, n.ownsLive = slices.Clone(n.live), true
		}
		n.live = set(n.live, p.index, durable)
	}
	clear(n.sectors[len(kept):])
	n.sectors = kept
	n.live = trim(n.live)
}

// fits reports whether a sector is zero after its first n bytes.
func fits(s *sector, n int64) bool {
	if s == nil || n >= sectorSize {
		return true
	}
	n = max(n, 0)
	return bytes.Equal(s[n:], zeros[n:])
}

// get returns sector i of a table.
func get(table []*sector, i int) *sector {
	if i < len(table) {
		return table[i]
	}
	return nil
}

// set sets sector i of a table, which may grow.
func set(table []*sector, i int, s *sector) []*sector {
	if i >= len(table) {
		if s == nil {
			return table
		}
		table = append(table, make([]*sector, i+1-len(table))...)
	}
	table[i] = s
	return table
}

// trim takes zeros off the end of a table.
func trim(table []*sector) []*sector {
	for len(table) > 0 && table[len(table)-1] == nil {
		table = table[:len(table)-1]
	}
	return table
}

// child returns what a name in a directory names now, or 0.
func (n *inode) child(name string) inodeID {
	if i, ok := n.find(name); ok {
		return n.entries[i].live
	}
	return 0
}

func (n *inode) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.entries, name, func(e entry, name string) int { return strings.Compare(e.name, name) })
}

// setName makes a name name another inode, or none, pending.
func (n *inode) setName(name string, id inodeID, change uint64) {
	i, ok := n.find(name)
	if !ok {
		n.entries = slices.Insert(n.entries, i, entry{name: name})
	}
	e := &n.entries[i]
	e.live = id
	e.versions = append(e.versions, nameVersion{id, change})
}

// syncName makes one name durable as it is.
func (n *inode) syncName(name string) {
	if i, ok := n.find(name); ok {
		n.entries[i].sync()
	}
}

func (e *entry) sync() { e.durable, e.versions = e.live, nil }

// dropEmpty drops names that name nothing and will not after a crash.
func (n *inode) dropEmpty() {
	n.entries = slices.DeleteFunc(n.entries, func(e entry) bool {
		return e.live == 0 && e.durable == 0 && len(e.versions) == 0
	})
}
