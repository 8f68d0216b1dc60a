package mvcc

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Range answers a read. The errors are ErrCompacted and ErrFutureRev.
func (s *Store) Range(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if len(r.RangeEnd) > 0 {
		return s.View().Range(r) // which may take long: others go on meanwhile
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.v.answer(r, s.v.rev)
}

// Range answers a read. The errors are ErrCompacted and ErrFutureRev.
func (v *View) Range(r *pb.RangeRequest) (*pb.RangeResponse, error) { return v.answer(r, v.rev) }

// Put answers a write of one key. The errors are ErrKeyNotFound and ErrLeaseNotFound.
func (s *Store) Put(r *pb.PutRequest) (*pb.PutResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.v.checkPut(r); err != nil {
		return nil, err
	}
	c := s.v.begin()
	defer c.end()
	return c.answerPut(r), nil
}

// DeleteRange answers a delete.
func (s *Store) DeleteRange(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.v.begin()
	defer c.end()
	return c.answerDelete(r)
}

// Txn answers a transaction: one of its two lists of operations, all of it or nothing. The errors
// are those of the operations, before anything is changed.
func (s *Store) Txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.v.decide(r, nil)
	if _, err := s.v.checkTxn(r, path); err != nil {
		return nil, err
	}
	c := s.v.begin()
	defer c.end()
	resp, _ := c.answerTxn(r, path)
	resp.Header.Revision = c.seen()
	return resp, nil
}

// ReadTxn answers a transaction that changes nothing. The errors are those of Range.
func (s *Store) ReadTxn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	v := s.View()
	path := v.decide(r, nil)
	if _, err := v.checkTxn(r, path); err != nil {
		return nil, err
	}
	resp, _ := v.begin().answerTxn(r, path)
	resp.Header.Revision = v.rev
	return resp, nil
}

// answer is Range for a reader for which newest is the newest revision.
func (v *View) answer(r *pb.RangeRequest, newest int64) (*pb.RangeResponse, error) {
	rev := r.Revision
	if rev > newest {
		return nil, ErrFutureRev
	}
	if rev <= 0 {
		rev = newest
	}
	if rev < v.compacted {
		return nil, ErrCompacted
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: newest}}
	// Only what comes in the order of the keys, and all of it, can be cut off before it is sorted
	// and sifted.
	limit := r.Limit
	if !inOrder(r) || sifted(r) {
		limit = 0
	}
	var kvs []*mvccpb.KeyValue
	v.ascend(r.Key, rangeEnd(r.RangeEnd), func(_ string, versions []version) bool {
		if found := at(versions, rev); found != nil {
			resp.Count++
			if !r.CountOnly && (limit <= 0 || int64(len(kvs)) <= limit) {
				kvs = append(kvs, found.kv)
			}
		}
		return true
	})
	if r.CountOnly {
		return resp, nil
	}
	sift(&kvs, r)
	order(kvs, r)
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, resp.More = kvs[:r.Limit], true
	}
	if r.KeysOnly {
		for i, kv := range kvs {
			kvs[i] = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
	}
	resp.Kvs = kvs
	return resp, nil
}

func inOrder(r *pb.RangeRequest) bool {
	return r.SortOrder == pb.RangeRequest_NONE && r.SortTarget == pb.RangeRequest_KEY ||
		r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND
}

func sifted(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

// sift leaves out what the bounds of a request exclude.
func sift(kvs *[]*mvccpb.KeyValue, r *pb.RangeRequest) {
	if !sifted(r) {
		return
	}
	*kvs = slices.DeleteFunc(*kvs, func(kv *mvccpb.KeyValue) bool {
		return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
			r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
			r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision ||
			r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision
	})
}

// order sorts as a request asks. Without an order, any target but the key means ascending.
func order(kvs []*mvccpb.KeyValue, r *pb.RangeRequest) {
	if inOrder(r) {
		return
	}
	compare := func(a, b *mvccpb.KeyValue) int {
		switch r.SortTarget {
		case pb.RangeRequest_VERSION:
			return cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			return cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			return cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VALUE:
			return bytes.Compare(a.Value, b.Value)
		}
		return bytes.Compare(a.Key, b.Key)
	}
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if r.SortOrder == pb.RangeRequest_DESCEND {
			return compare(b, a)
		}
		return compare(a, b)
	})
}

// newest returns a key as a read at the View's revision finds it, or nil.
func (v *View) newest(key []byte, rev int64) *mvccpb.KeyValue {
	versions, _ := v.keys.Get(string(key))
	if found := at(versions, rev); found != nil {
		return found.kv
	}
	return nil
}

func (v *View) checkPut(r *pb.PutRequest) error {
	if r.GetLease() != 0 {
		return ErrLeaseNotFound
	}
	if (r.GetIgnoreValue() || r.GetIgnoreLease()) && v.newest(r.GetKey(), v.rev) == nil {
		return ErrKeyNotFound
	}
	return nil
}

