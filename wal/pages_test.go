package wal

import (
	"bytes"
	"testing"
	"unsafe"
)

func TestPagesStayAlignedAndEndWithZeros(t *testing.T) {
	var p pages
	var want []byte
	for n := range 3000 {
		b := bytes.Repeat([]byte{byte(n) | 1}, n%97)
		if n%10 == 0 {
			p.grow(len(b))
			at := unsafe.SliceData(p.bytes)
			p.bytes = append(p.bytes, b...)
			if unsafe.SliceData(p.bytes) != at {
				t.Fatalf("%d bytes moved although there was room for them", len(p.bytes))
			}
		} else {
			p.append(b)
		}
		want = append(want, b...)
		if n%700 == 699 {
			tail := bytes.Clone(p.tail())
			want = want[len(want)/pageSize*pageSize:]
			if !bytes.Equal(tail, want) {
				t.Fatalf("the tail has %d bytes, want %d", len(tail), len(want))
			}
			p.reset() // what was there before is in the memory still
			p.append(tail)
		}
		got := p.whole()
		if uintptr(unsafe.Pointer(unsafe.SliceData(got)))%pageSize != 0 || len(got)%pageSize != 0 {
			t.Fatalf("%d bytes at %p", len(got), got)
		}
		if !bytes.Equal(got[:len(want)], want) || len(got) >= len(want)+pageSize || len(bytes.Trim(got[len(want):], "\x00")) > 0 {
			t.Fatalf("the %d bytes are not those %d that were appended, and zeros", len(got), len(want))
		}
	}
}
