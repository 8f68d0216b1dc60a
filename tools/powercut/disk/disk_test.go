package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stele-wal/stele/tools/powercut/disk"
)

const size = 64 << 10

func content(m *disk.Image) []byte {
	b := make([]byte, m.Size())
	m.ReadAt(b, 0)
	return b
}

// A write that was flushed survives every power cut; one that was not is there or not.
func Example() {
	d := disk.New(size)
	d.Record()
	d.WriteAt([]byte("flushed"), 0)
	d.Flush()
	d.WriteAt([]byte("written"), 512)
	trace := d.Trace()

	for _, choice := range []disk.Choice{disk.None, disk.All} {
		image, _ := trace.Cutter(nil).Cut(disk.Cut{At: 3, Choice: choice})
		b := content(image)
		fmt.Printf("%v: %q %q\n", choice, b[:7], b[512:519])
	}
	// Output:
	// none: "flushed" "\x00\x00\x00\x00\x00\x00\x00"
	// all: "flushed" "written"
}

// TestAnImageIsBytes compares images and their clones with plain slices.
func TestAnImageIsBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	images, plain := []*disk.Image{disk.NewImage(size)}, [][]byte{make([]byte, size)}
	for range 2000 {
		i := rng.IntN(len(images))
		off := rng.Int64N(size)
		switch n := rng.IntN(10); {
		case n < 5:
			b := bytes.Repeat([]byte{byte(rng.IntN(255) + 1)}, rng.IntN(9000))
			images[i].WriteAt(b, off)
			copy(plain[i][off:], b)
		case n < 9:
			n := rng.Int64N(20000)
			images[i].Zero(off, n)
			clear(plain[i][off:min(off+n, size)])
		case len(images) < 8:
			images, plain = append(images, images[i].Clone()), append(plain, bytes.Clone(plain[i]))
		}
	}
	for i := range images {
		if !bytes.Equal(content(images[i]), plain[i]) {
			t.Errorf("image %d is not what was written to it", i)
		}
		whole := make([]byte, size)
		for off, b := range images[i].Extents {
			copy(whole[off:], b)
		}
		if !bytes.Equal(whole, plain[i]) {
			t.Errorf("the extents of image %d are not all of it", i)
		}
	}
	b := make([]byte, 100)
	if n := images[0].ReadAt(b, size-40); n != 40 {
		t.Errorf("40 bytes before the end there are %d", n)
	}
}

// record returns a trace of random operations, and the content of the disk after each.
func record(rng *rand.Rand) (*disk.Trace, [][]byte) {
	d := disk.New(size)
	d.WriteAt(bytes.Repeat([]byte{0xee}, size), 0)
	d.Record()
	after := [][]byte{content(d.Save())}
	for i := range 60 {
		switch n := rng.IntN(8); {
		case n < 5:
			d.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 512*(1+rng.IntN(12))), 512*rng.Int64N(100))
		case n < 6:
			d.Zero(512*rng.Int64N(100), 512*rng.Int64N(12))
		default:
			d.Flush()
		}
		if d.Position() != i+1 {
			panic("a position that does not follow")
		}
		after = append(after, content(d.Save()))
	}
	return d.Trace(), after
}

// flushed returns the position after the last flush before a position.
func flushed(t *disk.Trace, at int) int {
	for i := at - 1; i >= 0; i-- {
		if t.Ops[i].Kind == disk.Flush {
			return i + 1
		}
	}
	return 0
}

