// Package gogo compares walpb with raft's messages as etcd up to 3.6 wrote them. The old and the
// new messages have the same names in one registry, so that no program can link both: this package
// links the old ones.
package gogo

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/stele-wal/stele/walpb"
)

var (
	seedFlag = flag.Uint64("seed", 0, "what random messages start from; 0 for the time")
	_        = flag.Int("rounds", 0, "accepted for the sake of the package above")
)

func number(r *rand.Rand) uint64 {
	if r.IntN(3) == 0 {
		return r.Uint64N(3)
	}
	return r.Uint64() >> r.IntN(64)
}

func blob(r *rand.Rand) []byte {
	n := r.IntN(5)
	if n == 0 {
		return nil
	}
	return bytes.Repeat([]byte{byte(r.Uint32())}, (n-1)*r.IntN(100))
}

func TestOldAndNewDialectDecodeEqual(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		entry := raftpb.Entry{Type: raftpb.EntryType(r.IntN(3)), Term: number(r), Index: number(r), Data: blob(r)}
		old, err := entry.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var e walpb.Entry
		if err := e.Unmarshal(old); err != nil {
			t.Fatalf("strict Unmarshal of %x, an old entry: %v", old, err)
		}
		if e.Type != walpb.EntryType(entry.Type) || e.Term != entry.Term || e.Index != entry.Index || !bytes.Equal(e.Data, entry.Data) || (e.Data == nil) != (entry.Data == nil) {
			t.Fatalf("%+v came out as %+v", entry, e)
		}
		var back raftpb.Entry
		if err := back.Unmarshal(e.Append(nil)); err != nil {
			t.Fatalf("an old raft does not decode our %x: %v", e.Append(nil), err)
		}
		if again, err := back.Marshal(); err != nil || !bytes.Equal(again, old) {
			t.Fatalf("%+v went to an old raft as %x and came back as %x, %v", entry, e.Append(nil), again, err)
		}

		state := raftpb.HardState{Term: number(r), Vote: number(r), Commit: number(r)}
		if old, err = state.Marshal(); err != nil {
			t.Fatal(err)
		}
		var s walpb.HardState
		if err := s.Unmarshal(old); err != nil {
			t.Fatalf("strict Unmarshal of %x, an old hard state: %v", old, err)
		}
		if s != (walpb.HardState{Term: state.Term, Vote: state.Vote, Commit: state.Commit}) {
			t.Fatalf("%+v came out as %+v", state, s)
		}
		if !bytes.Equal(s.Append(nil), old) { // the dialects agree where nothing is left out
			t.Fatalf("%+v: ours %x, old %x", state, s.Append(nil), old)
		}
	}
}
