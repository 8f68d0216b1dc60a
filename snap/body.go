package snap

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/walpb"
)

// A Body says what a streamed snapshot stands for, and identifies it.
type Body struct {
	Index uint64 // the last entry that it stands for
	Term  uint64 // the term of that entry

	// ConfState is the members at that index, as raft encodes them. It is nil if they are not known
	// or empty, and at most 1 MiB.
	ConfState []byte

	// ID is random. Two members may write the same state at the same index as different bytes, and
	// so may one member that writes it twice; half of one and half of the other would be neither. A
	// transfer copies the ID.
	ID [16]byte
}

// NewBody returns the Body of a snapshot that is about to be written, with a random ID. It shares
// ConfState.
func NewBody(of walpb.Snapshot) Body {
	b := Body{Index: of.Index, Term: of.Term, ConfState: of.ConfState}
	rand.Read(b.ID[:]) // it never fails
	return b
}

// Record returns what the log is to record of the body, once it was committed. It shares ConfState.
func (b Body) Record() walpb.Snapshot {
	return walpb.Snapshot{Index: b.Index, Term: b.Term, ConfState: b.ConfState}
}

func (b Body) equal(other Body) bool {
	return b.Index == other.Index && b.Term == other.Term && b.ID == other.ID && bytes.Equal(b.ConfState, other.ConfState)
}

// BlockSize is how many bytes of a body have a checksum of their own. A transfer is resumed at a
// multiple of it.
const BlockSize = 64 << 10

// The format of a body; see FORMAT.md, chapter 4. Numbers are little-endian.
const (
	bodyMagic   = "\x89stele\r\n"
	bodyVersion = 1
	maxVersion  = 255 // a higher number will never be a version

	fixedHeaderSize = 52 // up to the conf state
	sumSize         = 4
	trailerSize     = 24
	maxConfState    = 1 << 20

	// trailerPosition takes the place of a block's number, so that no block passes for a trailer.
	trailerPosition = 1<<64 - 1
)

// checksum is CRC-32 (IEEE), which the standard library computes with AVX-512 where there is one,
// faster than the module that the log uses for Castagnoli.
func checksum(sum uint32, b []byte) uint32 { return crc32.Update(sum, crc32.IEEETable, b) }

// checksumWord is checksum of the n lowest bytes of v, the lowest first. To pass them to the
// library would allocate.
func checksumWord(sum uint32, v uint64, n int) uint32 {
	sum = ^sum
	for range n {
		sum = crc32.IEEETable[byte(sum)^byte(v)] ^ sum>>8
		v >>= 8
	}
	return ^sum
}

// appendHeader appends the header. Its last four bytes, the checksum of the others, are what every
// other checksum in the file goes on from: the identity.
func (b *Body) appendHeader(to []byte) []byte {
	start := len(to)
	to = append(to, bodyMagic...)
	to = binary.LittleEndian.AppendUint32(to, bodyVersion)
	to = binary.LittleEndian.AppendUint32(to, BlockSize)
	to = append(to, b.ID[:]...)
	to = binary.LittleEndian.AppendUint64(to, b.Index)
	to = binary.LittleEndian.AppendUint64(to, b.Term)
	to = binary.LittleEndian.AppendUint32(to, uint32(len(b.ConfState)))
	to = append(to, b.ConfState...)
	return binary.LittleEndian.AppendUint32(to, checksum(0, to[start:]))
}

// readHeader reads the header of a file of that size. The error is ErrForeign, a *CorruptError, or
// one of reading.
func readHeader(f io.ReaderAt, size int64) (b Body, identity uint32, length int64, err error) {
	fixed, err := readHead(f, size, fixedHeaderSize)
	if err != nil {
		return b, 0, 0, err
	}
	if n := min(len(fixed), len(bodyMagic)); string(fixed[:n]) != bodyMagic[:n] {
		return b, 0, 0, strange(f, size, fixed, fmt.Sprintf("it begins with %x", fixed[:n]))
	}
	if len(fixed) < fixedHeaderSize {
		return b, 0, 0, corrupt(size, "the file ends inside its header")
	}
	if v := binary.LittleEndian.Uint32(fixed[8:]); v != bodyVersion {
		return b, 0, 0, strange(f, size, fixed, fmt.Sprintf("it has version %d", v))
	}
	n := int64(binary.LittleEndian.Uint32(fixed[48:]))
	if n > maxConfState || n > size-fixedHeaderSize-sumSize {
		return b, 0, 0, corrupt(48, "a conf state of %d bytes, in a file of %d", n, size)
	}
	header := make([]byte, fixedHeaderSize+n+sumSize)
	if err := readFull(f, header, 0); err != nil {
		return b, 0, 0, err
	}
	body, sum := header[:len(header)-sumSize], binary.LittleEndian.Uint32(header[len(header)-sumSize:])
	if got := checksum(0, body); got != sum {
		return b, 0, 0, corrupt(0, "checksum mismatch: the header has %08x and says %08x", got, sum)
	}
	if v := binary.LittleEndian.Uint32(fixed[12:]); v != BlockSize {
		return b, 0, 0, corrupt(12, "blocks of %d bytes", v)
	}
	copy(b.ID[:], fixed[16:])
	b.Index = binary.LittleEndian.Uint64(fixed[32:])
	b.Term = binary.LittleEndian.Uint64(fixed[40:])
	if n > 0 {
		b.ConfState = body[fixedHeaderSize:]
	}
	return b, sum, int64(len(header)), nil
}

