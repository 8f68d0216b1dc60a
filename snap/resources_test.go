package snap

import (
	"encoding/binary"
	"flag"
	"hash/crc32"
	"io"
	"runtime"
	"testing"

	"github.com/stele-wal/stele/walpb"
)

var long = flag.Bool("long", false, "run what takes minutes or gigabytes, too")

// The bound is on all that is allocated from first to last, so that it needs no sampling and bounds
// the heap too.
func TestStreamingTakesTheMemoryOfABlock(t *testing.T) {
	total := int64(256 << 20)
	if *long {
		total = 1 << 30
	} else {
		t.Log("256 MiB; -long makes it 1 GiB")
	}
	s, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)

	w, err := s.Create(walpb.Snapshot{Index: 1, Term: 1})
	if err != nil {
		t.Fatal(err)
	}
	in := crc32.NewIEEE()
	if n, err := io.Copy(io.MultiWriter(w, in), io.LimitReader(new(counter), total)); n != total || err != nil {
		t.Fatal(n, err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	r, err := s.NewestBody([]walpb.Snapshot{{Index: 1, Term: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := crc32.NewIEEE()
	if n, err := io.Copy(out, r); n != total || err != nil || in.Sum32() != out.Sum32() {
		t.Errorf("%d, %v: %08x, %08x", n, err, in.Sum32(), out.Sum32())
	}

	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("%d bytes took %d of memory", total, got)
	} else {
		t.Logf("%d bytes took %d of memory", total, got)
	}
}

// counter reads as bytes that are not the same in any two blocks.
type counter struct{ n uint64 }

func (c *counter) Read(p []byte) (int, error) {
	clear(p)
	c.n++
	binary.LittleEndian.PutUint64(p, c.n)
	return len(p), nil
}

func TestBlocksAreWrittenAndReadWithoutAllocating(t *testing.T) {
	s, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(walpb.Snapshot{Index: 1, Term: 1})
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, BlockSize)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a block written", n)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenBody(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := testing.AllocsPerRun(200, func() {
		if _, err := io.ReadFull(r, block); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a block read", n)
	}
}

// A Save copies neither the state nor the file.
func TestSaveTakesLittleMemory(t *testing.T) {
	s, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	snapshot := Snapshot{Index: 1, Term: 1, Data: make([]byte, 32<<20)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 2 { // the second finds it there
		if err := s.Save(snapshot); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("took %d bytes", got)
	}
}

func BenchmarkBodyWrite(b *testing.B) {
	s, err := Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 16<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		w, err := s.Create(walpb.Snapshot{Index: 1, Term: 1})
		if err != nil {
			b.Fatal(err)
		}
		w.Write(data)
		if err := w.Commit(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBodyVerify(b *testing.B) {
	s, err := Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	writeBody(b, s, 1, 16<<20)
	b.SetBytes(16 << 20)
	for b.Loop() {
		r, err := s.OpenBody(1)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Verify(); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}
