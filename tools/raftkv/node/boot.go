package node

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// boot is a restart, which the first start is a case of.
func (n *Node) boot() error {
	o := n.cfg.WAL
	o.FS, o.Logger = n.cfg.FS, n.log
	dir := filepath.Join(n.cfg.Dir, "wal")
	err := notEtcds(n.cfg.FS, n.cfg.Dir)
	if err != nil {
		return err
	}
	n.snapshots, err = snap.Open(filepath.Join(n.cfg.Dir, "snap"), &snap.Options{FS: n.cfg.FS, Logger: n.log})
	if err != nil {
		return err
	}
	l, body, err := n.recover(dir, &o)
	if err != nil {
		return err
	}
	defer body.Close()
	from := body.Body().Record()
	if err := n.snapshots.Prune(n.wal.Snapshots()); err != nil {
		return err
	}
	var metadata pb.Metadata
	if err := proto.Unmarshal(l.Metadata, &metadata); err != nil {
		return fmt.Errorf("raftkv: the log's metadata: %w", err)
	}
	if metadata.GetNodeID() != n.cfg.ID || metadata.GetClusterID() != n.cfg.ClusterID {
		return fmt.Errorf("raftkv: %s is of member %x in cluster %x, not of %x in %x", dir,
			metadata.GetNodeID(), metadata.GetClusterID(), n.cfg.ID, n.cfg.ClusterID)
	}
	name, err := n.understand(l.Entries)
	if err != nil {
		return err
	}
	if n.cfg.Bootstrap && from.Index == 0 && l.State.IsZero() {
		// Without a hard state this member has promised nothing: whatever part of its beginning a
		// crash left, it can begin again.
		n.fresh.Store(true)
		if l.State, l.Entries, err = n.begin(); err != nil {
			return err
		}
		if err := n.wal.Save(l.State, l.Entries); err != nil {
			return err
		}
	}
	if from.Index > 0 {
		c, err := n.read(body)
		if err != nil {
			return err
		}
		n.adopt(c)
	}
	if err := n.called(name); err != nil {
		return err
	}
	return n.resume(from, l)
}

// recover opens the log, or makes it if there is none, and the newest snapshot that it can be
// replayed from.
func (n *Node) recover(dir string, o *wal.Options) (l *wal.Log, body *snap.Reader, err error) {
	var unfit error // what the snapshots say of the log
	n.wal, l, err = wal.Recover(dir, o, func(recorded []walpb.Snapshot) (from walpb.Snapshot, err error) {
		if body, unfit = n.snapshots.NewestBody(recorded); unfit != nil {
			return from, unfit
		}
		return body.Body().Record(), nil
	})
	switch {
	case errors.Is(unfit, snap.ErrNoSnapshot):
		return nil, nil, fmt.Errorf("raftkv: what is before the log in %s is lost: remove this member from its cluster and add it again with an empty directory, or restore a saved snapshot: %w", dir, unfit)
	case unfit != nil:
		return nil, nil, unfit
	case errors.Is(err, fs.ErrNotExist):
		return n.create(dir, o)
	case err != nil && body != nil:
		body.Close()
	}
	return l, body, err
}

// create makes the log of a member that has none.
func (n *Node) create(dir string, o *wal.Options) (*wal.Log, *snap.Reader, error) {
	if err := n.notLost(dir); err != nil {
		return nil, nil, err
	}
	n.fresh.Store(true)
	metadata, err := proto.Marshal(&pb.Metadata{NodeID: &n.cfg.ID, ClusterID: &n.cfg.ClusterID})
	if err != nil {
		return nil, nil, err
	}
	if n.wal, err = wal.Create(dir, metadata, o); err != nil {
		return nil, nil, err
	}
	body, err := n.snapshots.NewestBody(n.wal.Snapshots())
	return &wal.Log{Metadata: metadata}, body, err
}

// begin returns what the log of a new cluster begins with: its members, committed.
func (n *Node) begin() (state walpb.HardState, entries []walpb.Entry, err error) {
	for i, m := range member.NewSet(n.cfg.Members...).List() {
		change, err := contextOf(member.Change{Member: m})
		if err != nil {
			return state, nil, err
		}
		cc := raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &m.ID, Context: change}
		data, err := proto.Marshal(&cc)
		if err != nil {
			return state, nil, err
		}
		entries = append(entries, walpb.Entry{Type: walpb.EntryConfChange, Term: 1, Index: uint64(i + 1), Data: data})
	}
	return walpb.HardState{Term: 1, Commit: uint64(len(entries))}, entries, nil
}

// resume goes on from a log.
func (n *Node) resume(from walpb.Snapshot, l *wal.Log) error {
	if from.Index > 0 {
		var cs raftpb.ConfState
		if err := proto.Unmarshal(from.ConfState, &cs); err != nil {
			return fmt.Errorf("raftkv: the conf state of snapshot %d: %w", from.Index, err)
		}
		meta := &raftpb.SnapshotMetadata{ConfState: &cs, Index: &from.Index, Term: &from.Term}
		if err := n.storage.ApplySnapshot(&raftpb.Snapshot{Metadata: meta}); err != nil {
			return err
		}
	}
	n.applier.at(from.Index, from.Term, from.ConfState)
	n.applied.Store(from.Index)
	n.newest.Store(from.Index)
	n.committed.Store(max(from.Index, l.State.Commit))
	n.term.Store(l.State.Term)
	n.acks.term, n.acks.vote = l.State.Term, l.State.Vote
	n.last = from.Index + uint64(len(l.Entries))
	n.storage.SetHardState(&raftpb.HardState{Term: &l.State.Term, Vote: &l.State.Vote, Commit: &l.State.Commit})
	if err := n.storage.Append(toRaft(l.Entries)); err != nil {
		return err
	}
	n.Meet(n.cfg.Members)
	n.reach()
	var err error
	n.raft, err = raft.NewRawNode(&raft.Config{
		ID:                        n.cfg.ID,
		ElectionTick:              n.cfg.ElectionTicks,
		HeartbeatTick:             n.cfg.HeartbeatTicks,
		Storage:                   n.storage,
		Applied:                   from.Index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             512 << 10,
		MaxCommittedSizePerReady:  8 << 20,
		MaxUncommittedEntriesSize: maxUncommitted,
		MaxInflightMsgs:           512,
		MaxInflightBytes:          64 << 20,
		CheckQuorum:               true,
		PreVote:                   !n.cfg.NoPreVote,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{n.log},
	})
	return err
}
