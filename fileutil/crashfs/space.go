package crashfs

import "syscall"

// blockSize is what space is given out in.
const blockSize = 4096

// SetSize gives the disk a size in bytes; 0, the default, is without end. Then a write or a
// Preallocate for which there is no space fails with ENOSPC, the write after as much as there is
// space for. Space is used by the blocks of 4096 bytes of each file that were preallocated or are
// written and not zero, as long as the file has a name for a reader or is open. Names and
// directories use none.
//
// Clones and crashed copies have the size of the original: a full disk is full after a restart.
// What a crash brings back may be more than the size; then nothing can be written but where there
// is space reserved, until enough is removed.
func (f *FS) SetSize(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = n
}

// Size returns the size that SetSize has given.
func (f *FS) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

// Used returns how much of the disk's space is used, in bytes.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used() * blockSize
}

// used returns it in blocks.
func (f *FS) used() (blocks int64) {
	named := f.walk(liveNames)
	for id, n := range f.inodes {
		if f.open[id] > 0 || named.has(id) {
			blocks += int64(len(n.blocks())) + blocksOf(n.reserved)
		}
	}
	return blocks
}

// fits returns how many of the count bytes of a file from off on there is space for.
func (f *FS) fits(n *inode, off, count int64) int64 {
	if f.size == 0 || count == 0 {
		return count
	}
	free := f.size/blockSize - f.used()
	written := n.blocks()
	for block := max(off/blockSize, blocksOf(n.reserved)); block <= (off+count-1)/blockSize; block++ {
		if written[block] {
			continue
		}
		if free--; free < 0 {
			return max(0, block*blockSize-off)
		}
	}
	return count
}

// reserve gives a file the space for its first size bytes.
func (f *FS) reserve(n *inode, size int64) error {
	if size <= n.reserved {
		return nil
	}
	if f.fits(n, 0, size) < size {
		return syscall.ENOSPC
	}
	n.reserved = size
	return nil
}

// blocks returns which blocks of a file are written, after what is reserved.
func (n *inode) blocks() map[int64]bool {
	var written map[int64]bool
	for i := blocksOf(n.reserved) * blockSize / sectorSize; i < int64(len(n.live)); i++ {
		if n.live[i] != nil {
			if written == nil {
				written = map[int64]bool{}
			}
			written[i*sectorSize/blockSize] = true
		}
	}
	return written
}

func blocksOf(size int64) int64 { return (size + blockSize - 1) / blockSize }
