package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// operation is what a client asked of one key, and answer what it was told.
type operation struct {
	kind       byte // p: put; g: get; c: compare, and set if equal; d: delete
	key        string
	old, value string
	unknown    bool // whether it took effect, no answer has said
}

type answer struct {
	value    string // that was read, "" if there was none
	modified int64  // the revision that wrote it
	ok       bool   // the comparison held, or there was something to delete
	revision int64  // of the store, as the answer's header has it
}

// content is what a key holds. Revisions say in which order the writes were made: the model is
// stricter than a register's.
type content struct {
	value string // "" if there is none
	// The revision that wrote it; -1 if the write's answer was lost and it was not read since.
	modified int64
	// The newest revision that an answer about this key had: what comes later is not older.
	seen  int64
	after int64 // what seen was when the write was made whose answer was lost
}

var store = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(operation).key
			byKey[k] = append(byKey[k], op)
		}
		var parts [][]porcupine.Operation
		for _, ops := range byKey {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return content{} },
	Step: func(state, in, out any) (bool, any) { return state.(content).step(in.(operation), out.(answer)) },
	DescribeOperation: func(in, out any) string {
		op, a := in.(operation), out.(answer)
		if op.unknown {
			return fmt.Sprintf("%c %s: %q, if it is %q -> nothing", op.kind, op.key, op.value, op.old)
		}
		return fmt.Sprintf("%c %s: %q, if it is %q -> %t %q of %d, at %d", op.kind, op.key, op.value, op.old, a.ok, a.value, a.modified, a.revision)
	},
}

// step reports whether an answer is right for what a key holds, and returns what it holds then.
func (s content) step(op operation, a answer) (bool, content) {
	if op.unknown {
		switch {
		case op.kind == 'd':
			s.value, s.modified = "", 0
		case op.kind == 'p' || s.value == op.old:
			s.value, s.modified, s.after = op.value, -1, s.seen
		}
		return true, s
	}
	wrote := op.kind == 'p' || op.kind != 'g' && a.ok
	if a.revision < s.seen || wrote && a.revision == s.seen {
		return false, s
	}
	s.seen = a.revision
	switch op.kind {
	case 'p':
		s.value, s.modified = op.value, a.revision
	case 'g':
		if a.value != s.value {
			return false, s
		}
		if s.modified == -1 { // now it is known
			s.modified = a.modified
			return a.modified > s.after, s
		}
		return a.modified == s.modified, s
	case 'c':
		if a.ok != (s.value == op.old) {
			return false, s
		}
		if a.ok {
			s.value, s.modified = op.value, a.revision
		}
	case 'd':
		if a.ok != (s.value != "") {
			return false, s
		}
		if a.ok {
			s.value, s.modified = "", 0
		}
	}
	return true, s
}

// history is what clients asked and were told, all of them.
type history struct {
	mu     sync.Mutex
	began  time.Time
	prefix string // of its keys
	ops    []porcupine.Operation
	known  int // operations of which the outcome is known
	serial int
	quiet  sync.RWMutex // held while no client is to ask
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

// value returns a value that was never written.
func (h *history) value() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serial++
	return fmt.Sprint("v", h.serial)
}

// key returns one of its keys.
func (h *history) key(i int) string { return fmt.Sprint(h.prefix, "k", i) }

func (h *history) outcomes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known
}

// do has an operation done by one member, and records it.
func (h *history) do(client int, conn *grpc.ClientConn, op operation, patience time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	call := h.now()
	a, err := ask(ctx, pb.NewKVClient(conn), op)
	h.mu.Lock()
	defer h.mu.Unlock()
	done := porcupine.Operation{ClientId: client, Input: op, Output: a, Call: call, Return: h.now()}
	switch {
	case err == nil:
		h.known++
	case op.kind == 'g' || refused(err):
		return a, err // it changed nothing and said nothing
	default:
		// It may take effect at any time from its call on. Never is the same as after everything
		// that was seen.
		op.unknown = true
		done.Input, done.Return = op, 1<<62
	}
	h.ops = append(h.ops, done)
	return a, err
}

// refused reports whether an error is of a request that no member has taken.
func refused(err error) bool {
	return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "Error while dialing") || status.Code(err) == codes.ResourceExhausted
}

func ask(ctx context.Context, kv pb.KVClient, op operation) (answer, error) {
	key := []byte(op.key)
	switch op.kind {
	case 'p':
		r, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte(op.value)})
		return answer{ok: true, revision: r.GetHeader().GetRevision()}, err
	case 'g':
		r, err := kv.Range(ctx, &pb.RangeRequest{Key: key})
		a := answer{revision: r.GetHeader().GetRevision()}
		if len(r.GetKvs()) > 0 {
			a.value, a.modified = string(r.Kvs[0].Value), r.Kvs[0].ModRevision
		}
		return a, err
	case 'd':
		r, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
		return answer{ok: r.GetDeleted() > 0, revision: r.GetHeader().GetRevision()}, err
	}
	r, err := kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte(op.old)}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte(op.value)}}}},
	})
	return answer{ok: r.GetSucceeded(), revision: r.GetHeader().GetRevision()}, err
}