func (c *change) answerPut(r *pb.PutRequest) *pb.PutResponse {
	resp := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: c.rev}}
	value := r.GetValue()
	if r.GetPrevKv() || r.GetIgnoreValue() {
		before := c.v.newest(r.GetKey(), c.rev)
		if r.GetPrevKv() {
			resp.PrevKv = before
		}
		if r.GetIgnoreValue() {
			value = before.GetValue()
		}
	}
	c.put(r.GetKey(), value)
	return resp
}

func (c *change) answerDelete(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{}}
	type doomed struct {
		kv       *mvccpb.KeyValue
		versions []version
	}
	var all []doomed
	c.v.ascend(r.GetKey(), rangeEnd(r.GetRangeEnd()), func(_ string, versions []version) bool {
		if found := at(versions, c.rev); found != nil {
			all = append(all, doomed{found.kv, versions})
		}
		return true
	})
	for _, d := range all {
		if r.GetPrevKv() {
			resp.PrevKvs = append(resp.PrevKvs, d.kv)
		}
		c.delete(d.kv.Key, d.versions)
	}
	resp.Deleted = int64(len(all))
	resp.Header.Revision = c.seen()
	return resp
}

// branch returns the operations of a transaction that its comparisons choose.
func branch(r *pb.TxnRequest, succeeded bool) []*pb.RequestOp {
	if succeeded {
		return r.GetSuccess()
	}
	return r.GetFailure()
}

// decide appends whether a transaction and those within it succeed, outermost first. All of them
// see the state before.
func (v *View) decide(r *pb.TxnRequest, path []bool) []bool {
	succeeded := true
	for _, c := range r.GetCompare() {
		succeeded = succeeded && v.holds(c)
	}
	path = append(path, succeeded)
	for _, op := range branch(r, succeeded) {
		if t := op.GetRequestTxn(); t != nil {
			path = v.decide(t, path)
		}
	}
	return path
}

// checkTxn returns why a transaction cannot be, and how many of path are of it and those within.
func (v *View) checkTxn(r *pb.TxnRequest, path []bool) (n int, err error) {
	n = 1
	for _, op := range branch(r, path[0]) {
		switch op := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			if rev := op.RequestRange.GetRevision(); rev > v.rev {
				err = ErrFutureRev
			} else if rev != 0 && rev < v.compacted {
				err = ErrCompacted
			}
		case *pb.RequestOp_RequestPut:
			err = v.checkPut(op.RequestPut)
		case *pb.RequestOp_RequestTxn:
			if op.RequestTxn != nil {
				var within int
				within, err = v.checkTxn(op.RequestTxn, path[n:])
				n += within
			}
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (c *change) answerTxn(r *pb.TxnRequest, path []bool) (resp *pb.TxnResponse, n int) {
	resp = &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: path[0]}
	n = 1
	for _, op := range branch(r, path[0]) {
		answer := &pb.ResponseOp{}
		switch op := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			if op.RequestRange == nil {
				break
			}
			ranged, err := c.v.answer(op.RequestRange, c.seen())
			if err != nil { // checkTxn has let none through
				ranged = &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: c.seen()}}
			}
			answer.Response = &pb.ResponseOp_ResponseRange{ResponseRange: ranged}
		case *pb.RequestOp_RequestPut:
			answer.Response = &pb.ResponseOp_ResponsePut{ResponsePut: c.answerPut(op.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			answer.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: c.answerDelete(op.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			if op.RequestTxn == nil {
				break
			}
			inner, within := c.answerTxn(op.RequestTxn, path[n:])
			n += within
			answer.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: inner}
		}
		resp.Responses = append(resp.Responses, answer)
	}
	return resp, n
}

// holds reports whether a comparison holds for every key in its range. A key that is not there is
// compared as if all of it were 0, except that its value equals nothing.
func (v *View) holds(c *pb.Compare) bool {
	found, all := false, true
	v.ascend(c.Key, rangeEnd(c.RangeEnd), func(_ string, versions []version) bool {
		if newest := at(versions, v.rev); newest != nil {
			found = true
			all = compareKV(c, newest.kv)
		}
		return all
	})
	if found {
		return all
	}
	return c.Target != pb.Compare_VALUE && compareKV(c, &mvccpb.KeyValue{})
}

func compareKV(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var result int
	switch c.Target {
	case pb.Compare_VALUE:
		result = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		result = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		result = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		result = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		result = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return result == 0
	case pb.Compare_NOT_EQUAL:
		return result != 0
	case pb.Compare_GREATER:
		return result > 0
	case pb.Compare_LESS:
		return result < 0
	}
	return true
}
