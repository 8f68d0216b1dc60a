package snap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// A Writer writes a body. It is an io.Writer, and takes the memory of one block. It is used by one
// goroutine at a time. Create and Resume make one: Write and Commit of the zero Writer return
// ErrClosed.
//
// The first error is the last: every later call but Close and Discard returns it, and there will be
// no body. The same is true once an FS has panicked.
type Writer struct {
	store  *Store
	path   string // of the unfinished body
	file   fileutil.File
	body   Body
	layout        // its size includes what is in buf
	sum    uint32 // of the whole, without what is in buf

	// buf[:fill] is what was written to the Writer after the last whole block. buf has room for a
	// block and its checksum.
	buf  []byte
	fill int

	unsynced int // how many bytes were written to the file since its last sync

	err    error // the first error; every later call returns it
	closed bool
}

var _ io.WriteCloser = (*Writer)(nil)

// syncEvery is how many bytes of a body are written between syncs. A sync of the log waits for what
// the disk still has to write: this keeps that small.
const syncEvery = 8 << 20

// Create begins a new body with an ID of its own, and discards an unfinished one of the same index.
// The error is
//   - ErrInvalid for index 0, or a ConfState that is above 1 MiB or not raft's;
//   - ErrBusy while another Writer has the index;
//   - ErrForeign if the file of that name is not a body of this package;
//   - otherwise what the file system returned.
func (s *Store) Create(of walpb.Snapshot) (*Writer, error) {
	return s.newWriter(NewBody(of), (*Writer).begin)
}

// Resume goes on with the body b where an earlier Writer of it stopped: it was closed, or the
// process or the machine crashed. It keeps what is there up to the last whole block that is good.
// [Writer.Size] then says from which byte on the body has to be written: 0 if nothing is there, or
// another body of the same index. For a body that is received, b is what the sender's [Reader.Body]
// returns. The errors are those of Create.
func (s *Store) Resume(b Body) (*Writer, error) {
	return s.newWriter(b, (*Writer).resume)
}

// newWriter makes a Writer, and has start prepare its file.
func (s *Store) newWriter(b Body, start func(*Writer) error) (*Writer, error) {
	if b.Index == 0 || len(b.ConfState) > maxConfState {
		return nil, fmt.Errorf("snap: a body of index %d with a conf state of %d bytes: %w", b.Index, len(b.ConfState), ErrInvalid)
	}
	if err := checkConfState(b.Index, b.ConfState); err != nil {
		return nil, err
	}
	if err := s.usable(); err != nil {
		return nil, err
	}
	if err := s.claim(b.Index); err != nil {
		return nil, err
	}
	w := &Writer{store: s, body: b, path: filepath.Join(s.dir, partialName(b.Index)), buf: make([]byte, BlockSize+sumSize)}
	opened := false
	defer func() {
		if !opened { // because of an error, or because the FS panicked
			w.Close()
		}
	}()
	if err := w.open(start); err != nil {
		return nil, err
	}
	opened = true
	return w, nil
}

