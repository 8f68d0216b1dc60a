package api

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// simply says the same as touch, by comparing all with all.
func simply(ops []*pb.RequestOp) (puts []string, deletes [][2]string, dup bool) {
	deleted := func(key string) bool {
		for _, d := range deletes {
			if d[1] == "" && key == d[0] || d[1] == "\x00" && key >= d[0] || d[1] != "" && d[1] != "\x00" && key >= d[0] && key < d[1] {
				return true
			}
		}
		return false
	}
	clash := func(key string) bool {
		for _, p := range puts {
			if p == key {
				return true
			}
		}
		return deleted(key)
	}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			deletes = append(deletes, [2]string{string(d.Key), string(d.RangeEnd)})
		}
	}
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil {
			p1, d1, dup1 := simply(t.Success)
			p2, d2, dup2 := simply(t.Failure)
			dup = dup || dup1 || dup2
			for _, key := range append(p1, p2...) {
				dup = dup || clash(key)
			}
			puts, deletes = append(append(puts, p1...), p2...), append(append(deletes, d1...), d2...)
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			dup = dup || clash(string(p.Key))
			puts = append(puts, string(p.Key))
		}
	}
	return puts, deletes, dup
}

func opsAtRandom(rng *rand.Rand, depth int) (ops []*pb.RequestOp) {
	key := func() string { return string(rune('a' + rng.IntN(26))) }
	for range rng.IntN(4) {
		switch rng.IntN(4) {
		case 0:
			ops = append(ops, opPut(key()))
		case 1:
			ops = append(ops, opDelete(key(), []string{"", "", key(), "\x00"}[rng.IntN(4)]))
		case 2:
			ops = append(ops, opPut(key()+key()))
		case 3:
			if depth > 0 {
				ops = append(ops, opTxn(&pb.TxnRequest{Success: opsAtRandom(rng, depth-1), Failure: opsAtRandom(rng, depth-1)}))
			}
		}
	}
	return ops
}

func TestWhatMayNotOverlapIsFoundAsByComparingAllWithAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dups := 0
	const rounds = 20_000
	for range rounds {
		ops := opsAtRandom(rng, 4)
		_, _, want := simply(ops)
		if want {
			dups++
		}
		if _, err := touch(ops); (err != nil) != want {
			t.Fatalf("%v is refused: %v, and is to be: %v", ops, err, want)
		}
	}
	if dups < rounds/20 || dups > rounds*19/20 {
		t.Errorf("%d of %d were to be refused: this shows little", dups, rounds)
	}
}

func TestALargeTransactionIsCheckedInTime(t *testing.T) {
	const n = 60_000
	wide := func() (ops []*pb.RequestOp) {
		for i := range n {
			ops = append(ops, opPut(fmt.Sprintf("put %07d", i)), opDelete(fmt.Sprintf("delete %07d", i), ""))
		}
		return ops
	}
	deep := wide()
	for i := range 300 {
		deep = append([]*pb.RequestOp{opTxn(&pb.TxnRequest{Success: deep})}, opPut(fmt.Sprint("level ", i)), opDelete(fmt.Sprint("below ", i), ""))
	}
	for name, ops := range map[string][]*pb.RequestOp{"wide": wide(), "deep": deep} {
		began := time.Now()
		if _, err := touch(ops); err != nil {
			t.Error(err)
		}
		// Comparing all with all takes longer than a minute.
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: %v", name, took)
		} else {
			t.Logf("%s: %v", name, took)
		}
	}
}
