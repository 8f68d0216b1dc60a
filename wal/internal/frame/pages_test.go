package frame

import (
	"bytes"
	"testing"
	"unsafe"
)

func TestPagesStayAlignedAndEndWithZeros(t *testing.T) {
	var p Pages
	var want []byte
	for n := range 3000 {
		b := bytes.Repeat([]byte{byte(n) | 1}, n%97)
		if n%10 == 0 {
			p.Grow(len(b))
			at := unsafe.SliceData(p.Bytes)
			p.Bytes = append(p.Bytes, b...)
			if unsafe.SliceData(p.Bytes) != at {
				t.Fatalf("%d bytes moved although there was room for them", len(p.Bytes))
			}
		} else {
			p.Append(b)
		}
		want = append(want, b...)
		if n%700 == 699 {
			tail := bytes.Clone(p.Tail())
			want = want[len(want)/PageSize*PageSize:]
			if !bytes.Equal(tail, want) {
				t.Fatalf("the tail has %d bytes, want %d", len(tail), len(want))
			}
			p.Reset(1 << 20) // what was there before is in the memory still
			p.Append(tail)
		}
		got := p.Whole()
		if uintptr(unsafe.Pointer(unsafe.SliceData(got)))%PageSize != 0 || len(got)%PageSize != 0 {
			t.Fatalf("%d bytes at %p", len(got), got)
		}
		if !bytes.Equal(got[:len(want)], want) || len(got) >= len(want)+PageSize || len(bytes.Trim(got[len(want):], "\x00")) > 0 {
			t.Fatalf("the %d bytes are not those %d that were appended, and zeros", len(got), len(want))
		}
	}
}