func TestACutKeepsWhatWasFlushed(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 12 {
		trace, after := record(rng)
		cutter := trace.Cutter(nil)
		for at := 0; at <= len(trace.Ops); at++ {
			durable := flushed(trace, at)
			touched := make([]bool, size) // by what no flush covers
			for _, op := range trace.Ops[durable:at] {
				for i := op.Off; i < min(op.Off+op.Len, size); i++ {
					touched[i] = true
				}
			}
			for choice := disk.None; choice <= disk.Torn; choice++ {
				c := disk.Cut{At: at, Choice: choice, Seed: rng.Uint64()}
				image, pending := cutter.Cut(c)
				got := content(image)
				if pending != at-durable {
					t.Fatalf("%v: %d operations pending, want %d", c, pending, at-durable)
				}
				for i := range got {
					if !touched[i] && got[i] != after[durable][i] {
						t.Fatalf("%v: byte %d is %d, and %d was flushed", c, i, got[i], after[durable][i])
					}
				}
				if choice == disk.None && !bytes.Equal(got, after[durable]) || choice == disk.All && !bytes.Equal(got, after[at]) {
					t.Fatalf("%v: the image is another", c)
				}
				again, _ := cutter.Cut(c)
				if !bytes.Equal(got, content(again)) {
					t.Fatalf("%v: the image is another the second time", c)
				}
			}
		}
	}
}

// TestEveryChoiceDiffers counts what the choices make of one write of many sectors, and of many
// writes.
func TestEveryChoiceDiffers(t *testing.T) {
	d := disk.New(size)
	d.Record()
	for i := range 8 {
		d.WriteAt(bytes.Repeat([]byte{1}, 4096), int64(i)*4096)
	}
	trace := d.Trace()
	count := func(c disk.Choice, whole func(disk.Op) bool) map[int]bool { // bytes written
		sums := map[int]bool{}
		for seed := range uint64(200) {
			image, _ := trace.Cutter(whole).Cut(disk.Cut{At: 8, Choice: c, Seed: seed})
			sums[bytes.Count(content(image), []byte{1})] = true
		}
		return sums
	}
	only := func(sums map[int]bool, allowed func(int) bool) bool {
		for n := range sums {
			if !allowed(n) {
				return false
			}
		}
		return true
	}
	pages := func(n int) bool { return n%4096 == 0 }
	tests := []struct {
		choice disk.Choice
		least  int // different sums
		legal  func(int) bool
	}{
		{disk.None, 1, func(n int) bool { return n == 0 }},
		{disk.All, 1, func(n int) bool { return n == 8*4096 }},
		{disk.DropOne, 1, func(n int) bool { return n == 7*4096 }},
		{disk.KeepOne, 1, func(n int) bool { return n == 4096 }},
		{disk.Subset, 5, pages},
		{disk.Sectors, 10, func(n int) bool { return n%512 == 0 }},
		{disk.Torn, 50, func(n int) bool { return n < 8*4096 }},
	}
	for _, test := range tests {
		sums := count(test.choice, nil)
		if len(sums) < test.least || !only(sums, test.legal) {
			t.Errorf("%v: sums %v", test.choice, sums)
		}
		if whole := count(test.choice, func(disk.Op) bool { return true }); !only(whole, pages) {
			t.Errorf("%v takes apart what is to be whole: %v", test.choice, whole)
		}
	}
	torn := count(disk.Torn, nil)
	if only(torn, func(n int) bool { return n%512 == 0 }) {
		t.Error("no sector was torn")
	}
}

func TestAFaultChangesNothing(t *testing.T) {
	d := disk.New(size)
	d.Record()
	broken := errors.New("broken")
	d.Fail(func(_ int, op disk.Op) error {
		if op.Kind == disk.Flush || op.Off == 512 {
			return broken
		}
		return nil
	})
	if err := d.WriteAt([]byte{1}, 512); err != broken {
		t.Errorf("a write that fails returns %v", err)
	}
	if err := d.Flush(); err != broken {
		t.Errorf("a flush that fails returns %v", err)
	}
	if err := d.WriteAt([]byte{1}, 0); err != nil {
		t.Errorf("a write that does not fail returns %v", err)
	}
	if b := content(d.Save()); b[512] != 0 || b[0] != 1 {
		t.Errorf("the disk has %d and %d", b[512], b[0])
	}
	if trace := d.Trace(); len(trace.Ops) != 1 {
		t.Errorf("the trace has %d operations", len(trace.Ops))
	}
	d.Load(disk.NewImage(size))
	if err := d.Flush(); err != nil {
		t.Errorf("after Load a flush returns %v", err)
	}
}
