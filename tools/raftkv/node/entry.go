package node

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/walpb"
)

// toLog gives the log raft's entries. Their data are shared.
func toLog(entries []*raftpb.Entry) []walpb.Entry {
	if len(entries) == 0 {
		return nil
	}
	out := make([]walpb.Entry, len(entries))
	for i, e := range entries {
		out[i] = walpb.Entry{Type: walpb.EntryType(e.GetType()), Term: e.GetTerm(), Index: e.GetIndex(), Data: e.Data}
	}
	return out
}

// toRaft gives raft the entries of the log.
func toRaft(entries []walpb.Entry) []*raftpb.Entry {
	out := make([]*raftpb.Entry, len(entries))
	for i := range entries {
		e := &entries[i]
		out[i] = &raftpb.Entry{Term: &e.Term, Index: &e.Index, Type: raftpb.EntryType(e.Type).Enum(), Data: e.Data}
	}
	return out
}

// record returns what the log is to say of a snapshot.
func record(s *raftpb.Snapshot) walpb.Snapshot {
	return walpb.Snapshot{
		Index: s.GetMetadata().GetIndex(), Term: s.GetMetadata().GetTerm(),
		ConfState: marshal(s.GetMetadata().GetConfState()),
	}
}
