package crashfs

import "unsafe"

// directUnit is what every disk and file system takes as the unit of direct writes. Many take less.
const directUnit = 4096

// SetDirect makes writes to some files as strict as direct writes are on Linux, of files that are
// opened with O_DIRECT: offset, length and address in memory must be multiples of 4096. Others fail
// with EINVAL and write nothing. is reports, at OpenFile, whether the file of that name is meant.
// It must not call the FS.
//
// Clones and crashed copies do the same as the original.
func (f *FS) SetDirect(is func(name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.direct = is
}

func aligned(b []byte, off int64) bool {
	address := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return off%directUnit == 0 && len(b)%directUnit == 0 && address%directUnit == 0
}
