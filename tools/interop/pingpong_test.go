package interop

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func TestEachContinuesTheOthersLogForTwentyRounds(t *testing.T) {
	for _, plain := range []bool{true, false} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			const rounds, segment = 20, 1024
			seed := seeded(t)
			r := rand.New(rand.NewPCG(seed, 0))
			dir := filepath.Join(t.TempDir(), "wal")
			opts := wal.Options{SegmentSize: segment, PlainEtcd: plain}
			m := NewModel([]byte("ping"))
			g := NewGenerator(m, r)
			g.Reopens = false
			var n tally
			for round := range rounds {
				byEtcd := round%2 == 1
				before := m.State
				var ops []Op
				for range 6 + r.IntN(8) {
					ops = append(ops, g.Next())
				}
				if len(g.then) > 0 {
					// An installed snapshot is committed before the other comes.
					ops = append(ops, g.Next())
				}
				if byEtcd {
					continueEtcd(t, dir, segment, before, ops, m)
				} else {
					continueOurs(t, dir, opts, round == 0, m.Metadata, ops)
				}
				segments, err := SegmentNames(dir)
				if err != nil {
					t.Fatal(err)
				}
				n.cuts = len(segments) - 1
				const mixed = true // either may have named a segment, and cut it
				compareOurs(t, dir, m, mixed, &n)
				compareEtcd(t, dir, m, &n)
				if t.Failed() {
					t.Fatalf("seed=%d round=%d etcd=%v: %v", seed, round, byEtcd, ops)
				}
			}
			if n.cuts < rounds/2 {
				t.Errorf("seed=%d: only %d cuts in %d rounds", seed, n.cuts, rounds)
			}
			t.Logf("seed %d: %d rounds, %d cuts, last index %d, %d reads; etcd brought void entries back in %d", seed, rounds, n.cuts, m.Last(), n.reads, n.d1)
		})
	}
}

func continueOurs(t *testing.T, dir string, opts wal.Options, create bool, metadata []byte, ops []Op) {
	t.Helper()
	var (
		w   *Ours
		err error
	)
	if create {
		w, err = CreateOurs(dir, metadata, opts)
	} else {
		w, err = OpenOurs(dir, opts)
	}
	if err != nil {
		t.Fatalf("ours: %v", err)
	}
	write(t, w, ops, func(_ int, o Op) error { return w.Save(o.State, o.Entries) })
}

func continueEtcd(t *testing.T, dir string, segment int64, state walpb.HardState, ops []Op, after *Model) {
	t.Helper()
	const sync = true
	w, read, err := OpenEtcd(dir, segment, sync, state)
	if err != nil {
		t.Fatalf("etcd: %v", err)
	}
	if diff := cmp.Diff(text(Content{Metadata: after.Metadata, State: state}), text(Content{Metadata: read.Metadata, State: read.State})); diff != "" {
		t.Errorf("etcd opened our log, -want +got\n%s", diff)
	}
	write(t, w, ops, func(_ int, o Op) error {
		const cut, never = false, false
		return w.Save(o.State, o.Entries, cut, never)
	})
}
