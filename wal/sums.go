package wal

import (
	"github.com/stele-wal/stele/walpb"

	"github.com/stele-wal/stele/wal/internal/frame"
)

// sums gives the checksum of any part of a file after a place, without reading much of that part: a
// search that could be made to sum the same megabytes from thousands of places would not come to an
// end. It keeps four bytes for each sumStep of the file, as far as it was asked.
type sums struct {
	window frame.Window
	from   int64
	after  []uint32 // after[i] is the checksum of the i*sumStep bytes from the place on
}

const sumStep = frame.PageSize

// continued returns the chain continued over the bytes from a to b: walpb.Checksum(chain, those
// bytes).
func (s *sums) continued(chain uint32, a, b int64) (uint32, error) {
	if b-a <= 2*sumStep {
		return s.read(chain, a, b)
	}
	before, err := s.upTo(a)
	if err != nil {
		return 0, err
	}
	all, err := s.upTo(b)
	// A checksum is linear: what stands before a part adds to it what it would be if the part were
	// all zeros.
	return all ^ overZeros(before^chain, b-a), err
}

// upTo returns the checksum of the bytes from the place to an offset.
func (s *sums) upTo(offset int64) (uint32, error) {
	i := (offset - s.from) / sumStep
	for n := int64(len(s.after)); n <= i; n++ {
		if n == 0 {
			s.after = append(s.after, 0)
			continue
		}
		next, err := s.read(s.after[n-1], s.from+(n-1)*sumStep, s.from+n*sumStep)
		if err != nil {
			return 0, err
		}
		s.after = append(s.after, next)
	}
	return s.read(s.after[i], s.from+i*sumStep, offset)
}

// read continues a chain over the bytes from a to b.
func (s *sums) read(chain uint32, a, b int64) (uint32, error) {
	for a < b {
		n := int(min(b-a, sumStep))
		p, err := s.window.At(a, n)
		if err != nil {
			return 0, err
		}
		chain = walpb.Checksum(chain, p)
		a += int64(n)
	}
	return chain, nil
}

// overZeros returns a chain continued over n bytes of zeros, less what these add to a chain of 0.
// That is the chain times x to the power of 8n, as polynomials over the field of two elements,
// modulo Castagnoli's.
func overZeros(chain uint32, n int64) uint32 {
	for k := 0; n > 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			chain = times(chain, zeroBytes[k])
		}
	}
	return chain
}

// zeroBytes[k] is x to the power of 8 times 2 to the power of k.
var zeroBytes = func() (t [63]uint32) {
	t[0] = 1 << (31 - 8) // the lowest power is in the highest bit
	for k := 1; k < len(t); k++ {
		t[k] = times(t[k-1], t[k-1])
	}
	return t
}()

// times multiplies two polynomials modulo Castagnoli's, the lowest power in the highest bit of
// each.
func times(a, b uint32) (product uint32) {
	const castagnoli = 0x82f63b78
	for ; a != 0; a <<= 1 {
		if a>>31 != 0 {
			product ^= b
		}
		// b times x
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= castagnoli
		}
	}
	return product
}
