package api

import (
	"fmt"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("v")}}}
}

func opDelete(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func opRange(key string, rev int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key), Revision: rev}}}
}

func opTxn(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

func ops(list ...*pb.RequestOp) []*pb.RequestOp { return list }

func repeat(n int) []*pb.RequestOp {
	var list []*pb.RequestOp
	for i := range n {
		list = append(list, opPut(fmt.Sprint("repeated", i)))
	}
	return list
}

// The state of these tests: revision 2 is a=1, 3 is b=2, 4 is c=3, 5 is a=0, 6 deletes b; what is
// below 4 is compacted.
func withKeys(t testing.TB) *testServer {
	s := newServer(t)
	s.put(t, "a", "1")
	s.put(t, "b", "2")
	s.put(t, "c", "3")
	s.put(t, "a", "0")
	if _, err := s.kv.DeleteRange(within(t), &pb.DeleteRangeRequest{Key: []byte("b")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.kv.Compact(within(t), &pb.CompactionRequest{Revision: 4}); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRequestsThatMakeNoSenseAreRefusedAsEtcdRefusesThem(t *testing.T) {
	s := withKeys(t)
	ctx := within(t)
	read := func(r *pb.RangeRequest) func() error {
		return func() error { _, err := s.kv.Range(ctx, r); return err }
	}
	put := func(r *pb.PutRequest) func() error {
		return func() error { _, err := s.kv.Put(ctx, r); return err }
	}
	txn := func(r *pb.TxnRequest) func() error {
		return func() error { _, err := s.kv.Txn(ctx, r); return err }
	}
	compact := func(rev int64) func() error {
		return func() error { _, err := s.kv.Compact(ctx, &pb.CompactionRequest{Revision: rev}); return err }
	}
	a := []byte("a")
	for _, test := range []struct {
		what string
		call func() error
		want error
	}{
		{"range: no key", read(&pb.RangeRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"range: sort order", read(&pb.RangeRequest{Key: a, SortOrder: 9}), rpctypes.ErrGRPCInvalidSortOption},
		{"range: sort target", read(&pb.RangeRequest{Key: a, SortTarget: 9}), rpctypes.ErrGRPCInvalidSortOption},
		{"range: future", read(&pb.RangeRequest{Key: a, Revision: 7}), rpctypes.ErrGRPCFutureRev},
		{"range: newest", read(&pb.RangeRequest{Key: a, Revision: 6}), nil},
		{"range: compacted", read(&pb.RangeRequest{Key: a, Revision: 3}), rpctypes.ErrGRPCCompacted},
		{"range: the compacted revision itself", read(&pb.RangeRequest{Key: a, Revision: 4}), nil},
		{"range: compacted, serializable", read(&pb.RangeRequest{Key: a, Revision: 3, Serializable: true}), rpctypes.ErrGRPCCompacted},

		{"put: no key", put(&pb.PutRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"put: ignored value", put(&pb.PutRequest{Key: a, Value: a, IgnoreValue: true}), rpctypes.ErrGRPCValueProvided},
		{"put: ignored lease", put(&pb.PutRequest{Key: a, Lease: 1, IgnoreLease: true}), rpctypes.ErrGRPCLeaseProvided},
		{"put: ignored value of no key", put(&pb.PutRequest{Key: []byte("none"), IgnoreValue: true}), rpctypes.ErrGRPCKeyNotFound},
		{"put: lease", put(&pb.PutRequest{Key: a, Lease: 1}), rpctypes.ErrGRPCLeaseNotFound},
		{"put: too large", put(&pb.PutRequest{Key: a, Value: make([]byte, maxRequest)}), rpctypes.ErrGRPCRequestTooLarge},
		{"delete: no key", func() error { _, err := s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{}); return err }, rpctypes.ErrGRPCEmptyKey},

		{"txn: comparison of no key", txn(&pb.TxnRequest{Compare: []*pb.Compare{{}}}), rpctypes.ErrGRPCEmptyKey},
		{"txn: put of no key", txn(&pb.TxnRequest{Failure: ops(opPut(""))}), rpctypes.ErrGRPCEmptyKey},
		{"txn: delete of no key", txn(&pb.TxnRequest{Success: ops(opDelete("", ""))}), rpctypes.ErrGRPCEmptyKey},
		{"txn: range of no key", txn(&pb.TxnRequest{Success: ops(opRange("", 0))}), rpctypes.ErrGRPCEmptyKey},
		{"txn: an operation of no kind", txn(&pb.TxnRequest{Success: ops(&pb.RequestOp{})}), rpctypes.ErrGRPCKeyNotFound},
		{"txn: as many operations as may be", txn(&pb.TxnRequest{Success: repeat(maxOps)}), nil},
		{"txn: too many operations", txn(&pb.TxnRequest{Success: repeat(maxOps + 1)}), rpctypes.ErrGRPCTooManyOps},
		{"txn: too many operations otherwise", txn(&pb.TxnRequest{Failure: repeat(maxOps + 1)}), rpctypes.ErrGRPCTooManyOps},
		{"txn: too many comparisons", txn(&pb.TxnRequest{Compare: make([]*pb.Compare, maxOps+1)}), rpctypes.ErrGRPCTooManyOps},
		{"txn: those within count", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: repeat(maxOps)}))}), rpctypes.ErrGRPCTooManyOps},
		{"txn: those within fit", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: repeat(maxOps - 1)}))}), nil},
		{"txn: a key twice", txn(&pb.TxnRequest{Success: ops(opPut("d"), opPut("d"))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key twice otherwise", txn(&pb.TxnRequest{Failure: ops(opPut("d"), opPut("d"))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key in a deleted range", txn(&pb.TxnRequest{Success: ops(opPut("d"), opDelete("c", "e"))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key after a deleted range", txn(&pb.TxnRequest{Success: ops(opPut("e"), opDelete("c", "e"))}), nil},
		{"txn: a key in a range without end", txn(&pb.TxnRequest{Success: ops(opDelete("c", "\x00"), opPut("d"))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key also within", txn(&pb.TxnRequest{Success: ops(opPut("d"), opTxn(&pb.TxnRequest{Failure: ops(opPut("d"))}))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key within a deleted range, within", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: ops(opPut("d"))}), opDelete("c", "e"))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key that one within deletes", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Failure: ops(opDelete("d", ""))}), opPut("d"))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key in two within", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: ops(opPut("d"))}), opTxn(&pb.TxnRequest{Failure: ops(opPut("d"))}))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a key in either case", txn(&pb.TxnRequest{Success: ops(opPut("d")), Failure: ops(opPut("d"))}), nil},
		{"txn: a key in either case within", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: ops(opPut("d")), Failure: ops(opPut("d"))}))}), nil},
		{"txn: a key that one within puts and a later one deletes", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: ops(opPut("d"))}), opTxn(&pb.TxnRequest{Success: ops(opDelete("d", ""))}))}), nil},
		{"txn: a key that one within deletes and a later one puts", txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: ops(opDelete("d", ""))}), opTxn(&pb.TxnRequest{Success: ops(opPut("d"))}))}), rpctypes.ErrGRPCDuplicateKey},
		{"txn: a range in the future", txn(&pb.TxnRequest{Success: ops(opRange("a", 99))}), rpctypes.ErrGRPCFutureRev},
		{"txn: a compacted range", txn(&pb.TxnRequest{Success: ops(opRange("a", 3))}), rpctypes.ErrGRPCCompacted},
		{"txn: a compacted range beside a put", txn(&pb.TxnRequest{Success: ops(opPut("no"), opRange("a", 3))}), rpctypes.ErrGRPCCompacted},
		{"txn: a lease", txn(&pb.TxnRequest{Success: ops(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: a, Lease: 5}}})}), rpctypes.ErrGRPCLeaseNotFound},

		{"compact: again", compact(4), rpctypes.ErrGRPCCompacted},
		{"compact: before", compact(2), rpctypes.ErrGRPCCompacted},
		{"compact: future", compact(99), rpctypes.ErrGRPCFutureRev},
	} {
		refused(t, test.what, test.call(), test.want)
	}
	if err := put(&pb.PutRequest{Key: a, Value: make([]byte, maxRequest+requestOverhead)})(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("put: much too large: %v", err)
	}
	if resp, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("no")}); err != nil || resp.Count != 0 {
		t.Errorf("a transaction that was refused has left %v (%v)", resp, err)
	}
}

