package frame

import "unsafe"

// Pages hold bytes in whole pages of memory that begin at a multiple of PageSize. All of it can be
// given to a direct write, which bypasses the system's cache and takes only whole pages, in the
// file as in memory. No other writes are made to a segment, by a Writer or by Open.
type Pages struct {
	Bytes []byte // aligned, and cap(Bytes) is a multiple of PageSize
	zeros int    // the memory after Bytes is zero up to here
}

// Grow makes room for n more bytes, so that Bytes stays where it is while they are appended.
func (p *Pages) Grow(n int) {
	if size := len(p.Bytes) + n; size > cap(p.Bytes) {
		size = int(ToPage(int64(max(size, cap(p.Bytes)*3/2))))
		memory := make([]byte, size+PageSize)
		skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(memory)))) & (PageSize - 1)
		p.Bytes = append(memory[skip:skip:skip+size], p.Bytes...)
	}
}

// Append appends bytes. Without room for them it moves what is there.
func (p *Pages) Append(b []byte) {
	p.Grow(len(b))
	p.Bytes = append(p.Bytes, b...)
}

// Whole returns the bytes, with zeros up to the end of their last page.
func (p *Pages) Whole() []byte {
	n := len(p.Bytes)
	b := p.Bytes[:ToPage(int64(n))]
	if p.zeros < len(b) {
		clear(b[max(n, p.zeros):])
		p.zeros = len(b)
	}
	return b
}

// Tail returns the bytes in the last page, if that is not whole.
func (p *Pages) Tail() []byte { return p.Bytes[len(p.Bytes)/PageSize*PageSize:] }

// Turn removes the whole pages, as Reset does.
func (p *Pages) Turn(keep int) {
	if tail := p.Tail(); len(tail) < len(p.Bytes) {
		p.Reset(keep)
		p.Append(tail)
	}
}

// Reset removes the bytes. It keeps the memory if that is at most keep bytes.
func (p *Pages) Reset(keep int) {
	if cap(p.Bytes) > keep {
		p.Bytes = nil
	}
	p.Bytes, p.zeros = p.Bytes[:0], 0
}

// ToPage returns the first end of a page at or after an offset.
func ToPage(offset int64) int64 { return (offset + PageSize - 1) / PageSize * PageSize }
