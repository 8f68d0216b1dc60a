package node

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/walpb"
)

// A Head is what a snapshot's content begins with: the state but for the keys.
type Head struct {
	ClusterID uint64            `json:"clusterID"`
	Index     uint64            `json:"index"`
	Term      uint64            `json:"term"`
	Members   *member.Set       `json:"members"`
	Alarms    []*pb.AlarmMember `json:"alarms,omitempty"`
	// What follows is the state of a Machine, and not keys.
	Machine bool   `json:"machine,omitempty"`
	State   []byte `json:"-"` // that state
}

// maxHead is the limit on the length of an encoded Head, in bytes. Every member that was ever
// removed takes some 20 of them.
const maxHead = 64 << 20

// WriteState writes the content of a snapshot. The error says that ReadState would not read it, or
// is the writer's.
func WriteState(w io.Writer, h Head, v *mvcc.View) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if len(b) > maxHead {
		return fmt.Errorf("raftkv: a head of %d bytes, the limit is %d", len(b), maxHead)
	}
	if _, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...)); err != nil {
		return err
	}
	if h.Machine {
		_, err = w.Write(h.State)
	} else {
		_, err = v.WriteTo(w)
	}
	return err
}

// ReadState reads the content of a snapshot. The error wraps mvcc.ErrMalformed, or is that of the
// reader.
func ReadState(r io.Reader) (h Head, v *mvcc.View, err error) {
	br := bufio.NewReaderSize(r, 1<<16)
	size, err := binary.ReadUvarint(br)
	if err != nil {
		return h, nil, fmt.Errorf("%w: no head: %w", mvcc.ErrMalformed, err)
	}
	if size > maxHead {
		return h, nil, fmt.Errorf("%w: a head of %d bytes", mvcc.ErrMalformed, size)
	}
	// A length is not believed before its bytes are there.
	b, err := io.ReadAll(io.LimitReader(br, int64(size)))
	if err == nil && len(b) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return h, nil, fmt.Errorf("%w: head: %w", mvcc.ErrMalformed, err)
	}
	h.Members = member.NewSet()
	if err := json.Unmarshal(b, &h); err != nil {
		return h, nil, fmt.Errorf("%w: head: %w", mvcc.ErrMalformed, err)
	}
	if h.Machine {
		h.State, err = io.ReadAll(br)
		return h, mvcc.New().View(), err
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

// snapshot makes a snapshot of the state, in the background. The applier calls it, so that the
// state is at its index.
func (n *Node) snapshot() {
	if n.cfg.Machine != nil {
		return // SnapshotAt does
	}
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
			n.inbox.call(func() { n.demanded = failedSnapshots * n.cfg.ElectionTicks })
			return
		}
		n.log.Info("made a snapshot", "index", s.Index, "took", time.Since(began))
	}()
}