// say returns what a read found, in a line.
func say(r *pb.RangeResponse) string {
	var b strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&b, "%s=%s ", kv.Key, kv.Value)
	}
	fmt.Fprintf(&b, "of %d", r.Count)
	if r.More {
		b.WriteString(" and more")
	}
	return b.String()
}

func TestAReadFindsWhatItsOptionsSay(t *testing.T) {
	s := newServer(t)
	for _, kv := range []string{"a=4", "b=3", "c=2", "d=1", "b=5"} { // revisions 2 to 6
		key, value, _ := strings.Cut(kv, "=")
		s.put(t, key, value)
	}
	const all = "\x00"
	for _, test := range []struct {
		key, end string
		with     func(r *pb.RangeRequest)
		want     string
	}{
		{"a", "", func(r *pb.RangeRequest) {}, "a=4 of 1"},
		{"e", "", func(r *pb.RangeRequest) {}, "of 0"},
		{"b", "d", func(r *pb.RangeRequest) {}, "b=5 c=2 of 2"},
		{"d", "b", func(r *pb.RangeRequest) {}, "of 0"},
		{"c", all, func(r *pb.RangeRequest) {}, "c=2 d=1 of 2"},
		{all, all, func(r *pb.RangeRequest) {}, "a=4 b=5 c=2 d=1 of 4"},
		{all, all, func(r *pb.RangeRequest) { r.Limit = 2 }, "a=4 b=5 of 4 and more"},
		{all, all, func(r *pb.RangeRequest) { r.Limit = 4 }, "a=4 b=5 c=2 d=1 of 4"},
		{all, all, func(r *pb.RangeRequest) { r.CountOnly = true }, "of 4"},
		{all, all, func(r *pb.RangeRequest) { r.KeysOnly = true; r.Limit = 1 }, "a= of 4 and more"},
		{all, all, func(r *pb.RangeRequest) { r.Revision = 3 }, "a=4 b=3 of 2"},
		{all, all, func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND }, "d=1 c=2 b=5 a=4 of 4"},
		{all, all, func(r *pb.RangeRequest) { r.SortTarget = pb.RangeRequest_VALUE }, "d=1 c=2 a=4 b=5 of 4"},
		{all, all, func(r *pb.RangeRequest) { r.SortTarget, r.Limit = pb.RangeRequest_VALUE, 1 }, "d=1 of 4 and more"},
		{all, all, func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder = pb.RangeRequest_VALUE, pb.RangeRequest_DESCEND
		}, "b=5 a=4 c=2 d=1 of 4"},
		{all, all, func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder = pb.RangeRequest_MOD, pb.RangeRequest_DESCEND
		}, "b=5 d=1 c=2 a=4 of 4"},
		{all, all, func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder = pb.RangeRequest_CREATE, pb.RangeRequest_DESCEND
		}, "d=1 c=2 b=5 a=4 of 4"},
		{all, all, func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_VERSION, pb.RangeRequest_DESCEND, 1
		}, "b=5 of 4 and more"},
		{all, all, func(r *pb.RangeRequest) { r.MinModRevision = 5 }, "b=5 d=1 of 4"},
		{all, all, func(r *pb.RangeRequest) { r.MaxModRevision = 4 }, "a=4 c=2 of 4"},
		{all, all, func(r *pb.RangeRequest) { r.MinCreateRevision = 3; r.MaxCreateRevision = 4 }, "b=5 c=2 of 4"},
	} {
		for _, serializable := range []bool{false, true} {
			r := &pb.RangeRequest{Key: []byte(test.key), RangeEnd: []byte(test.end), Serializable: serializable}
			test.with(r)
			resp, err := s.kv.Range(within(t), r)
			if err != nil || say(resp) != test.want {
				t.Errorf("%v: %q, want %q (%v)", r, say(resp), test.want, err)
				continue
			}
			if h := resp.Header; h.ClusterId != 7 || h.MemberId != 1 || h.Revision != 6 || h.RaftTerm == 0 {
				t.Errorf("%v: header %v", r, h)
			}
		}
	}
}