// strange returns the error of a file that does not begin as a body does, for the reason that is
// given. It is damage, and not ErrForeign, if the header is good except the magic and the version,
// or if the file is not of a later version and ends as only a body does.
func strange(f io.ReaderAt, size int64, fixed []byte, reason string) error {
	foreign := fmt.Errorf("%w: %s", ErrForeign, reason)
	if len(fixed) < fixedHeaderSize {
		return foreign
	}
	damaged := corrupt(0, "%s, but it is a body", reason)
	if n := int64(binary.LittleEndian.Uint32(fixed[48:])); n <= min(maxConfState, size-fixedHeaderSize-sumSize) {
		header := make([]byte, fixedHeaderSize+n+sumSize)
		if err := readFull(f, header, 0); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(header[copy(header, bodyMagic):], bodyVersion)
		body := header[:fixedHeaderSize+n]
		if checksum(0, body) == binary.LittleEndian.Uint32(header[len(body):]) {
			return damaged
		}
	}
	if v := binary.LittleEndian.Uint32(fixed[8:]); string(fixed[:len(bodyMagic)]) == bodyMagic && bodyVersion < v && v <= maxVersion {
		return foreign
	}
	// Without the identity the trailer's checksum is of no use, but the lengths in it are: they
	// state the file's.
	var trailer [trailerSize]byte
	if err := readFull(f, trailer[:], size-trailerSize); err != nil {
		return err
	}
	stated, blocks := binary.LittleEndian.Uint64(trailer[0:]), binary.LittleEndian.Uint64(trailer[8:])
	l := layout{size: int64(min(stated, uint64(size)))}
	start := size - trailerSize - l.end()
	if stated > 0 && uint64(l.blocks()) == blocks && fixedHeaderSize+sumSize <= start && start <= fixedHeaderSize+maxConfState+sumSize {
		return damaged
	}
	return foreign
}

// A layout is where the blocks of a body are in its file.
type layout struct {
	identity uint32
	start    int64 // where block 0 begins
	size     int64 // of the body, in bytes
}

// blocks returns how many blocks there are. All but the last hold BlockSize bytes of the body, and
// the last the rest.
func (l layout) blocks() int64 { return (l.size + BlockSize - 1) / BlockSize }

// blockAt returns where block n begins, which has a checksum after its content.
func (l layout) blockAt(n int64) int64 { return l.start + n*(BlockSize+sumSize) }

// end returns where the last block ends and the trailer begins.
func (l layout) end() int64 { return l.start + l.size + l.blocks()*sumSize }

// position returns what the checksum at a position goes on from: the identity of the file, then the
// number of the block.
func position(identity uint32, n uint64) uint32 { return checksumWord(identity, n, 8) }

// blockSum returns the checksum of block n.
func blockSum(identity uint32, n int64, content []byte) uint32 {
	return checksum(position(identity, uint64(n)), content)
}

// addSum goes on with the checksum of the whole, which is over those of the blocks and begins with
// the identity.
func addSum(whole, block uint32) uint32 { return checksumWord(whole, uint64(block), 4) }

func (l layout) appendTrailer(to []byte, sum uint32) []byte {
	start := len(to)
	to = binary.LittleEndian.AppendUint64(to, uint64(l.size))
	to = binary.LittleEndian.AppendUint64(to, uint64(l.blocks()))
	to = binary.LittleEndian.AppendUint32(to, sum)
	return binary.LittleEndian.AppendUint32(to, checksum(position(l.identity, trailerPosition), to[start:]))
}

// readTrailer reads the trailer of a file of fileSize bytes whose header is known, and sets l.size.
func (l *layout) readTrailer(f io.ReaderAt, fileSize int64) (sum uint32, err error) {
	at := fileSize - trailerSize
	if at < l.start {
		return 0, corrupt(fileSize, "the file ends before its trailer")
	}
	var b [trailerSize]byte
	if err := readFull(f, b[:], at); err != nil {
		return 0, err
	}
	stated := binary.LittleEndian.Uint32(b[20:])
	if got := checksum(position(l.identity, trailerPosition), b[:20]); got != stated {
		return 0, corrupt(at, "checksum mismatch: the trailer has %08x and says %08x; the file may be cut short", got, stated)
	}
	size, blocks := binary.LittleEndian.Uint64(b[0:]), binary.LittleEndian.Uint64(b[8:])
	if size > uint64(fileSize) {
		return 0, corrupt(at, "a body of %d bytes, in a file of %d", size, fileSize)
	}
	l.size = int64(size)
	if uint64(l.blocks()) != blocks || l.end() != at {
		return 0, corrupt(at, "a body of %d bytes in %d blocks does not end here", size, blocks)
	}
	return binary.LittleEndian.Uint32(b[16:]), nil
}

// readBlock reads block n into buf, which has room for a block and its checksum, and verifies it.
func (l layout) readBlock(f io.ReaderAt, n int64, buf []byte) (content []byte, sum uint32, err error) {
	length := min(BlockSize, l.size-n*BlockSize)
	b := buf[:length+sumSize]
	if err := readFull(f, b, l.blockAt(n)); err != nil {
		return nil, 0, err
	}
	content, sum = b[:length], binary.LittleEndian.Uint32(b[length:])
	if got := blockSum(l.identity, n, content); got != sum {
		return nil, 0, corrupt(l.blockAt(n), "checksum mismatch: block %d has %08x and says %08x", n, got, sum)
	}
	return content, sum, nil
}

// notForeign returns ErrForeign if the file with the name of a body is not one of this package.
func (s *Store) notForeign(index uint64) error {
	name := bodyName(index)
	f, err := s.fs.OpenFile(filepath.Join(s.dir, name), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err == nil {
		_, _, _, err = readHeader(f, size)
	}
	if isCorrupt(err) {
		return nil
	}
	return fileError(name, err)
}
