package mvcc

import (
	"fmt"
	"runtime"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What a million keys take in memory beside their bytes, with one version each, and what another
// version of each takes.
func BenchmarkMemory(b *testing.B) {
	const keys, key, value = 1_000_000, 16, 100
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for b.Loop() {
		s := New()
		before := heap()
		for version := range 2 {
			for i := range keys {
				put := &pb.PutRequest{Key: fmt.Appendf(make([]byte, 0, key), "key%0*d", key-3, i), Value: make([]byte, value)}
				if _, err := s.Put(put); err != nil {
					b.Fatal(err)
				}
			}
			now := heap()
			b.ReportMetric((now-before)/keys-key-value, []string{"B/key", "B/version"}[version])
			before = now
		}
		b.ReportMetric(float64(s.Stats().Size)/keys/2-key-value, "B/version-in-quota")
		runtime.KeepAlive(s)
	}
}