func TestAStreamOfAReadIsTheReadInPieces(t *testing.T) {
	s := newServer(t)
	const n = 20
	for i := range n {
		s.put(t, fmt.Sprintf("%02d", i), strings.Repeat("x", maxRequest/4))
	}
	r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	stream, err := s.kv.RangeStream(within(t), r)
	if err != nil {
		t.Fatal(err)
	}
	var whole pb.RangeResponse
	pieces := 0
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		pieces++
		whole.Kvs = append(whole.Kvs, m.RangeResponse.Kvs...)
		whole.Header, whole.Count = m.RangeResponse.Header, m.RangeResponse.Count
	}
	if pieces < 3 || whole.Count != n || len(whole.Kvs) != n || whole.Header.GetRevision() != n+1 {
		t.Errorf("%d of %d keys at revision %d in %d pieces", len(whole.Kvs), whole.Count, whole.Header.GetRevision(), pieces)
	}
	for i, kv := range whole.Kvs {
		if string(kv.Key) != fmt.Sprintf("%02d", i) {
			t.Fatalf("key %d is %s", i, kv.Key)
		}
	}
	for _, test := range []struct {
		with func(r *pb.RangeRequest)
		code codes.Code
	}{
		{func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND }, codes.Unimplemented},
		{func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder = pb.RangeRequest_MOD, pb.RangeRequest_ASCEND }, codes.Unimplemented},
		{func(r *pb.RangeRequest) { r.MinModRevision = 1 }, codes.Unimplemented},
		{func(r *pb.RangeRequest) { r.Key = nil }, codes.InvalidArgument},
		{func(r *pb.RangeRequest) { r.Revision = 99 }, codes.OutOfRange},
	} {
		r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
		test.with(r)
		err := drain(s.kv.RangeStream(within(t), r))
		if status.Code(err) != test.code {
			t.Errorf("%v: %v, want %v", r, err, test.code)
		}
	}
}

