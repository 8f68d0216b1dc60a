package mvcc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Two stores are given the same requests. One has each compaction swept before the next request,
// and one is swept a little between requests: no answer, hash or snapshot shows which is which.
func TestNothingShowsHowFarACompactionIsSwept(t *testing.T) {
	most := 0
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		whole, sliced := New(), New()
		at, slices := "", 0
		for i := range 600 {
			key := fmt.Appendf(nil, "k%02d", rng.IntN(40))
			switch rng.IntN(12) {
			case 0:
				r := &pb.DeleteRangeRequest{Key: key, RangeEnd: append(key, 'z')}
				if a, b := whole.DeleteRange(r), sliced.DeleteRange(r); !proto.Equal(a, b) {
					t.Fatalf("seed %d, step %d: %v, want %v", seed, i, b, a)
				}
			case 1:
				rev := whole.Rev() - int64(rng.IntN(20))
				if a, b := whole.Compact(rev), sliced.Compact(rev); !errors.Is(b, a) {
					t.Fatalf("seed %d, step %d: compact %d: %v, want %v", seed, i, rev, b, a)
				}
				whole.Sweep(nil)
			default:
				r := &pb.PutRequest{Key: key, Value: fmt.Append(nil, i), PrevKv: true}
				a, err1 := whole.Put(r)
				b, err2 := sliced.Put(r)
				if !proto.Equal(a, b) || err1 != nil || err2 != nil {
					t.Fatalf("seed %d, step %d: %v, want %v", seed, i, b, a)
				}
			}
			if next, ended := sliced.sweep(at, 5); ended {
				at, slices = "", 0
			} else {
				at = next
				slices++
				most = max(most, slices)
			}
			for range 3 {
				rev := whole.Rev() - int64(rng.IntN(40))
				r := &pb.RangeRequest{Key: fmt.Appendf(nil, "k%02d", rng.IntN(40)), RangeEnd: [][]byte{nil, {0}}[rng.IntN(2)], Revision: max(rev, 1)}
				a, err1 := whole.Range(r)
				b, err2 := sliced.Range(r)
				if !proto.Equal(a, b) || !errors.Is(err2, err1) {
					t.Fatalf("seed %d, step %d: at revision %d: %v (%v), want %v (%v)", seed, i, rev, b, err2, a, err1)
				}
				h1, err1 := whole.View().Hash(max(rev, 1))
				h2, err2 := sliced.View().Hash(max(rev, 1))
				if h1 != h2 || !errors.Is(err2, err1) {
					t.Fatalf("seed %d, step %d: hash %v (%v), want %v (%v)", seed, i, h2, err2, h1, err1)
				}
			}
			if i%20 == 0 && !bytes.Equal(bytesOf(t, whole.View()), bytesOf(t, sliced.View())) {
				t.Fatalf("seed %d, step %d: their snapshots differ", seed, i)
			}
		}
		// A process that dies in the middle goes on from a snapshot, in which nothing is left to
		// sweep.
		v, err := ReadView(bufio.NewReader(bytes.NewReader(bytesOf(t, sliced.View()))))
		if err != nil {
			t.Fatal(err)
		}
		again := New()
		again.Restore(v)
		sliced.Sweep(nil)
		if again.Stats() != whole.Stats() || sliced.Stats() != whole.Stats() {
			t.Errorf("seed %d: %+v from a snapshot, %+v swept, want %+v", seed, again.Stats(), sliced.Stats(), whole.Stats())
		}
	}
	if most < 10 {
		t.Errorf("a sweep took %d slices at most: this shows nothing", most)
	}
}

func TestWhatIsCompactedIsRefusedBeforeItIsSwept(t *testing.T) {
	s := filled(1)
	rev := s.Rev()
	for range 100 {
		if _, err := s.Put(&pb.PutRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	size := s.Stats().Size
	if err := s.Compact(s.Rev()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Swept():
		t.Error("all is swept, it says")
	default:
	}
	if _, err := s.Range(&pb.RangeRequest{Key: []byte("k"), Revision: rev}); !errors.Is(err, ErrCompacted) {
		t.Errorf("a read at %d: %v", rev, err)
	}
	if _, err := s.View().Hash(rev); !errors.Is(err, ErrCompacted) {
		t.Errorf("a hash at %d: %v", rev, err)
	}
	if err := s.Compact(s.Rev()); !errors.Is(err, ErrCompacted) {
		t.Errorf("again: %v", err)
	}
	stop := make(chan struct{})
	close(stop)
	s.Sweep(stop) // it returns, and the next goes on
	s.Sweep(nil)
	<-s.Swept()
	if got := s.Stats().Size; got >= size {
		t.Errorf("%d bytes after the sweep, %d before", got, size)
	}
}

// How long the longest read or write of a key takes while a million keys are swept.
func BenchmarkWaitForACompaction(b *testing.B) {
	const keys = 1_000_000
	s := New()
	var longest time.Duration
	fill := func() {
		for i := range keys {
			if _, err := s.Put(&pb.PutRequest{Key: fmt.Appendf(nil, "key%07d", i), Value: make([]byte, 100)}); err != nil {
				b.Fatal(err)
			}
		}
	}
	fill()
	rng := rand.New(rand.NewPCG(1, 1))
	ops := 0
	for b.Loop() {
		b.StopTimer()
		fill()
		b.StartTimer()
		took := func(f func()) {
			began := time.Now()
			f()
			longest = max(longest, time.Since(began))
			ops++
		}
		took(func() {
			if err := s.Compact(s.Rev()); err != nil {
				b.Fatal(err)
			}
		})
		go s.Sweep(nil)
		for swept := s.Swept(); ; {
			key := fmt.Appendf(nil, "key%07d", rng.IntN(keys))
			took(func() { _, _ = s.Range(&pb.RangeRequest{Key: key}) })
			took(func() { _, _ = s.Put(&pb.PutRequest{Key: key, Value: key}) })
			select {
			case <-swept:
			default:
				continue
			}
			break
		}
	}
	b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest")
	b.ReportMetric(float64(ops)/float64(b.N), "requests")
}
