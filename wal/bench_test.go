package wal_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// appender makes batches of entries that follow on each other, without allocating.
type appender struct {
	entries []walpb.Entry
	state   walpb.HardState
	last    uint64
}

func newAppender(batch, size int) *appender {
	a := &appender{entries: make([]walpb.Entry, batch), state: walpb.HardState{Term: 1, Vote: 1}}
	for i := range a.entries {
		a.entries[i] = walpb.Entry{Term: 1, Data: make([]byte, size)}
		for j := range a.entries[i].Data {
			a.entries[i].Data[j] = byte(j*31 + i)
		}
	}
	return a
}

func (a *appender) next() (walpb.HardState, []walpb.Entry) {
	for i := range a.entries {
		a.last++
		a.entries[i].Index = a.last
	}
	return a.state, a.entries
}

func BenchmarkSave(b *testing.B) {
	for _, sync := range []bool{false, true} {
		for _, c := range []struct{ size, batch int }{{128, 1}, {128, 64}, {1024, 1}, {1024, 64}, {16384, 1}} {
			b.Run(fmt.Sprintf("sync=%v/%dx%d", sync, c.size, c.batch), func(b *testing.B) {
				w, err := wal.Create(filepath.Join(b.TempDir(), "wal"), nil, &wal.Options{NoSync: !sync})
				if err != nil {
					b.Fatal(err)
				}
				defer w.Close()
				a := newAppender(c.batch, c.size)
				b.SetBytes(int64(c.size * c.batch))
				b.ReportAllocs()
				for b.Loop() {
					if err := w.Save(a.next()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSaveConcurrently shows what callers that share a sync gain.
func BenchmarkSaveConcurrently(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			w, err := wal.Create(filepath.Join(b.TempDir(), "wal"), nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			var (
				order sync.Mutex // of indexes
				a     = newAppender(1, 1024)
				done  sync.WaitGroup
			)
			b.SetBytes(1024)
			b.ResetTimer()
			for c := range callers {
				done.Go(func() {
					acked := make(chan error, 1)
					for i := c; i < b.N; i += callers {
						order.Lock()
						s, e := a.next()
						err := w.Append(s, e, func(err error) { acked <- err })
						order.Unlock()
						if err == nil {
							err = <-acked
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			done.Wait()
		})
	}
}

func BenchmarkRecords(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "wal")
	const total = 128 << 20
	writeLog(b, dir, total, 1024)
	b.Run("Records", func(b *testing.B) {
		b.SetBytes(total)
		b.ReportAllocs()
		for b.Loop() {
			for _, err := range wal.Records(dir, 0, nil) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("Replay", func(b *testing.B) {
		b.SetBytes(total)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Check", func(b *testing.B) {
		b.SetBytes(total)
		for b.Loop() {
			if _, err := wal.Check(dir, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// writeLog writes a log with total bytes of data in entries of size bytes.
func writeLog(tb testing.TB, dir string, total, size int) {
	w, err := wal.Create(dir, []byte("fill"), &wal.Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	a := newAppender(64, size)
	for n := 0; n < total; n += 64 * size {
		if err := w.Save(a.next()); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
}
