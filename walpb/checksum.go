package walpb

import (
	"encoding/binary"

	"github.com/klauspost/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the chain continued over data: CRC-32C (Castagnoli), so that
// Checksum(Checksum(chain, a), b) == Checksum(chain, append(a, b...)). A new log's chain is 0.
// It may be called concurrently and does not allocate.
func Checksum(chain uint32, data []byte) uint32 {
	return crc32.Update(chain, castagnoli, data)
}

// update is Checksum, by the way that is faster for the length of b.
func update(sum uint32, b []byte) uint32 {
	if len(b) > 64 {
		return Checksum(sum, b)
	}
	return updateShort(sum, b)
}

// updateShort is Checksum for heads, of some twenty bytes on the stack. The library calls its
// assembly through a variable, so the compiler must assume that the bytes escape and would allocate
// them; and for so few, eight tables are as fast.
func updateShort(sum uint32, b []byte) uint32 {
	sum = ^sum
	for len(b) >= 8 {
		sum = sumWord(sum, binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	for _, c := range b {
		sum = sumByte(sum, c)
	}
	return ^sum
}

// sumWord, sumByte and sumUvarint continue the complement of a checksum: over the eight bytes of v,
// the lowest first; over one; and over those of v's varint, see appendUvarint.
func sumWord(sum uint32, v uint64) uint32 {
	v ^= uint64(sum)
	return slicing[7][byte(v)] ^ slicing[6][byte(v>>8)] ^ slicing[5][byte(v>>16)] ^ slicing[4][byte(v>>24)] ^
		slicing[3][byte(v>>32)] ^ slicing[2][byte(v>>40)] ^ slicing[1][byte(v>>48)] ^ slicing[0][byte(v>>56)]
}

func sumByte(sum uint32, c byte) uint32 { return slicing[0][byte(sum)^c] ^ sum>>8 }

func sumUvarint(sum uint32, v uint64) uint32 {
	for ; v >= 0x80; v >>= 7 {
		sum = sumByte(sum, byte(v)|0x80)
	}
	return sumByte(sum, byte(v))
}

// slicing[k][c] is what the byte c does to the checksum when k more bytes follow it.
var slicing = func() (t [8][256]uint32) {
	t[0] = *castagnoli
	for k := 1; k < len(t); k++ {
		for c, sum := range t[k-1] {
			t[k][c] = t[0][byte(sum)] ^ sum>>8
		}
	}
	return t
}()

// ChecksumWord is Checksum over the eight bytes of v, the lowest first. Unlike Checksum over a
// small array it allocates nothing.
func ChecksumWord(chain uint32, v uint64) uint32 { return ^sumWord(^chain, v) }
