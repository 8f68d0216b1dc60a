package wal

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

// A mark is the content of the file called synced, beside the segments: a place up to which the log
// was durable. It is written after a sync, and is not synced itself. So a crash may leave an older
// one, and the log reaches at least as far as that. A mark proves what witnesses cannot: that
// something followed the last record that is there. See FORMAT.md, chapter 7.
type mark struct {
	seq    uint64 // of the segment
	offset int64  // in the segment, where a frame ends
	chain  uint32 // the checksum of the data of all records up to there
	owner  uint32 // the checksum of the log's metadata
}

const (
	markName  = "synced"
	markSize  = 64
	markMagic = "synced1\n"
)

// put encodes the mark.
func (m mark) put(b *[markSize]byte) {
	clear(b[:])
	copy(b[:], markMagic)
	binary.LittleEndian.PutUint64(b[8:], m.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(m.offset))
	binary.LittleEndian.PutUint32(b[24:], m.chain)
	binary.LittleEndian.PutUint32(b[28:], m.owner)
	binary.LittleEndian.PutUint32(b[60:], walpb.Checksum(0, b[:60]))
}

// parseMark decodes a mark: parseMark(put(m)) == m. Of anything else, which a crash or rot may have
// left, it returns the zero mark, which says nothing.
func parseMark(b *[markSize]byte) (m mark) {
	m.seq = binary.LittleEndian.Uint64(b[8:])
	m.offset = int64(binary.LittleEndian.Uint64(b[16:]))
	m.chain = binary.LittleEndian.Uint32(b[24:])
	m.owner = binary.LittleEndian.Uint32(b[28:])
	var again [markSize]byte
	if m.put(&again); *b != again {
		return mark{}
	}
	return m
}

// readMark reads the mark of the log in dir. It returns the zero mark, which every log reaches, if
// there is none that is whole. It returns an error if the file system does not say what is there.
func readMark(fsys fileutil.FS, dir string) (mark, error) {
	name := filepath.Join(dir, markName)
	info, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && special(info.Mode()) != "" {
		return mark{}, nil // a pipe, which is not the log's, would stop the process that opens it
	}
	if err != nil {
		return mark{}, fmt.Errorf("wal: %w", err)
	}
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return mark{}, nil
	}
	if err != nil {
		return mark{}, fmt.Errorf("wal: %w", err)
	}
	defer f.Close()
	var b [markSize + 1]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return mark{}, fmt.Errorf("wal: %w", err)
	}
	if n > markSize {
		return mark{}, nil // a longer file is not the log's
	}
	return parseMark((*[markSize]byte)(b[:])), nil
}

// beyond reports whether the mark is after a place in the log with that metadata.
func (m mark) beyond(metadata []byte, seq uint64, offset int64) bool {
	return (m.seq > seq || m.seq == seq && m.offset > offset) && m.owner == walpb.Checksum(0, metadata)
}

// contradicts reports whether the mark is inside the frame of a record of the log with that
// metadata, or at its end with another chain.
func (m mark) contradicts(metadata []byte, seq uint64, r *Record) bool {
	end := r.Offset + r.Size
	return m.seq == seq && r.Offset < m.offset && m.offset <= end && (m.offset < end || m.chain != r.CRC) && m.owner == walpb.Checksum(0, metadata)
}

func (m mark) String() string {
	return fmt.Sprintf("%s says that the log was durable up to offset %d of segment %016x, with checksum %08x", markName, m.offset, m.seq, m.chain)
}

// A marker writes the marks of one log. Its methods are not called concurrently.
type marker struct {
	dir     *logDir
	file    fileutil.File // nil until the first mark
	buf     [markSize]byte
	failing bool // the last mark could not be written, and that has been logged
	off     bool // no mark is written: nothing is durable, or the file is not the log's
}

// set writes a mark: the log is durable up to there. If it cannot be written, the log goes on. The
// previous mark remains, and is still valid, and the next one is tried again.
func (k *marker) set(m mark) {
	if k.off {
		return
	}
	var err error
	if k.file == nil {
		k.file, err = openMark(k.dir)
	}
	if err == nil {
		m.put(&k.buf)
		_, err = k.file.WriteAt(k.buf[:], 0)
	}
	if err != nil && !k.failing {
		k.dir.warn("how far the log is durable is not noted", "error", err)
	}
	k.failing, k.off = err != nil, errors.Is(err, errForeignMark)
}

func (k *marker) close() {
	if k.file == nil {
		return
	}
	if err := k.file.Close(); err != nil {
		k.dir.warn("the mark may not be what was written", "error", err)
	}
}

var errForeignMark = errors.New("which is not the log's file")

// openMark opens the file for the mark, or makes it. A longer file is not the log's:
// errForeignMark.
func openMark(dir *logDir) (fileutil.File, error) {
	f, err := dir.open(markName, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size > markSize {
		err = fmt.Errorf("%s: %d bytes, %w", markName, size, errForeignMark)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// removeMark removes the mark of a log that was here before. With sync it is gone for good. A
// longer file, or what is no file, is not the log's and stays.
func removeMark(fsys fileutil.FS, dir string, sync bool) error {
	name := filepath.Join(dir, markName)
	info, err := fsys.Stat(name)
	if err == nil && (special(info.Mode()) != "" || info.Size() > markSize) {
		return nil
	}
	if err == nil {
		err = fsys.Remove(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && sync {
		err = fileutil.SyncDir(fsys, dir)
	}
	return err
}
