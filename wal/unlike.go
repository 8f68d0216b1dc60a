package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"iter"

	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/walpb"
)

// unlike returns what the frame at a place, which is not good, has that no crash leaves of a batch,
// so that it must have been damaged later; noProof if there is nothing. chain is that of the
// records before it.
//
// A crash leaves any of a batch's sectors as they were before, which is zeros; one of them torn,
// with zeros from some byte on; or one turned to garbage. See FORMAT.md, chapters 8 and 9.
func (s *seeker) unlike(from int64, chain uint32) (proof, error) {
	if s.step != frame.WordSize { // of frames without padding too little is known
		return noProof, nil
	}
	if s.size-from < frame.WordSize {
		return cutOff, nil // every frame is a multiple of a word long, and so is every write
	}
	b, err := s.heads.At(from, int(min(frame.WordSize+frame.MaxHead, s.size-from)))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return noProof, nil // the file became shorter while it was read
	}
	if err != nil {
		return noProof, err
	}
	word, head := binary.LittleEndian.Uint64(b), bytes.Clone(b[frame.WordSize:])
	length := frame.Length(word) // whatever the top byte says
	if length <= frame.MaxLength && length+int64(frame.Padding(int(length&(frame.WordSize-1)))) > s.size-from-frame.WordSize && s.size%frame.SectorSize != 0 {
		// If its two lengths agree, it was written here, and the file did not end then.
		var r walpb.Record
		if _, err := r.UnmarshalHead(head, int(length)); err == nil {
			return cutOff, nil
		}
	}
	for data, end := range s.spans(from, length, head) {
		ok, err := s.whole(from, head, data, end, chain)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return noProof, nil
		}
		if err != nil || ok {
			return whole, err
		}
	}
	return noProof, nil
}

// spans yields where the data of a record may begin and end, of which the first bytes and the
// length in its frame's length word are given. Either that length or the one that stands before the
// data may be wrong, and so may the tags. The length word alone may be garbage that a crash has
// left, where it is the last of its sector.
func (s *seeker) spans(from, length int64, head []byte) iter.Seq2[int64, int64] {
	return func(yield func(data, end int64) bool) {
		end := from + frame.WordSize + length
		inFile := length > 0 && length <= s.size-from-frame.WordSize
		mayLie := from/frame.SectorSize == (from+frame.WordSize+crcAt+binary.MaxVarintLen32-1)/frame.SectorSize
		for i := crcAt; i < len(head); i++ {
			at := from + frame.WordSize + int64(i)
			if n, size := binary.Uvarint(head[i:]); mayLie && size > 0 && 0 < n && n <= uint64(max(0, s.size-at-int64(size))) {
				if data := at + int64(size); !yield(data, data+int64(n)) {
					return
				}
			}
			if inFile && at < end && !yield(at, end) {
				return
			}
		}
	}
}

// crcAt is where in a record its checksum stands, after a type of one byte.
const crcAt = 3

// whole reports whether the data between two offsets continues the chain to the checksum in the
// head before it, and no torn sector can have left what else is in the frame.
func (s *seeker) whole(from int64, head []byte, data, end int64, chain uint32) (bool, error) {
	sum, err := s.sums.continued(chain, data, end)
	if err != nil {
		return false, err
	}
	var crc [binary.MaxVarintLen32]byte
	n := binary.PutUvarint(crc[:], uint64(sum))
	if n < 4 || !bytes.HasPrefix(head[crcAt:], crc[:n]) { // a shorter one may be there by chance
		return false, nil
	}
	// Where the data begins in the head's own sector, that was not torn before it. Nor was a sector
	// whose last byte is not zero.
	for at := from/frame.SectorSize*frame.SectorSize + frame.SectorSize; at <= data; at += frame.SectorSize {
		b, err := s.links.At(at-1, 1)
		if err != nil || b[0] == 0 {
			return false, err
		}
	}
	if b, err := s.links.At(data, 1); err != nil || b[0] == 0 {
		return false, err
	}
	// Padding that is not zero is garbage, perhaps, in a sector that has so little data that it may
	// be right by chance.
	pad := frame.Padding(int((end - from) & (frame.WordSize - 1)))
	b, err := s.links.At(end, pad)
	if err != nil {
		return false, err
	}
	return frame.NonZero(b) == 0 || end-data >= frame.WordSize && (end-frame.WordSize)/frame.SectorSize == (end-1)/frame.SectorSize, nil
}
