package node

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Identity returns whose log is in Config.Dir. The error is wal.ErrNoLog if there is none.
func Identity(dir string) (id, clusterID uint64, err error) {
	for r, err := range wal.Records(filepath.Join(dir, "wal"), 0, nil) {
		if err != nil {
			return 0, 0, err
		}
		if r.Type == walpb.TypeMetadata {
			var m pb.Metadata
			if err := proto.Unmarshal(r.Data, &m); err != nil {
				return 0, 0, fmt.Errorf("raftkv: the log's metadata: %w", err)
			}
			return m.GetNodeID(), m.GetClusterID(), nil
		}
	}
	return 0, 0, fmt.Errorf("raftkv: %s: %w", dir, wal.ErrNoLog)
}

// Seed makes a directory from which a member of a new cluster starts with a given state. All its
// members are to be seeded with the same state and the same list.
func Seed(dir string, id, clusterID uint64, members []member.Member, view *mvcc.View) error {
	const index, term = 1, 1
	if err := notEtcds(fileutil.OS{}, dir); err != nil {
		return err
	}
	s, err := snap.Open(filepath.Join(dir, "snap"), nil)
	if err != nil {
		return err
	}
	var cs raftpb.ConfState
	set := member.NewSet(members...)
	for _, m := range set.List() {
		cs.Voters = append(cs.Voters, m.ID)
	}
	metadata, err := proto.Marshal(&pb.Metadata{NodeID: &id, ClusterID: &clusterID})
	if err != nil {
		return err
	}
	w, err := wal.Create(filepath.Join(dir, "wal"), metadata, nil)
	if err != nil {
		return err
	}
	h := Head{ClusterID: clusterID, Index: index, Term: term, Members: set}
	snapshot := walpb.Snapshot{Index: index, Term: term, ConfState: marshal(&cs)}
	err = save(s, snapshot, func(w io.Writer) error { return WriteState(w, h, view) })
	if err == nil {
		err = w.SaveSnapshot(snapshot)
	}
	if err == nil {
		err = w.Save(walpb.HardState{Term: term, Commit: index}, nil)
	}
	if err == nil {
		err = w.Sync() // from here on the member can start
	}
	return errors.Join(err, w.Close())
}