// keep makes a snapshot durable and lets go of what it stands for.
func (n *Node) keep(s walpb.Snapshot, h Head, view *mvcc.View) error {
	if err := save(n.snapshots, s, func(w io.Writer) error { return WriteState(w, h, view) }); err != nil {
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
	n.newest.Store(s.Index)
	if err := n.forget(s.Index); err != nil {
		return err
	}
	if err := n.snapshots.Keep(n.cfg.KeepSnapshots, s); err != nil {
		return err // and files that are no longer of use
	}
	oldest, err := n.snapshots.Oldest(n.cfg.KeepSnapshots, s)
	if err != nil {
		return err // the same, and segments
	}
	// No further: if the newest is damaged, a restart begins at an older one.
	return n.wal.Release(oldest)
}

// replace makes a snapshot, received and recorded, the state.
func (n *Node) replace(s *raftpb.Snapshot) {
	index := s.GetMetadata().GetIndex()
	c := n.received.Swap(nil)
	if c == nil || c.head.Index != index {
		var err error
		if c, err = n.open(record(s)); err != nil {
			n.fail(err)
			return
		}
	}
	n.adopt(c)
	a := &n.applier
	a.since, a.bytes = 0, 0
	a.mu.Lock()
	a.conf = marshal(s.GetMetadata().GetConfState())
	a.mu.Unlock()
	n.reach()
	n.handMachine()
	a.reached(n, index, s.GetMetadata().GetTerm())
	// What happened to requests of ours between the two states is no longer known.
	n.pending.lost(s.GetMetadata().GetTerm() + 1)
	// All of it: it ends before the snapshot, so that no older one could be replayed from.
	if err := n.wal.Release(index); err != nil {
		n.log.Warn("old segments remain", "error", err)
	}
	if err := n.snapshots.Keep(n.cfg.KeepSnapshots, record(s)); err != nil {
		n.log.Warn("old snapshots remain", "error", err)
	}
}

// content is what a snapshot holds.
type content struct {
	head Head
	view *mvcc.View
}

// read reads the content of a body.
func (n *Node) read(body *snap.Reader) (*content, error) {
	index := body.Body().Index
	h, view, err := ReadState(body)
	if err != nil {
		return nil, fmt.Errorf("raftkv: snapshot %d: %w", index, err)
	}
	if h.Index != index || h.ClusterID != n.cfg.ClusterID {
		return nil, fmt.Errorf("raftkv: snapshot %d is of index %d in cluster %x", index, h.Index, h.ClusterID)
	}
	if h.Machine != (n.cfg.Machine != nil) {
		return nil, fmt.Errorf("raftkv: snapshot %d is of another kind of state", index)
	}
	return &content{h, view}, nil
}

// open reads the content of the body of a snapshot.
func (n *Node) open(s walpb.Snapshot) (*content, error) {
	body, err := n.snapshots.OpenBody(s.Index)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if b := body.Body(); b.Term != s.Term || !bytes.Equal(b.ConfState, s.ConfState) {
		return nil, fmt.Errorf("raftkv: the body of snapshot %d is of term %d, or of other members", s.Index, b.Term)
	}
	return n.read(body)
}

// adopt makes the content of a snapshot the state.
func (n *Node) adopt(c *content) {
	n.applier.machine = &c.head
	n.store.Restore(c.view)
	n.members.Replace(c.head.Members)
	n.alarms.set(c.head.Alarms)
}

// ResumeSnapshot returns where to write a snapshot that a peer sends; some of it may be there from
// an earlier attempt. When it was committed, ReceivedSnapshot says so. The errors are ErrAhead,
// after which there is only the message for ReceivedSnapshot, and those of snap.Store.Resume.
func (n *Node) ResumeSnapshot(b snap.Body) (*snap.Writer, error) {
	if b.Index <= n.committed.Load() {
		return nil, ErrAhead // and it may have the name of a body of our own
	}
	return n.snapshots.Resume(b)
}

// ReceivedSnapshot gives raft a message with a snapshot whose body was committed, or is not needed;
// raft answers it in both cases. The errors are ErrNotRestored, ErrRemoved, ErrNonsense,
// ErrStopped, and those of a body that is no state; without one the log stands at the snapshot or
// after it.
func (n *Node) ReceivedSnapshot(m *raftpb.Message) error {
	if n.members.Removed(m.GetFrom()) {
		return ErrRemoved
	}
	if err := n.admit(m); err != nil {
		return err
	}
	if s := record(m.GetSnapshot()); s.Index > n.committed.Load() {
		c, err := n.open(s)
		if err != nil {
			return err
		}
		n.received.Store(c) // once raft has it, it is what this member starts from
	}
	answer := make(chan error, 1)
	n.inbox.call(func() {
		_ = n.raft.Step(m) // as in run
		var err error
		if n.raft.BasicStatus().GetCommit() < m.GetSnapshot().GetMetadata().GetIndex() {
			err = ErrNotRestored
			n.received.Store(nil)
		}
		answer <- err
	})
	select {
	case err := <-answer:
		return err
	case <-n.stop:
		return ErrStopped
	}
}

// save makes a body durable.
func save(store *snap.Store, s walpb.Snapshot, write func(io.Writer) error) error {
	w, err := store.Create(s)
	if err != nil {
		return err
	}
	if err := write(w); err != nil {
		return errors.Join(err, w.Discard())
	}
	return w.Commit()
}
