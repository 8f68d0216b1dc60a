package wal_test

import (
	"flag"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

var long = flag.Bool("long", false, "run what takes minutes or gigabytes, too")

// D21.
func TestSaveAllocatesNothing(t *testing.T) {
	for _, o := range []wal.Options{{}, {NoSync: true}, {PlainEtcd: true}} {
		for _, batch := range []int{1, 64} {
			w, err := wal.Create(filepath.Join(t.TempDir(), "wal"), nil, &o)
			if err != nil {
				t.Fatal(err)
			}
			a := newAppender(batch, 1024)
			save := func() {
				if err := w.Save(a.next()); err != nil {
					t.Fatal(err)
				}
			}
			for range 10 {
				save() // the buffers grow to what they need
			}
			if n := testing.AllocsPerRun(100, save); n != 0 {
				t.Errorf("%+v, %d entries: %v allocations a Save", o, batch, n)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// D21. The bound is on all that is allocated from first to last, so that it needs no sampling and
// bounds the heap too.
func TestRecordsOfALargeLogAllocateLittle(t *testing.T) {
	total := 256 << 20
	if *long {
		total = 1 << 30
	} else {
		t.Log("256 MiB; -long makes it 1 GiB")
	}
	dir := filepath.Join(t.TempDir(), "wal")
	writeLog(t, dir, total, 4096)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	for r, err := range wal.Records(dir, 0, nil) {
		if err != nil {
			t.Fatal(err)
		}
		n += len(r.Data)
	}
	runtime.ReadMemStats(&after)
	if n < total {
		t.Fatalf("read %d bytes of data", n)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("reading %d bytes allocated %d", n, got)
	} else {
		t.Logf("reading %d bytes allocated %d", n, got)
	}
}

// All entries in memory take little more than their data.
func TestReplayTakesLittleMoreThanTheData(t *testing.T) {
	const total = 64 << 20
	dir := filepath.Join(t.TempDir(), "wal")
	writeLog(t, dir, total, 1024)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	log, err := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := float64(after.HeapAlloc-before.HeapAlloc) / total; got > 1.2 {
		t.Errorf("%.3f bytes of memory for each of data", got)
	}
	runtime.KeepAlive(log)
}
