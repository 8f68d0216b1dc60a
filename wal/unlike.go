package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/stele-wal/stele/walpb"
)

// unlike returns what the frame at a place, which is not good, has that no crash leaves of a batch, so that it must have been
// damaged later; noProof if there is nothing. chain is that of the records before it.
//
// A crash leaves any of a batch's sectors as they were before, which is zeros; one of them torn, with zeros from some byte
// on; or one turned to garbage. See FORMAT.md, chapters 8 and 9.
func (s *seeker) unlike(from int64, chain uint32) (proof, error) {
	if s.step != wordSize { // of frames without padding too little is known
		return noProof, nil
	}
	if s.size-from < wordSize {
		return cutOff, nil // every frame is a multiple of a word long, and so is every write
	}
	b, err := s.heads.at(from, int(min(wordSize+maxHead, s.size-from)))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return noProof, nil // the file became shorter while it was read
	}
	if err != nil {
		return noProof, err
	}
	length := int64(binary.LittleEndian.Uint64(b) & wordLength) // whatever the top byte says
	if length == 0 || length > maxLength {
		return noProof, nil
	}
	head := bytes.Clone(b[wordSize:min(int64(len(b)), wordSize+length)])
	if length+int64(padding(int(length&(wordSize-1)))) > s.size-from-wordSize {
		// Its two lengths agree, so it was written here, and the file did not end then.
		var r walpb.Record
		if _, err := r.UnmarshalHead(head, int(length)); err == nil && s.size%sectorSize != 0 {
			return cutOff, nil
		}
		return noProof, nil
	}
	// The data ends the record, and its length stands before it, after a tag, whatever that says.
	for i := range head {
		n, size := binary.Uvarint(head[i+1:])
		data := from + wordSize + int64(i+1+size)
		if size <= 0 || n == 0 || n > uint64(length) || data+int64(n) != from+wordSize+length {
			continue
		}
		ok, err := s.whole(from, head[:i], data, data+int64(n), chain)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return noProof, nil
		}
		if err != nil || ok {
			return whole, err
		}
	}
	return noProof, nil
}

// whole reports whether the data between two offsets continues the chain to a checksum that stands in the head before it, and
// no torn sector can have left what else is in the frame.
func (s *seeker) whole(from int64, head []byte, data, end int64, chain uint32) (bool, error) {
	sum, err := s.sums.continued(chain, data, end)
	if err != nil {
		return false, err
	}
	var crc [binary.MaxVarintLen32]byte
	n := binary.PutUvarint(crc[:], uint64(sum))
	if n < 4 || !bytes.Contains(head, crc[:n]) { // a shorter one may be there by chance
		return false, nil
	}
	// Where the data begins in the head's own sector, that was not torn before it. Nor was a sector whose last byte is not zero.
	for at := from/sectorSize*sectorSize + sectorSize; at <= data; at += sectorSize {
		b, err := s.links.at(at-1, 1)
		if err != nil || b[0] == 0 {
			return false, err
		}
	}
	if b, err := s.links.at(data, 1); err != nil || b[0] == 0 {
		return false, err
	}
	// Padding that is not zero is garbage, perhaps, in a sector that has so little data that it may be right by chance.
	pad := padding(int((end - from) & (wordSize - 1)))
	b, err := s.links.at(end, pad)
	if err != nil {
		return false, err
	}
	return nonZero(b) == 0 || end-data >= wordSize && (end-wordSize)/sectorSize == (end-1)/sectorSize, nil
}