const historyKeys = 5

// client asks random things of random members until it is told to stop.
func (h *history) client(id int, rng *rand.Rand, conns []*grpc.ClientConn, stop <-chan struct{}) {
	last := map[string]string{}
	pace := time.NewTicker(4 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-stop:
			return
		case <-pace.C:
		}
		op := operation{kind: "ppgggccd"[rng.IntN(8)], key: h.key(rng.IntN(historyKeys)), value: h.value()}
		if op.kind == 'c' {
			if op.old = last[op.key]; op.old == "" {
				op.kind = 'g'
			}
		}
		h.quiet.RLock()
		a, err := h.do(id, conns[rng.IntN(len(conns))], op, 400*time.Millisecond)
		h.quiet.RUnlock()
		switch {
		case err != nil:
		case op.kind == 'g':
			last[op.key] = a.value
		case a.ok && op.kind != 'd':
			last[op.key] = op.value
		}
	}
}

// check checks that a history is linearizable, key by key, and that it is long enough to show
// something.
func check(t testing.TB, h *history) {
	t.Helper()
	for _, ops := range store.Partition(h.ops) {
		if got := porcupine.CheckOperationsTimeout(store, ops, enough); got != porcupine.Ok {
			t.Errorf("%d operations, %d with a known outcome: %s, as it is with %s:", len(h.ops), h.known, got, ops[0].Input.(operation).key)
			slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
			for _, op := range ops {
				t.Logf("%9.3f to %9.3f ms: %s", float64(op.Call)/1e6, float64(op.Return)/1e6, store.DescribeOperation(op.Input, op.Output))
			}
		}
	}
	if h.known < 200 {
		t.Errorf("only %d operations had an outcome: this shows nothing", h.known)
	}
}

// The model takes what is right, and nothing else.
func TestTheModelNoticesWhatNoStoreMaySay(t *testing.T) {
	type step struct {
		op operation
		a  answer
	}
	put := func(v string, at int64) step {
		return step{operation{kind: 'p', value: v}, answer{ok: true, revision: at}}
	}
	get := func(v string, mod, at int64) step {
		return step{operation{kind: 'g'}, answer{value: v, modified: mod, revision: at}}
	}
	cas := func(old, v string, ok bool, at int64) step {
		return step{operation{kind: 'c', old: old, value: v}, answer{ok: ok, revision: at}}
	}
	del := func(ok bool, at int64) step { return step{operation{kind: 'd'}, answer{ok: ok, revision: at}} }
	lost := func(s step) step { s.op.unknown, s.a = true, answer{}; return s }
	for _, test := range []struct {
		name  string
		steps []step
		right bool
	}{
		{"a life", []step{get("", 0, 1), put("a", 2), get("a", 2, 4), cas("a", "b", true, 5), cas("a", "c", false, 6), get("b", 5, 6), del(true, 7), del(false, 7), get("", 0, 9)}, true},
		{"a lost put that was made", []step{put("a", 2), lost(put("b", 0)), get("b", 3, 4), get("b", 3, 5)}, true},
		{"a lost put that only a later answer shows", []step{put("a", 2), lost(put("b", 0)), cas("a", "c", false, 3), get("b", 3, 3)}, true},
		{"a lost comparison that held", []step{put("a", 2), lost(cas("a", "b", true, 0)), get("b", 3, 4)}, true},
		{"a lost comparison that did not", []step{put("a", 2), lost(cas("x", "b", true, 0)), get("a", 2, 4)}, true},
		{"a lost delete", []step{put("a", 2), lost(del(true, 0)), get("", 0, 4)}, true},
		{"an older value", []step{put("a", 2), put("b", 3), get("a", 2, 3)}, false},
		{"no value", []step{put("a", 2), get("", 0, 2)}, false},
		{"the value of another write", []step{put("a", 2), get("a", 3, 3)}, false},
		{"a store that goes back", []step{put("a", 5), get("a", 5, 4)}, false},
		{"two writes of one revision", []step{put("a", 5), put("b", 5)}, false},
		{"a lost put that is older than what was seen", []step{put("a", 5), lost(put("b", 0)), get("b", 4, 6)}, false},
		{"a lost put that was made twice", []step{lost(put("b", 0)), get("b", 3, 4), get("b", 5, 6)}, false},
		{"a comparison that held against another value", []step{put("a", 2), cas("b", "c", true, 3)}, false},
		{"a comparison that failed against the same", []step{put("a", 2), cas("a", "c", false, 3)}, false},
		{"a delete of nothing", []step{del(true, 3)}, false},
		{"a delete that missed", []step{put("a", 2), del(false, 3)}, false},
	} {
		var ops []porcupine.Operation
		for i, s := range test.steps {
			ops = append(ops, porcupine.Operation{Input: s.op, Output: s.a, Call: int64(2 * i), Return: int64(2*i + 1)})
		}
		if got := porcupine.CheckOperations(store, ops); got != test.right {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
