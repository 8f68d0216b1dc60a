package node

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/walpb"
)

// A Body is a snapshot's content being read.
type Body interface {
	io.ReadCloser
	Size() int64
}

// A Head is what a snapshot's content begins with: the state but for the keys.
type Head struct {
	ClusterID uint64            `json:"clusterID"`
	Index     uint64            `json:"index"`
	Term      uint64            `json:"term"`
	Members   *member.Set       `json:"members"`
	Alarms    []*pb.AlarmMember `json:"alarms,omitempty"`
}

// maxHead is the limit on the length of an encoded Head, in bytes.
const maxHead = 1 << 20

// WriteState writes the content of a snapshot.
func WriteState(w io.Writer, h Head, v *mvcc.View) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...)); err != nil {
		return err
	}
	_, err = v.WriteTo(w)
	return err
}

// ReadState reads the content of a snapshot. The error wraps mvcc.ErrMalformed, or is that of the reader.
func ReadState(r io.Reader) (h Head, v *mvcc.View, err error) {
	br := bufio.NewReaderSize(r, 1<<16)
	size, err := binary.ReadUvarint(br)
	if err != nil || size > maxHead {
		return h, nil, fmt.Errorf("%w: no head: %w", mvcc.ErrMalformed, err)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(br, b); err != nil {
		return h, nil, fmt.Errorf("%w: head: %w", mvcc.ErrMalformed, err)
	}
	h.Members = member.NewSet()
	if err := json.Unmarshal(b, &h); err != nil {
		return h, nil, fmt.Errorf("%w: head: %w", mvcc.ErrMalformed, err)
	}
	v, err = mvcc.ReadView(br)
	return h, v, err
}

// SaveState writes the state as it is now, for a cluster to be begun from.
func (n *Node) SaveState(w io.Writer) error {
	n.applier.mu.Lock()
	h := n.head(n.applier.index, n.applier.term)
	n.applier.mu.Unlock()
	return WriteState(w, h, n.store.View())
}

func (n *Node) head(index, term uint64) Head {
	return Head{ClusterID: n.cfg.ClusterID, Index: index, Term: term, Members: n.members, Alarms: n.alarms.all()}
}

// snapshot makes a snapshot of the state, in the background. The applier calls it, so that the state is at its index.
func (n *Node) snapshot() {
	if !n.snapshotting.CompareAndSwap(false, true) {
		return // the one before is not done: the next entry asks again
	}
	a := &n.applier
	s := walpb.Snapshot{Index: a.index, Term: a.term, ConfState: a.conf}
	h := n.head(s.Index, s.Term)
	h.Members = n.members.Clone()
	view := n.store.View()
	a.since, a.bytes = 0, 0
	n.background.Add(1)
	go func() {
		defer n.background.Done()
		defer n.snapshotting.Store(false)
		began := time.Now()
		err := n.keep(s, h, view)
		if f := n.cfg.Observer.Snapshot; f != nil {
			f(time.Since(began), err)
		}
		if err != nil {
			// The log is whole without it. A failure of the log itself has stopped the Node.
			n.log.Error("no snapshot was made", "index", s.Index, "error", err)
			return
		}
		n.log.Info("made a snapshot", "index", s.Index, "took", time.Since(began))
	}()
}

// keep makes a snapshot durable and lets go of what it stands for.
func (n *Node) keep(s walpb.Snapshot, h Head, view *mvcc.View) error {
	if err := n.snapshots.save(s, func(w io.Writer) error { return WriteState(w, h, view) }); err != nil {
		return err // no file, or one that no record names
	}
	if err := n.wal.SaveSnapshot(s); err != nil {
		n.fail(err) // the file, and no record: it is not looked at
		return err
	}
	// From here on a restart begins at the snapshot.
	var cs raftpb.ConfState
	if err := proto.Unmarshal(s.ConfState, &cs); err != nil {
		return err
	}
	switch _, err := n.storage.CreateSnapshot(s.Index, &cs, nil); {
	case errors.Is(err, raft.ErrSnapOutOfDate):
		return nil // a later one was received meanwhile
	case err != nil:
		return err
	}
	n.snapshots.index.Store(s.Index)
	if s.Index > n.cfg.CatchUpEntries {
		if err := n.storage.Compact(s.Index - n.cfg.CatchUpEntries); err != nil && !errors.Is(err, raft.ErrCompacted) {
			return err
		}
	}
	if err := n.wal.Release(s.Index); err != nil {
		return err // segments that are of no use any more
	}
	return n.snapshots.keep(n.cfg.KeepSnapshots, s)
}

// replace makes a snapshot, received and recorded, the state.
func (n *Node) replace(s *raftpb.Snapshot) {
	index := s.GetMetadata().GetIndex()
	if err := n.load(index); err != nil {
		n.fail(err)
		return
	}
	a := &n.applier
	a.since, a.bytes = 0, 0
	a.mu.Lock()
	a.conf = marshal(s.GetMetadata().GetConfState())
	a.mu.Unlock()
	for _, m := range n.members.List() {
		n.connect(m)
	}
	a.reached(n, index, s.GetMetadata().GetTerm())
	// What happened to requests of ours between the two states is not known any more.
	n.pending.lost(s.GetMetadata().GetTerm() + 1)
	if err := n.wal.Release(index); err != nil {
		n.log.Warn("old segments remain", "error", err)
	}
	if err := n.snapshots.keep(n.cfg.KeepSnapshots, record(s)); err != nil {
		n.log.Warn("old snapshots remain", "error", err)
	}
}

// load makes the snapshot of an index the state.
func (n *Node) load(index uint64) error {
	body, err := n.snapshots.open(index)
	if err != nil {
		return err
	}
	defer body.Close()
	h, view, err := ReadState(body)
	if err != nil {
		return fmt.Errorf("raftkv: snapshot %d: %w", index, err)
	}
	if h.Index != index || h.ClusterID != n.cfg.ClusterID {
		return fmt.Errorf("raftkv: snapshot %d is of index %d in cluster %x", index, h.Index, h.ClusterID)
	}
	n.store.Restore(view)
	n.members.Replace(h.Members)
	n.alarms.set(h.Alarms)
	return nil
}

// ReceiveSnapshot takes a snapshot from a peer: its content, and then m, of which raft decides what it is good for.
// The error is that of the reader, or of the disk; the snapshot was not taken then.
func (n *Node) ReceiveSnapshot(m *raftpb.Message, content io.Reader) error {
	s := record(m.GetSnapshot())
	err := n.snapshots.save(s, func(w io.Writer) error {
		_, err := io.Copy(w, content)
		return err
	})
	if err != nil {
		return err
	}
	n.inbox.step(m)
	return nil
}

// snapshots are the snapshots of a Node on disk.
type snapshots struct {
	fs    fileutil.FS
	dir   string
	log   *slog.Logger
	index atomic.Uint64 // of the newest that is recorded
}

func openSnapshots(fsys fileutil.FS, dir string, log *slog.Logger) (*snapshots, error) {
	if err := makeDir(fsys, filepath.Clean(dir)); err != nil {
		return nil, err
	}
	return &snapshots{fs: fsys, dir: dir, log: log}, nil
}

func makeDir(fsys fileutil.FS, dir string) error {
	err := fsys.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeDir(fsys, filepath.Dir(dir)); err != nil {
			return err
		}
		err = fsys.Mkdir(dir, 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(filepath.Dir(dir))
}

func (s *snapshots) name(index uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%016x.snap.db", index))
}

func (s *snapshots) save(w walpb.Snapshot, write func(io.Writer) error) error {
	return fileutil.ReplaceFile(s.fs, s.name(w.Index), 0o600, write)
}

func (s *snapshots) newest(recorded []walpb.Snapshot) (walpb.Snapshot, error) {
	for i := len(recorded) - 1; i >= 0; i-- {
		if recorded[i].Index == 0 {
			return recorded[i], nil
		}
		if _, err := s.fs.Stat(s.name(recorded[i].Index)); err == nil {
			s.index.Store(recorded[i].Index)
			return recorded[i], nil
		}
	}
	return walpb.Snapshot{}, errors.New("raftkv: no snapshot")
}

type fileBody struct {
	*io.SectionReader
	f fileutil.File
}

func (b fileBody) Close() error { return b.f.Close() }

func (s *snapshots) open(index uint64) (Body, error) {
	f, err := s.fs.OpenFile(s.name(index), 0, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, err
	}
	return fileBody{io.NewSectionReader(f, 0, size), f}, nil
}

func (s *snapshots) keep(n int, newest walpb.Snapshot) error {
	list, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".snap.db") && filepath.Join(s.dir, e.Name()) <= s.name(newest.Index) {
			names = append(names, e.Name())
		}
	}
	for _, name := range names[:max(0, len(names)-n)] {
		if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
