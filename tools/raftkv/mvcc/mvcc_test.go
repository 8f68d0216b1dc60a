package mvcc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// filled returns a Store after many random changes, some compacted, and all of that swept.
func filled(seed uint64) *Store {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := New()
	for i := range 300 {
		key := fmt.Appendf(nil, "k%d", rng.IntN(30))
		switch rng.IntN(6) {
		case 0:
			s.DeleteRange(&pb.DeleteRangeRequest{Key: key, RangeEnd: append(key, 'z')})
		case 1:
			_ = s.Compact(s.Rev() - int64(rng.IntN(10))) // compacted already, sometimes
		default:
			// Without a lease it cannot fail.
			_, _ = s.Put(&pb.PutRequest{Key: key, Value: fmt.Append(nil, i)})
		}
	}
	s.Sweep(nil)
	return s
}

func bytesOf(t testing.TB, v *View) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := v.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAStateIsReadAsItWasWritten(t *testing.T) {
	for seed := range uint64(20) {
		s := filled(seed)
		b := bytesOf(t, s.View())
		v, err := ReadView(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		again := New()
		again.Restore(v)
		want, err1 := s.View().Hash(0)
		got, err2 := again.View().Hash(0)
		if err1 != nil || err2 != nil || got != want || again.Stats() != s.Stats() {
			t.Errorf("seed %d: %v %v, want %v %v (%v, %v)", seed, got, again.Stats(), want, s.Stats(), err1, err2)
		}
	}
}

// A transaction within may put a key that a later one deletes: etcd lets both pass, and they are of
// one revision.
func TestAKeyThatARevisionPutsAndThenDeletesIsReadAsItWasWritten(t *testing.T) {
	within := func(op *pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{op}}}}
	}
	key := []byte("k")
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
	s := New()
	if _, err := s.Txn(&pb.TxnRequest{Success: []*pb.RequestOp{within(put), within(del)}}); err != nil {
		t.Fatal(err)
	}
	b := bytesOf(t, s.View())
	v, err := ReadView(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := v.Range(&pb.RangeRequest{Key: key}); err != nil || resp.Count != 0 || !bytes.Equal(bytesOf(t, v), b) {
		t.Errorf("it is read as %v (%v)", resp, err)
	}
	// The other way round is no state that a request makes.
	versions, _ := s.v.keys.Get("k")
	versions[0].sub, versions[1].sub = versions[1].sub, versions[0].sub
	if _, err := ReadView(bufio.NewReader(bytes.NewReader(bytesOf(t, s.View())))); !errors.Is(err, ErrMalformed) {
		t.Errorf("out of order: %v", err)
	}
}

func TestNoBeginningOfAStateIsTakenForIt(t *testing.T) {
	b := bytesOf(t, filled(1).View())
	for n := range b {
		if _, err := ReadView(bufio.NewReader(bytes.NewReader(b[:n]))); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestAKeyThatWouldNotBeReadIsNotWritten(t *testing.T) {
	s := New()
	if _, err := s.Put(&pb.PutRequest{Key: []byte("k"), Value: make([]byte, maxMessage)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.View().WriteTo(io.Discard); err == nil {
		t.Error("it is written")
	}
}

// A View is what compares: it must not change with the Store it is of.
func TestAViewStaysAsItIs(t *testing.T) {
	s := filled(2)
	v := s.View()
	before := bytesOf(t, v)
	for i := range 200 {
		if _, err := s.Put(&pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%40), Value: []byte("new")}); err != nil {
			t.Fatal(err)
		}
	}
	s.DeleteRange(&pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err := s.Compact(s.Rev()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytesOf(t, v), before) {
		t.Error("it changed")
	}
}

// The sizes that the quota goes by are what is there.
func TestStatsAreWhatAReaderCounts(t *testing.T) {
	for seed := range uint64(20) {
		s := filled(seed)
		var live int64
		resp, err := s.Range(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			live += (&version{kv: kv}).size()
		}
		var size int64
		s.View().keys.Scan(func(_ string, versions []version) bool {
			for i := range versions {
				size += versions[i].size()
			}
			return true
		})
		if st := s.Stats(); st.Live != live || st.Size != size {
			t.Errorf("seed %d: %+v, want %d live of %d", seed, st, live, size)
		}
	}
}

func FuzzReadView(f *testing.F) {
	f.Add(bytesOf(f, filled(3).View()))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ReadView(bufio.NewReader(bytes.NewReader(b)))
		if err == nil {
			_, _ = v.Hash(0) // whatever it is, it must not panic
		}
	})
}
