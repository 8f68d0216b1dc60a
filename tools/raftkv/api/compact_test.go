package api

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestAPhysicalCompactionIsAnsweredOnceTheMemoryIsFree(t *testing.T) {
	s := newServer(t)
	store := s.Node.Store()
	for i := range 200_000 { // past the log, which would take long: a hundred slices of a sweep
		if _, err := store.Put(&pb.PutRequest{Key: fmt.Append(nil, "k", i%50)}); err != nil {
			t.Fatal(err)
		}
	}
	rev := store.Rev()
	r, err := s.kv.Compact(within(t), &pb.CompactionRequest{Revision: rev, Physical: true})
	if err != nil {
		t.Fatal(err)
	}
	if st := store.Stats(); st.Size != st.Live || st.Keys != 50 || r.Header.Revision != rev {
		t.Errorf("after the answer, of revision %d: %+v", r.Header.Revision, st)
	}
}