func TestWritesAnswerWhatWasThere(t *testing.T) {
	s := newServer(t)
	s.put(t, "a", "1")
	p, err := s.kv.Put(within(t), &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true})
	if err != nil || string(p.PrevKv.GetValue()) != "1" || p.Header.Revision != 3 {
		t.Errorf("put: %v, %v", p, err)
	}
	d, err := s.kv.DeleteRange(within(t), &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), PrevKv: true})
	if err != nil || d.Deleted != 1 || len(d.PrevKvs) != 1 || d.PrevKvs[0].Version != 2 || d.Header.Revision != 4 {
		t.Errorf("delete: %v, %v", d, err)
	}
	d, err = s.kv.DeleteRange(within(t), &pb.DeleteRangeRequest{Key: []byte("a")})
	if err != nil || d.Deleted != 0 || d.Header.Revision != 4 {
		t.Errorf("a delete of nothing makes a revision: %v, %v", d, err)
	}
	// Within a transaction what is done later sees what was done before, and all is one revision.
	x, err := s.kv.Txn(within(t), &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{Version: 0}}},
		Success: ops(opPut("a"), opRange("a", 0), opTxn(&pb.TxnRequest{Success: ops(opPut("b"))})),
		Failure: ops(opPut("no")),
	})
	if err != nil || !x.Succeeded || x.Header.Revision != 5 || len(x.Responses) != 3 {
		t.Fatalf("txn: %v, %v", x, err)
	}
	if kvs := x.Responses[1].GetResponseRange().GetKvs(); len(kvs) != 1 || kvs[0].ModRevision != 5 {
		t.Errorf("txn: the read found %v", kvs)
	}
	b, err := s.kv.Range(within(t), &pb.RangeRequest{Key: []byte("b")})
	if err != nil || b.Count != 1 || b.Kvs[0].ModRevision != 5 {
		t.Errorf("txn: the one within has left %v (%v)", b, err)
	}
	// One that only reads makes no revision, and says which one it read.
	x, err = s.kv.Txn(within(t), &pb.TxnRequest{Success: ops(opRange("a", 0))})
	if err != nil || x.Header.Revision != 5 {
		t.Errorf("a transaction that only reads: %v, %v", x, err)
	}
}
