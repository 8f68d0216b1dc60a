package snap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/walpb"
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

	offset int64  // in the body, of what is read next
	loaded int64  // the block that is in buf; -1 if none is
	buf    []byte // the block and its checksum

	// summed is how many blocks were read one after the other from the first on, and sum the
	// checksum of the whole up to there.
	summed int64
	sum    uint32
	closed bool
}

var (
	_ io.ReadSeekCloser = (*Reader)(nil)
	_ io.WriterTo       = (*Reader)(nil)
)

// OpenBody opens the body of that index and reads where it begins and ends. Nothing in between was
// looked at yet: each block is when it is read, or all by Verify.
//
// If it is not there the error wraps fs.ErrNotExist. If the name is that of another file, such as
// etcd's database, it wraps ErrForeign. If the header or the trailer is damaged, or the file cut
// short, it is a *CorruptError. Otherwise it is what the file system said. Nothing is changed.
func (s *Store) OpenBody(index uint64) (*Reader, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	name := bodyName(index)
	f, err := s.fs.OpenFile(filepath.Join(s.dir, name), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	r, err := newReader(name, f)
	if err == nil && r.body.Index != index {
		err = corrupt(32, "the body in it is of index %d", r.body.Index)
	}
	if err != nil {
		f.Close()
		return nil, fileError(name, err)
	}
	return r, nil
}

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

// NewestBody opens the newest of the bodies recorded in the log that is good. recorded is what
// wal.Snapshots returns, in any order. A body is read whole before it is returned, and again by
// whoever loads it: otherwise half of one that is damaged might be loaded before it shows.
//
// What Newest does with files that are damaged, not there or cannot be read, NewestBody does with
// bodies. It passes over what is foreign. If index 0 is recorded and nothing newer is found, the
// result reads as an empty body of index 0. If nothing is found the error wraps ErrNoSnapshot and
// what was passed over: each *CorruptError, and ErrForeign.
func (s *Store) NewestBody(recorded []walpb.Snapshot) (*Reader, error) {
	var passed []error
	for _, record := range newestFirst(recorded) {
		if record.Index == 0 {
			return &Reader{body: Body{Term: record.Term, ConfState: bytes.Clone(record.ConfState)}}, nil
		}
		name := bodyName(record.Index)
		r, err := s.openVerified(record.Index)
		if isCorrupt(err) {
			err = s.setAside(name, func() error {
				r, err = s.openVerified(record.Index)
				return err
			})
		}
		if err == nil && r.body.Term != record.Term {
			// A body that was never recorded, of an entry that was overwritten.
			r.Close()
			err = fs.ErrNotExist
		}
		switch {
		case err == nil:
			return r, nil
		case isCorrupt(err), errors.Is(err, ErrForeign):
			passed = append(passed, err)
		case errors.Is(err, fs.ErrNotExist):
			s.log.Warn("a recorded body is not there, looking for an older one", "dir", s.dir, "file", name)
		default:
			return nil, err
		}
	}
	return nil, s.noSnapshot(len(recorded), passed)
}

func (s *Store) openVerified(index uint64) (*Reader, error) {
	r, err := s.OpenBody(index)
	if err != nil {
		return nil, err
	}
	if err := r.Verify(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Body says what is read. Its ConfState must not be changed.
func (r *Reader) Body() Body { return r.body }

// Size returns the size of the body in bytes.
func (r *Reader) Size() int64 { return r.size }

// Sum returns the checksum of the whole body, as the trailer states it. A copy is the same if its
// Writer has the same.
func (r *Reader) Sum() uint32 { return r.stated }

// Read reads the next bytes. It returns none of a block that is damaged, and a *CorruptError then;
// or what the file system said; io.EOF behind the last byte; ErrClosed after Close.
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

// WriteTo writes what is left to w, a block at a time, and returns how many bytes it wrote. Its
// error is that of w, or one that Read would return; io.EOF is none.
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

// Seek sets where Read goes on; see io.Seeker. It reads nothing. A place before the beginning is
// ErrInvalid.
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

// next returns what is left of the block that offset is in. It is good until the next call.
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

// block reads and verifies block n. Whoever reads all of them in order has the whole verified too.
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
