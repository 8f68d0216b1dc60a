package node

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// lone returns a member that leads, has applied something and makes no snapshot on its own.
func lone(t *testing.T) *simNode {
	s := newSim(t, 1, Config{SnapshotEntries: 1 << 40})
	n := s.start(1)
	if _, err := n.put(timeout(t), "before", "v"); err != nil {
		t.Fatal(err)
	}
	s.eventually("it to have applied all", func() bool { st := n.Status(); return st.Applied == st.Committed })
	return n
}

// entry returns the message in which raft gives an entry so far after the last one applied.
func (n *simNode) entry(t raftpb.EntryType, ahead uint64, data []byte) *raftpb.Message {
	index, term := n.Status().Applied+ahead, n.Status().Term
	return &raftpb.Message{Entries: []*raftpb.Entry{{Index: &index, Term: &term, Type: &t, Data: data}}}
}

func TestNothingIsAppliedBehindAnEntryThatCannotBe(t *testing.T) {
	n := lone(t)
	index := n.Status().Applied
	put := &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("after")}}
	bad, good := n.entry(raftpb.EntryNormal, 1, []byte{0xff}), n.entry(raftpb.EntryNormal, 2, marshal(put))
	a := &n.applier
	a.mu.Lock()
	a.work = append(a.work, work{message: bad}, work{message: good})
	a.more.Signal()
	a.mu.Unlock()
	select {
	case <-n.Failed():
	case <-timeout(t).Done():
		t.Fatal("it goes on")
	}
	must(t, n.Stop()) // nothing is being applied any more
	if r, err := n.store.Range(&pb.RangeRequest{Key: []byte("after")}); err != nil || r.Count != 0 || n.Status().Applied != index {
		t.Errorf("entry %d is not in the state, and it says to have applied %d", index+1, n.Status().Applied)
	}
}

// A member that is told to stop may be about to apply a change of the members, of which raft hears
// no more then. A snapshot that says it was applied would have a conf state without it.
func TestAChangeOfMembersThatRaftHearsNothingOfIsNotApplied(t *testing.T) {
	id := uint64(9)
	context, err := contextOf(member.Change{Member: member.Member{ID: id, PeerURLs: []string{"http://9:1"}}})
	must(t, err)
	for what, change := range map[string]*raftpb.Entry{
		"one": {Type: raftpb.EntryConfChange.Enum(), Data: marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &id, Context: context})},
		"joint": {Type: raftpb.EntryConfChangeV2.Enum(), Data: marshal(&raftpb.ConfChangeV2{
			Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &id}}})},
	} {
		t.Run(what, func(t *testing.T) {
			n := lone(t)
			index, conf := n.Status().Applied, n.applier.conf
			n.halt()
			n.applier.close()
			n.background.Wait() // its goroutines are gone
			n.apply(n.entry(change.GetType(), 1, change.Data))
			if n.Status().Applied != index || n.applier.index != index || !bytes.Equal(n.applier.conf, conf) {
				t.Errorf("it says to have applied %d, the change", n.Status().Applied)
			}
		})
	}
}
