// Package disk is a disk in memory that remembers in which order it was written.
//
// An [Image] is what is on a disk. A [Disk] is one at work: it records a [Trace] of what was
// written and when the writes were flushed. A [Cut] says at which place in the trace the power
// fails and which of the writes that no flush covered are there all the same; the image that it
// leaves is built from the trace.
//
// The package knows no kernel; package rig shows a Disk to one.
package disk

import "fmt"

const (
	// SectorSize is the size in bytes of what a disk writes whole, as file systems assume.
	SectorSize = 512

	pageSize = 4096
)

// An Image is the content of a disk. What was never written reads as zeros and takes no memory, and
// a Clone takes memory only for what is written to it or to the original from then on. It is not
// for concurrent use.
type Image struct {
	size  int64
	pages []*[pageSize]byte // nil is all zeros
	own   []bool            // pages that no other Image has
}

// NewImage returns an Image of size bytes, all zero. The size is a whole number of pages of 4096
// bytes.
func NewImage(size int64) *Image {
	if size <= 0 || size%pageSize != 0 {
		panic(fmt.Sprintf("disk: an image of %d bytes", size))
	}
	n := size / pageSize
	return &Image{size: size, pages: make([]*[pageSize]byte, n), own: make([]bool, n)}
}

// Size returns the size in bytes.
func (m *Image) Size() int64 { return m.size }

// Clone returns an Image with the same content.
func (m *Image) Clone() *Image {
	clear(m.own) // from now on they are the clone's as well
	c := &Image{size: m.size, pages: make([]*[pageSize]byte, len(m.pages)), own: make([]bool, len(m.own))}
	copy(c.pages, m.pages)
	return c
}

// ReadAt fills b from offset off. It returns how many bytes there are up to the end of the disk, at
// most len(b), and never an error.
func (m *Image) ReadAt(b []byte, off int64) int {
	n := 0
	for n < len(b) && off < m.size {
		from := off % pageSize
		part := b[n:min(len(b), n+int(pageSize-from))]
		if p := m.pages[off/pageSize]; p != nil {
			copy(part, p[from:])
		} else {
			clear(part)
		}
		n += len(part)
		off += int64(len(part))
	}
	return n
}

// WriteAt writes b at offset off. What lies beyond the end of the disk is left out.
func (m *Image) WriteAt(b []byte, off int64) {
	for len(b) > 0 && off < m.size {
		n := copy(m.page(off / pageSize)[off%pageSize:], b)
		b = b[n:]
		off += int64(n)
	}
}

// Zero makes n bytes at offset off read as zeros.
func (m *Image) Zero(off, n int64) {
	for end := min(off+n, m.size); off < end; {
		next := min(off-off%pageSize+pageSize, end)
		switch i := off / pageSize; {
		case next-off == pageSize:
			m.pages[i], m.own[i] = nil, false
		case m.pages[i] != nil:
			from := off % pageSize
			clear(m.page(i)[from : from+next-off])
		}
		off = next
	}
}

// page returns a page to write to.
func (m *Image) page(i int64) *[pageSize]byte {
	switch p := m.pages[i]; {
	case p == nil:
		m.pages[i] = new([pageSize]byte)
	case m.own[i]:
		return p
	default:
		shared := *p
		m.pages[i] = &shared
	}
	m.own[i] = true
	return m.pages[i]
}

// Extents calls yield with the offset and the bytes of each page that was written, in order, until
// it returns false. The bytes must not be changed.
func (m *Image) Extents(yield func(off int64, b []byte) bool) {
	for i, p := range m.pages {
		if p != nil && !yield(int64(i)*pageSize, p[:]) {
			return
		}
	}
}
