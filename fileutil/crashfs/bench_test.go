package crashfs_test

import (
	"bytes"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

// benchFS holds three files of 64 KiB full of data, a batch of 4 KiB pending in one and another
// preallocated.
func benchFS(b *testing.B) *crashfs.FS {
	data := bytes.Repeat([]byte("stele"), 1<<16)[:1<<16]
	f := crashfs.Load(map[string][]byte{"d/1": data, "d/2": data, "d/3": data})
	h := open(b, f, "d/3", os.O_RDWR)
	write(b, h, string(bytes.Repeat([]byte("x"), 4096)), 1<<15)
	must(b, open(b, f, "d/2", os.O_RDWR).Preallocate(1<<20))
	return f
}

func BenchmarkClone(b *testing.B) {
	f := benchFS(b)
	b.ReportAllocs()
	for b.Loop() {
		f.Clone()
	}
}

func BenchmarkCrash(b *testing.B) {
	f := benchFS(b)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name   string
		choose crashfs.Chooser
	}{
		{"KeepAll", crashfs.KeepAll}, {"DropAll", crashfs.DropAll}, {"Prefix", crashfs.Prefix(5)},
		{"Random", crashfs.Random(rng)}, {"Tear", crashfs.Tear(rng)}, {"Garbage", crashfs.Garbage(rng)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f.Crash(c.choose)
			}
		})
	}
}

// A campaign clones at every operation, so that each write finds everything shared.
func BenchmarkWriteAfterClone(b *testing.B) {
	f := benchFS(b)
	h := open(b, f, "d/3", os.O_RDWR)
	data := bytes.Repeat([]byte("y"), 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Clone()
		data[0] = byte(i)
		if _, err := h.WriteAt(data, 0); err != nil {
			b.Fatal(err)
		}
		if err := h.SyncData(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	f := benchFS(b)
	seed := maphash.MakeSeed()
	b.ReportAllocs()
	for b.Loop() {
		f.Sum(seed)
	}
}
