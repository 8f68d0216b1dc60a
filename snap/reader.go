package snap

import (
	"fmt"
	"io"
)

// A Reader reads a body, from any place on, and verifies each block of it before any byte of the
// block is given away. It is an io.ReadSeekCloser and an io.WriterTo. It takes the memory of one
// block. It is used by one goroutine at a time; a body may have many Readers, and one that is open
// goes on reading the same body if it is replaced or removed meanwhile. The zero Reader reads the
// body of index 0, which is empty.
type Reader struct {
	name string
	file readable // nil for the body of index 0, which has none
	body Body
	layout
	stated uint32 // the checksum of the whole, according to the trailer

	offset int64 // in the body, of the next byte to be read
	loaded int64 // buf holds this block and its checksum; -1 if it holds none
	buf    []byte

	// sum is the checksum of the whole up to block summed: so many were read in order from the
	// first on.
	summed int64
	sum    uint32
	closed bool
}

var (
	_ io.ReadSeekCloser = (*Reader)(nil)
	_ io.WriterTo       = (*Reader)(nil)
)

func newReader(name string, f readable) (*Reader, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	r := &Reader{name: name, file: f, loaded: -1}
	if r.body, r.identity, r.start, err = readHeader(f, size); err != nil {
		return nil, err
	}
	if r.stated, err = r.readTrailer(f, size); err != nil {
		return nil, err
	}
	r.sum = r.identity
	if r.blocks() == 0 && r.sum != r.stated {
		return nil, corrupt(r.end(), "checksum mismatch: the body has %08x and the trailer says %08x", r.sum, r.stated)
	}
	r.buf = make([]byte, min(BlockSize, r.size)+sumSize)
	return r, nil
}

// Body returns what is being read. Its ConfState must not be changed.
func (r *Reader) Body() Body { return r.body }

// Size returns the size of the body in bytes.
func (r *Reader) Size() int64 { return r.size }

// Sum returns the checksum of the whole body, as the trailer states it. A copy of the body is right
// if its Writer returns the same.
func (r *Reader) Sum() uint32 { return r.stated }

// Read reads the next bytes, and none of a block that is damaged. The error is
//   - io.EOF after the last byte;
//   - a *CorruptError for a block that is damaged;
//   - ErrClosed after Close;
//   - otherwise what the file system returned.
func (r *Reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fmt.Errorf("snap: %s: %w", r.name, ErrClosed)
	}
	if len(p) == 0 {
		return 0, nil
	}
	rest, err := r.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, rest)
	r.offset += int64(n)
	return n, nil
}

// WriteTo writes what is left to w, a block at a time, and returns how many bytes it wrote. The
// error is that of w, or one that Read would return other than io.EOF.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	if r.closed {
		return 0, fmt.Errorf("snap: %s: %w", r.name, ErrClosed)
	}
	for {
		rest, err := r.next()
		if err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
		n, err := w.Write(rest)
		written, r.offset = written+int64(n), r.offset+int64(n)
		if err == nil && n < len(rest) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// Seek sets where Read goes on; see io.Seeker. It reads nothing. The error is ErrInvalid for a
// place before the beginning.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, fmt.Errorf("snap: %s: seek to %d: %w", r.name, offset, ErrInvalid)
	}
	r.offset = offset
	return offset, nil
}

// Verify reads the whole body, and returns the error that Read would. It does not change where Read
// goes on.
func (r *Reader) Verify() error {
	if r.closed {
		return fmt.Errorf("snap: %s: %w", r.name, ErrClosed)
	}
	r.summed, r.sum = 0, r.identity
	for n := range r.blocks() {
		if _, err := r.block(n); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file. Later calls do nothing. It returns nil: there is nothing to learn from
// closing what was read.
func (r *Reader) Close() error {
	if !r.closed && r.file != nil {
		r.file.Close()
	}
	r.closed = true
	return nil
}

// next returns what is left of the block that offset is in. It is valid until the next call.
func (r *Reader) next() ([]byte, error) {
	if r.offset >= r.size {
		return nil, io.EOF
	}
	n, skip := r.offset/BlockSize, r.offset%BlockSize
	if r.loaded == n {
		return r.buf[skip:min(BlockSize, r.size-n*BlockSize)], nil
	}
	content, err := r.block(n)
	if err != nil {
		return nil, err
	}
	return content[skip:], nil
}

// block reads and verifies block n. After all blocks were read in order, the whole is verified too.
func (r *Reader) block(n int64) ([]byte, error) {
	r.loaded = -1
	content, sum, err := r.readBlock(r.file, n, r.buf)
	if err != nil {
		return nil, fileError(r.name, err)
	}
	if n == r.summed {
		r.summed, r.sum = n+1, addSum(r.sum, sum)
		if r.summed == r.blocks() && r.sum != r.stated {
			r.summed, r.sum = 0, r.identity
			return nil, named(r.name, corrupt(r.end(), "checksum mismatch: the body has another than the trailer's %08x", r.stated))
		}
	}
	r.loaded = n
	return content, nil
}
