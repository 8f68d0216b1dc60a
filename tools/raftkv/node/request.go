package node

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// howToMove is what to do with a directory of etcd's.
const howToMove = "start etcd on it, or give another --data-dir; etcdctl make-mirror copies the keys from one to the other"

// notEtcds returns an error if a member's directory is etcd's. Nothing that etcd keeps in its
// database is still in the log, so that a start would lose it, and what leases and users guarded
// would be open.
func notEtcds(fsys fileutil.FS, dir string) error {
	db := filepath.Join(dir, "snap", "db")
	if _, err := fsys.Stat(db); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return fmt.Errorf("raftkv: %s is etcd's database, and its directory a member of etcd: %s", db, howToMove)
}

// parseRequest decodes what a normal entry holds. The error is that it is no request, or one that a
// member cannot do, and which.
func parseRequest(data []byte) (*pb.InternalRaftRequest, error) {
	r := new(pb.InternalRaftRequest)
	if err := proto.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("not a request: %w", err)
	}
	if r.Put != nil || r.DeleteRange != nil || r.Txn != nil || r.Range != nil || r.Compaction != nil || r.Alarm != nil || r.ClusterMemberAttrSet != nil {
		return r, nil
	}
	kind := "of a kind that is not known"
	r.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if f.Kind() == protoreflect.MessageKind && f.Name() != "header" {
			kind = string(f.Name())
		}
		return true
	})
	return nil, fmt.Errorf("a request that raftkv cannot do, %s", kind)
}

// understand returns why a member cannot go on from these entries, or nil, and what the last of
// them that says so calls the member itself.
func (n *Node) understand(entries []walpb.Entry) (name string, err error) {
	for _, e := range entries {
		if e.Type != walpb.EntryNormal || len(e.Data) == 0 {
			continue
		}
		r, err := parseRequest(e.Data)
		if err != nil {
			return "", fmt.Errorf("raftkv: the log in %s is not raftkv's: entry %d/%d is %w: if it is etcd's, %s", n.cfg.Dir, e.Term, e.Index, err, howToMove)
		}
		if a := r.ClusterMemberAttrSet; a.GetMember_ID() == n.cfg.ID && a != nil {
			name = a.GetMemberAttributes().GetName()
		}
	}
	return name, nil
}

// called returns an error if the directory is of a member with another name than this one is given.
func (n *Node) called(name string) error {
	if m, ok := n.members.Get(n.cfg.ID); ok && name == "" {
		name = m.Name
	}
	if name == "" || n.cfg.Name == "" || name == n.cfg.Name {
		return nil
	}
	return fmt.Errorf("raftkv: %s is of member %x, which is called %q: it cannot be started as %q: give --name %s, or the directory of %s",
		n.cfg.Dir, n.cfg.ID, name, n.cfg.Name, name, n.cfg.Name)
}
