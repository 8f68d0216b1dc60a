package wal

import "unsafe"

// A pages holds bytes in whole pages of memory that begin at a multiple of pageSize. All of it can
// be given to a direct write, which bypasses the system's cache and takes only whole pages, in the
// file as in memory. The Writer makes no other writes to a segment.
type pages struct {
	bytes []byte // aligned, and cap(bytes) is a multiple of pageSize
}

// grow makes room for n more bytes, so that bytes stays where it is while they are appended.
func (p *pages) grow(n int) {
	if size := len(p.bytes) + n; size > cap(p.bytes) {
		size = int(toPage(int64(max(size, cap(p.bytes)*3/2))))
		memory := make([]byte, size+pageSize)
		skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(memory)))) & (pageSize - 1)
		p.bytes = append(memory[skip:skip:skip+size], p.bytes...)
	}
}

// append is for the bytes of which it does not matter that they are copied twice when grow was not
// called for them.
func (p *pages) append(b []byte) {
	p.grow(len(b))
	p.bytes = append(p.bytes, b...)
}

// whole returns the bytes, with zeros up to the end of their last page.
func (p *pages) whole() []byte {
	n := len(p.bytes)
	b := p.bytes[:toPage(int64(n))]
	clear(b[n:])
	return b
}

// tail returns the bytes in the last page, if that is not whole.
func (p *pages) tail() []byte { return p.bytes[len(p.bytes)/pageSize*pageSize:] }

// reset removes the bytes. It keeps the memory if that is not more than maxKeptBuffer.
func (p *pages) reset() {
	if cap(p.bytes) > maxKeptBuffer {
		p.bytes = nil
	}
	p.bytes = p.bytes[:0]
}

// toPage returns the first end of a page at or after an offset.
func toPage(offset int64) int64 { return (offset + pageSize - 1) / pageSize * pageSize }
