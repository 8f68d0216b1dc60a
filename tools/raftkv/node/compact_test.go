package node

import (
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

// A compaction is answered before its memory is free. Members that lose power meanwhile finish it
// when they are back, whether they go on from the log or from a snapshot.
func TestACompactionThatACrashInterruptsIsFinished(t *testing.T) {
	for _, every := range []uint64{1 << 40, 50} {
		t.Run(fmt.Sprintf("a snapshot after %d entries", every), func(t *testing.T) {
			s := newSim(t, 3, Config{SnapshotEntries: every, CatchUpEntries: 10})
			s.startAll()
			ctx := context.Background()
			const keys, rounds = 4000, 3 // more than a sweep looks at in one slice
			for round := range rounds {
				for i := 0; i < keys; i += 100 {
					txn := &pb.TxnRequest{}
					for k := range 100 {
						put := &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i+k), Value: fmt.Append(nil, round)}
						txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
					}
					if _, err := s.leader().Propose(ctx, &pb.InternalRaftRequest{Txn: txn}); err != nil {
						t.Fatal(err)
					}
				}
			}
			lead := s.leader()
			rev, live := lead.Store().Rev(), lead.Store().Stats().Live
			if _, err := lead.Propose(ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev}}); err != nil {
				t.Fatal(err)
			}
			for id := uint64(1); id <= 3; id++ {
				s.crash(id, crashfs.DropAll)
			}
			s.startAll()
			s.agree()
			for id := uint64(1); id <= 3; id++ {
				store := s.get(id).Store()
				s.eventually("all to be swept", func() bool {
					select {
					case <-store.Swept():
						return true
					default:
						return false
					}
				})
				if st := store.Stats(); st.Compacted != rev || st.Keys != keys+1 || st.Size != st.Live || st.Live <= live {
					t.Errorf("member %d: %+v, want %d keys and nothing but them", id, st, keys+1)
				}
			}
		})
	}
}