func (w *Writer) open(start func(*Writer) error) (err error) {
	if err := w.store.notForeign(w.body.Index); err != nil {
		return err
	}
	if err := w.store.part(w.body.Index); err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	if w.file, err = w.store.fs.OpenFile(w.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	return fileError(partialName(w.body.Index), start(w))
}

// claim makes this Writer the only one of its index.
func (s *Store) claim(index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing[index] {
		return fmt.Errorf("snap: %s: %w", partialName(index), ErrBusy)
	}
	s.writing[index] = true
	return nil
}

// part removes the unfinished body if it may be the same file as the finished one: a crash in
// Commit can leave both names on one file, and what is about to be written must not go into a body
// that is finished. Files of different sizes are two files.
func (s *Store) part(index uint64) error {
	var sizes [2]int64
	for i, name := range []string{bodyName(index), partialName(index)} {
		info, err := s.fs.Stat(filepath.Join(s.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		sizes[i] = info.Size()
	}
	if sizes[0] != sizes[1] {
		return nil
	}
	return s.fs.Remove(filepath.Join(s.dir, partialName(index)))
}

// begin empties the file and writes the header. The name is made durable so that what is synced can
// be resumed after a power cut; nothing depends on it.
func (w *Writer) begin() error {
	header := w.body.appendHeader(nil)
	w.layout = layout{identity: binary.LittleEndian.Uint32(header[len(header)-sumSize:]), start: int64(len(header))}
	w.sum = w.identity
	if err := w.file.Truncate(0); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(header, 0); err != nil {
		return err
	}
	return fileutil.SyncDir(w.store.fs, w.store.dir)
}

// resume keeps what an earlier Writer of the same body left, or else begins.
func (w *Writer) resume() error {
	kept, err := w.keep()
	if err == nil && !kept {
		err = w.begin()
	}
	return err
}

// keep reads what an earlier Writer left, and reports whether it is of the same body.
func (w *Writer) keep() (bool, error) {
	// What a failed sync of the earlier Writer left in memory looks good and is not on the disk,
	// and no later sync would write it. So read the disk.
	if err := w.file.SyncData(); err != nil {
		return false, err
	}
	if err := w.file.DropCache(); err != nil {
		return false, err
	}
	size, err := w.file.Size()
	if err != nil {
		return false, err
	}
	b, identity, start, err := readHeader(w.file, size)
	if isCorrupt(err) || errors.Is(err, ErrForeign) || err == nil && !b.equal(w.body) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	w.layout = layout{identity: identity, start: start}
	w.sum = identity
	for n := int64(0); w.blockAt(n+1) <= size; n++ {
		w.size += BlockSize
		_, sum, err := w.readBlock(w.file, n, w.buf)
		if isCorrupt(err) {
			w.size -= BlockSize
			break
		} else if err != nil {
			return false, err
		}
		w.sum = addSum(w.sum, sum)
	}
	return true, w.file.Truncate(w.end())
}

// Body returns what is being written. Its ConfState must not be changed.
func (w *Writer) Body() Body { return w.body }

// Size returns how many bytes of the body there are: those that Resume kept and those that were
// written since.
func (w *Writer) Size() int64 { return w.size }

// Sum returns the checksum of the body as far as it is written. The receiver of a body compares it
// with the sender's [Reader.Sum] before Commit.
func (w *Writer) Sum() uint32 {
	if w.fill == 0 {
		return w.sum
	}
	return addSum(w.sum, blockSum(w.identity, w.size/BlockSize, w.buf[:w.fill]))
}

// Write appends p to the body, of which nothing can be seen before Commit. The error is
//   - ErrClosed after Close, Discard or Commit;
//   - otherwise what the file system returned.
func (w *Writer) Write(p []byte) (written int, err error) {
	if err := w.usable(); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		n := copy(w.buf[w.fill:BlockSize], p)
		p, written = p[n:], written+n
		w.fill, w.size = w.fill+n, w.size+int64(n)
		if w.fill == BlockSize {
			if err := w.do(w.flush); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// flush writes the block in buf with its checksum.
func (w *Writer) flush() error {
	n := w.blocks() - 1
	sum := blockSum(w.identity, n, w.buf[:w.fill])
	binary.LittleEndian.PutUint32(w.buf[w.fill:], sum)
	if _, err := w.file.WriteAt(w.buf[:w.fill+sumSize], w.blockAt(n)); err != nil {
		return err
	}
	w.sum = addSum(w.sum, sum)
	w.unsynced += w.fill
	w.fill = 0
	if w.unsynced < syncEvery {
		return nil
	}
	w.unsynced = 0
	return w.file.SyncData()
}

// Commit ends the body: it writes what is left, syncs it, gives the file its name and syncs the
// directory. An older body of the same index is replaced whole.
//
// If Commit returns nil the body survives a crash, and may be recorded in the log. If it returns an
// error, or a crash comes before it returns, there is what was there before, or all of the new
// body; it must not be recorded. The error is
//   - that of an earlier Write;
//   - ErrClosed after Close, Discard or Commit;
//   - ErrForeign if the file of that name is not a body of this package;
//   - otherwise what the file system returned.
func (w *Writer) Commit() error {
	if err := w.usable(); err != nil {
		return err
	}
	if err := w.do(w.commit); err != nil {
		return err
	}
	w.err = w.closedError()
	return nil
}

func (w *Writer) commit() error {
	if w.fill > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if _, err := w.file.WriteAt(w.appendTrailer(nil, w.sum), w.end()); err != nil {
		return err
	}
	// The bytes are durable before they get the name: a crash must not leave the name on half of
	// them.
	if err := w.file.SyncData(); err != nil {
		return err
	}
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.notForeign(w.body.Index); err != nil {
		return err
	}
	w.file.Close() // synced, so there is nothing to learn from it
	w.file = nil
	w.closed = true
	delete(s.writing, w.body.Index)
	if err := s.fs.Rename(w.path, filepath.Join(s.dir, bodyName(w.body.Index))); err != nil {
		return err
	}
	return fileutil.SyncDir(s.fs, s.dir) // from here on the body survives a crash
}

// Close gives up writing and leaves the whole blocks for Resume. After Commit, or a second time, it
// does nothing. It returns nil: what was written and not committed may be lost.
func (w *Writer) Close() error {
	const keep = true
	w.giveUp(keep) // the error is of removing the file
	return nil
}

// Discard gives up writing and removes what was written. After Commit or Close it does nothing. The
// error is what the file system returned.
func (w *Writer) Discard() error {
	const keep = false
	if err := w.giveUp(keep); err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	return nil
}

func (w *Writer) giveUp(keep bool) error {
	if w.closed || w.store == nil {
		return nil
	}
	w.closed = true
	if w.err == nil {
		w.err = w.closedError()
	}
	// The index is free once the file is closed and removed: the next Writer's has the same name.
	defer func() {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		delete(w.store.writing, w.body.Index)
	}()
	if w.file != nil {
		w.file.Close()
	}
	if keep {
		return nil
	}
	return w.store.fs.Remove(w.path)
}

// usable returns why nothing can be written any more, or nil.
func (w *Writer) usable() error {
	if w.store == nil {
		return fmt.Errorf("snap: %w: this Writer is not from Create or Resume", ErrClosed)
	}
	return w.err
}

// do calls f and keeps its error, or that it did not return.
func (w *Writer) do(f func() error) error {
	w.err = errNotReturned
	err := f()
	w.err = nil
	if err != nil {
		return w.fail(err)
	}
	return nil
}

var errNotReturned = errors.New("snap: the FS panicked, or called runtime.Goexit")

func (w *Writer) closedError() error {
	return fmt.Errorf("snap: %s: %w", bodyName(w.body.Index), ErrClosed)
}

// fail keeps the first error.
func (w *Writer) fail(err error) error {
	if w.err == nil {
		if !errors.Is(err, ErrForeign) {
			err = fmt.Errorf("snap: %w", err)
		}
		w.err = err
	}
	return w.err
}
