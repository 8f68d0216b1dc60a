package wal

import (
	"math/rand/v2"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal/internal/frame"
	"github.com/stele-wal/stele/walpb"
)

// The checksum of a part can be computed from those of what ends before it and with it.
func TestSumsOfParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{}).Read(b)
	clear(b[100_000:150_000])
	disk := crashfs.Load(map[string][]byte{"/f": b})
	f, err := disk.OpenFile("/f", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, from := range []int64{0, 8, 4096, 5000} {
		s := sums{from: from, window: frame.Window{Chunk: sumStep}}
		s.window.Reset(f, int64(len(b)))
		for range 2000 {
			a := from + rng.Int64N(int64(len(b))-from)
			z := a + rng.Int64N(int64(len(b))-a+1)
			chain := rng.Uint32()
			if got, err := s.continued(chain, a, z); err != nil || got != walpb.Checksum(chain, b[a:z]) {
				t.Fatalf("from %d to %d, counted from %d: %08x, %v", a, z, from, got, err)
			}
		}
	}
}
