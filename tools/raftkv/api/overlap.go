package api

import (
	"github.com/tidwall/btree"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// touched is what the operations of a transaction, and those within it, put and delete. It is
// sorted, and the smaller of two is added to the larger, so that no transaction takes much longer
// to check than to read, however it is nested.
type touched struct {
	puts    btree.Set[string]
	deletes ranges
}

// touch returns what operations touch. It refuses those of which two would put the same key, or one
// would put what another deletes, as etcd does: the two lists of a transaction within may name the
// same key, as only one of them is done, and one within may delete what one before it puts.
func touch(ops []*pb.RequestOp) (*touched, error) {
	all := new(touched)
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			all.deletes.add(interval(string(d.Key), string(d.RangeEnd)))
		}
	}
	for _, op := range ops {
		t := op.GetRequestTxn()
		if t == nil {
			continue
		}
		within, err := touch(t.Success)
		if err != nil {
			return nil, err
		}
		otherwise, err := touch(t.Failure)
		if err != nil {
			return nil, err
		}
		within = join(within, otherwise)
		if meet(&all.puts, &within.puts) || all.deletes.meet(&within.puts) {
			return nil, rpctypes.ErrGRPCDuplicateKey
		}
		all = join(all, within)
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			key := string(p.Key)
			if all.puts.Contains(key) || all.deletes.has(key) {
				return nil, rpctypes.ErrGRPCDuplicateKey
			}
			all.puts.Insert(key)
		}
	}
	return all, nil
}

// join returns what either touches, in the place of both.
func join(a, b *touched) *touched {
	if a.puts.Len() < b.puts.Len() {
		a.puts, b.puts = b.puts, a.puts
	}
	b.puts.Scan(func(key string) bool { a.puts.Insert(key); return true })
	if a.deletes.from.Len() < b.deletes.from.Len() {
		a.deletes, b.deletes = b.deletes, a.deletes
	}
	b.deletes.from.Scan(func(from, to string) bool { a.deletes.add(from, to); return true })
	return a
}

// meet reports whether two sets have a key in common.
func meet(a, b *btree.Set[string]) bool {
	if a.Len() < b.Len() {
		a, b = b, a
	}
	common := false
	b.Scan(func(key string) bool { common = a.Contains(key); return !common })
	return common
}

// ranges are keys from one up to, but not with, another, of which no two touch: where each begins
// and ends. An empty end is none.
type ranges struct{ from btree.Map[string, string] }

// interval returns the first key of a request's range, and the first one after it.
func interval(key, end string) (from, to string) {
	switch end {
	case "":
		return key, key + "\x00"
	case "\x00":
		return key, ""
	}
	return key, end
}

func (r *ranges) add(from, to string) {
	if to != "" && to <= from {
		return // it has no keys
	}
	r.from.Descend(from, func(before, end string) bool {
		if end == "" || end >= from {
			from = before
		}
		return false
	})
	for {
		next, end, ok := r.at(from)
		if !ok || to != "" && next > to {
			break
		}
		if to != "" && (end == "" || end > to) {
			to = end
		}
		r.from.Delete(next)
	}
	r.from.Set(from, to)
}

// at returns the first range that begins at a key or after it.
func (r *ranges) at(key string) (from, to string, ok bool) {
	r.from.Ascend(key, func(f, t string) bool {
		from, to, ok = f, t, true
		return false
	})
	return from, to, ok
}

func (r *ranges) has(key string) bool {
	in := false
	r.from.Descend(key, func(_, end string) bool {
		in = end == "" || key < end
		return false
	})
	return in
}

// meet reports whether a key is in one of the ranges.
func (r *ranges) meet(keys *btree.Set[string]) bool {
	in := false
	if keys.Len() < r.from.Len() {
		keys.Scan(func(key string) bool { in = r.has(key); return !in })
		return in
	}
	r.from.Scan(func(from, to string) bool {
		keys.Ascend(from, func(key string) bool {
			in = to == "" || key < to
			return false
		})
		return !in
	})
	return in
}
