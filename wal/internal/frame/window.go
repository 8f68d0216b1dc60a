package frame

import (
	"errors"
	"io"

	"github.com/stele-wal/stele/fileutil"
)

// A Window is a part of a file in memory, which moves forward.
type Window struct {
	Size  int64 // of the file; no more of it is read
	Chunk int   // the number of bytes to read at once; 0 is WindowSize

	file   fileutil.File
	offset int64 // of buf[0] in the file
	buf    []byte
}

// WindowSize is how much is read at once: enough to make system calls cheap, and within a
// processor's cache.
const WindowSize = 256 << 10

// Reset makes the window one of another file, and keeps its memory.
func (w *Window) Reset(f fileutil.File, size int64) {
	w.file, w.Size, w.offset, w.buf = f, size, 0, w.buf[:0]
}

// At returns the n bytes at an offset, which stay valid until the next call. The caller has
// compared them with the size of the file. The error is io.ErrUnexpectedEOF if the file is shorter
// now.
func (w *Window) At(offset int64, n int) ([]byte, error) {
	if from := offset - w.offset; from >= 0 && from+int64(n) <= int64(len(w.buf)) {
		return w.buf[from : from+int64(n)], nil
	}
	if err := w.move(offset, n); err != nil {
		return nil, err
	}
	return w.buf[:n], nil
}

// move makes offset the window's first byte, and reads at least n bytes.
func (w *Window) move(offset int64, n int) error {
	chunk := w.Chunk
	if chunk == 0 {
		chunk = WindowSize
	}
	want := int(min(int64(max(n, chunk)), w.Size-offset))
	kept := 0
	if from := offset - w.offset; from >= 0 && from < int64(len(w.buf)) {
		kept = copy(w.buf, w.buf[from:])
	}
	if cap(w.buf) < want {
		// Segments are of different sizes: not a new one for each that is a little larger.
		room := max(want, min(2*cap(w.buf), chunk))
		w.buf = append(make([]byte, 0, room), w.buf[:kept]...)
	}
	w.buf, w.offset = w.buf[:want], offset
	got, err := w.file.ReadAt(w.buf[kept:], offset+int64(kept))
	w.buf = w.buf[:kept+got]
	if kept+got >= n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// NextData returns the first offset from offset on at which the file may hold bytes that are not
// zero; see fileutil.File.
func (w *Window) NextData(offset int64) (int64, error) { return w.file.NextData(offset) }
