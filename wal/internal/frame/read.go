package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/stele-wal/stele/walpb"
)

// A Fault is why a frame is not good.
type Fault struct {
	Reason Reason
	Detail string
}

// A Reason is a kind of Fault.
type Reason uint8

const (
	None       Reason = iota // the frame is good
	AtEnd                    // the file ends where a frame would begin
	ZeroLength               // a length word of zero
	BadLength                // a length word that no writer wrote, or that goes beyond the file
	BadPadding               // padding that is not zero
	BadRecord                // bytes that are no record
	ShortFile                // the file ends inside a length word, or became shorter
)

// Read reads the frame at an offset of a window's file: its length word, the bytes of its record,
// which r has been decoded from, and its size. The chain and the header_crc are not checked. The
// bytes are valid until the next call.
func Read(w *Window, offset int64, r *walpb.Record) (word uint64, b []byte, size int64, why Fault, err error) {
	left := w.Size - offset
	if left == 0 {
		return 0, nil, 0, Fault{Reason: AtEnd}, nil
	}
	if left < WordSize {
		return 0, nil, 0, Fault{ShortFile, fmt.Sprintf("%d bytes", left)}, nil
	}
	if b, err = w.At(offset, WordSize); err != nil {
		return shrunk(err)
	}
	word = binary.LittleEndian.Uint64(b)
	length, pad, why := parseLength(word, left-WordSize)
	if why.Reason != None {
		return word, nil, 0, why, nil
	}
	if b, err = w.At(offset+WordSize, int(length)+pad); err != nil {
		return shrunk(err)
	}
	if NonZero(b[length:]) != 0 {
		return word, nil, 0, Fault{BadPadding, fmt.Sprintf("% x", b[length:])}, nil
	}
	b = b[:length:length]
	if err := r.Unmarshal(b); err != nil {
		return word, nil, 0, Fault{BadRecord, err.Error()}, nil
	}
	return word, b, WordSize + length + int64(pad), Fault{}, nil
}

// parseLength returns the sizes that a length word states, if so much is left of the file.
func parseLength(word uint64, left int64) (length int64, pad int, why Fault) {
	if word == 0 {
		return 0, 0, Fault{Reason: ZeroLength}
	}
	length, pad, ok := ParseLengthWord(word)
	switch {
	case !ok:
		why = Fault{BadLength, fmt.Sprintf("length word %016x", word)}
	case length > left-int64(pad):
		why = Fault{BadLength, fmt.Sprintf("a record of %d bytes, but the file ends after %d", length, left)}
	case length > MaxLength:
		why = Fault{BadLength, fmt.Sprintf("a record of %d bytes, more than this machine can address", length)}
	}
	return length, pad, why
}

// shrunk turns the error of a read past the end of a file into the end of that file: a log that is
// being written was cut while it was read.
func shrunk(err error) (uint64, []byte, int64, Fault, error) {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, nil, 0, Fault{ShortFile, "the file became shorter while it was read"}, nil
	}
	return 0, nil, 0, Fault{}, err
}

// HeadSum returns what the header_crc of a record must be that was decoded from b, continued from a
// HeaderSeed. Where the record has no fields but ours, which is nearly always, the fields are at
// hand, and need not be looked for in its bytes again.
func HeadSum(r *walpb.Record, seed uint32, b []byte) (uint32, error) {
	if r.Size() != len(b) {
		return walpb.HeadSum(seed, b)
	}
	dataLen := len(r.Data)
	if r.Data == nil {
		dataLen = -1
	}
	return r.HeadSum(seed, dataLen), nil
}

// A Head is a frame as its first bytes tell: all but the content of its data.
type Head struct {
	walpb.Record
	Word    uint64
	Offset  int64
	Next    int64 // the offset at which the next frame begins
	DataAt  int64 // the offset of the content of data
	DataLen int   // -1: none
}

// ReadHead reads the head of the frame at an offset of a window's file. It is not ok if no writer
// of ours or etcd's wrote it so.
func ReadHead(w *Window, offset int64) (h Head, ok bool, err error) {
	if w.Size-offset < WordSize {
		return h, false, nil
	}
	b, err := w.At(offset, int(min(WordSize+MaxHead, w.Size-offset)))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return h, false, nil // the file became shorter while it was read
	}
	if err != nil {
		return h, false, err
	}
	h.Offset, h.Word = offset, binary.LittleEndian.Uint64(b)
	length, pad, ok := ParseLengthWord(h.Word)
	if !ok || length > MaxLength || length > w.Size-offset-WordSize-int64(pad) {
		return h, false, nil
	}
	h.Next = offset + WordSize + length + int64(pad)
	b = b[WordSize:min(int64(len(b)), WordSize+length)]
	if h.DataLen, err = h.UnmarshalHead(b, int(length)); err != nil {
		return h, false, nil
	}
	h.DataAt = offset + WordSize + length - int64(max(h.DataLen, 0))
	return h, walpb.TypeMetadata <= h.Type && h.Type <= walpb.TypeSnapshot, nil
}

// Sum returns what the header_crc of the frame must be in a segment of that identity.
func (h *Head) Sum(identity uint32) uint32 {
	return h.HeadSum(HeaderSeed(identity, h.Offset, h.Word), h.DataLen)
}

// NonZero returns where the last byte of b that is not zero ends.
func NonZero(b []byte) int {
	n := len(b)
	for n >= WordSize && binary.LittleEndian.Uint64(b[n-WordSize:]) == 0 {
		n -= WordSize
	}
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}
