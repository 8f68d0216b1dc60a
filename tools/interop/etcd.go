package interop

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	etcdpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Content is what a log says when it is read from a snapshot on.
type Content struct {
	Metadata []byte
	State    walpb.HardState
	Entries  []walpb.Entry
}

// ToEtcdEntry returns the entry as an etcd server holds it, which leaves out the type of a normal
// one.
func ToEtcdEntry(e walpb.Entry) *raftpb.Entry {
	p := &raftpb.Entry{Term: new(e.Term), Index: new(e.Index), Data: e.Data}
	if e.Type != walpb.EntryNormal {
		p.Type = raftpb.EntryType(e.Type).Enum()
	}
	return p
}

// FromEtcdEntry is the inverse of ToEtcdEntry.
func FromEtcdEntry(p *raftpb.Entry) walpb.Entry {
	return walpb.Entry{Type: walpb.EntryType(p.GetType()), Term: p.GetTerm(), Index: p.GetIndex(), Data: p.Data}
}

// ToEtcdState returns the hard state as etcd writes it, whole; nil for the zero one.
func ToEtcdState(s walpb.HardState) *raftpb.HardState {
	if s.IsZero() {
		return nil
	}
	return &raftpb.HardState{Term: new(s.Term), Vote: new(s.Vote), Commit: new(s.Commit)}
}

// FromEtcdState is the inverse of ToEtcdState.
func FromEtcdState(p *raftpb.HardState) walpb.HardState {
	return walpb.HardState{Term: p.GetTerm(), Vote: p.GetVote(), Commit: p.GetCommit()}
}

// ToEtcdSnapshot decodes the ConfState, which is opaque to us. The error is that of decoding it.
func ToEtcdSnapshot(s walpb.Snapshot) (*etcdpb.Snapshot, error) {
	p := &etcdpb.Snapshot{Index: new(s.Index), Term: new(s.Term)}
	if s.ConfState != nil {
		p.ConfState = &raftpb.ConfState{}
		if err := proto.Unmarshal(s.ConfState, p.ConfState); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// FromEtcdSnapshot is the inverse of ToEtcdSnapshot.
func FromEtcdSnapshot(p *etcdpb.Snapshot) (walpb.Snapshot, error) {
	s := walpb.Snapshot{Index: p.GetIndex(), Term: p.GetTerm()}
	if p.ConfState == nil {
		return s, nil
	}
	b, err := proto.Marshal(p.ConfState)
	s.ConfState = append([]byte{}, b...)
	return s, err
}

// ReadEtcd is what etcd reads from a snapshot on, without a lock and without writing.
func ReadEtcd(dir string, from walpb.Snapshot) (Content, error) {
	w, err := etcd.OpenForRead(zap.NewNop(), dir, &etcdpb.Snapshot{Index: new(from.Index), Term: new(from.Term)})
	if err != nil {
		return Content{}, err
	}
	defer w.Close() // always fails on a log that was opened to be read
	return readAll(w)
}

func readAll(w *etcd.WAL) (Content, error) {
	metadata, state, entries, err := w.ReadAll()
	c := Content{Metadata: metadata, State: FromEtcdState(state)}
	for _, e := range entries {
		c.Entries = append(c.Entries, FromEtcdEntry(e))
	}
	return c, err
}

// EtcdSnapshots is etcd's ValidSnapshotEntries.
func EtcdSnapshots(dir string) ([]walpb.Snapshot, error) {
	found, err := etcd.ValidSnapshotEntries(zap.NewNop(), dir)
	if err != nil {
		return nil, err
	}
	var snapshots []walpb.Snapshot
	for _, p := range found {
		s, err := FromEtcdSnapshot(p)
		if err != nil {
			return nil, err
		}
		snapshots = append(snapshots, s)
	}
	return snapshots, nil
}

// A Segment is a segment as etcd's decoder reads it.
type Segment struct {
	Name    string
	End     int64 // where the last frame ends
	Records []walpb.Record
	Ends    []int64 // where each of them ends

	// Headless is whether etcd left the hard state out of its head, which the records alone do not
	// tell. Only who wrote it can set it.
	Headless bool
}

// Head returns the records that the segment begins with without anyone having saved them: a
// checksum, the metadata, and the snapshot record of an empty log or the hard state.
func (s *Segment) Head() []walpb.Record {
	n := 2
	if len(s.Records) > 2 && !s.Headless && (s.Records[2].Type == walpb.TypeState || s.Name == firstSegment) {
		n = 3
	}
	return s.Records[:n]
}

// Body returns the records after the head.
func (s *Segment) Body() []walpb.Record { return s.Records[len(s.Head()):] }

const firstSegment = "0000000000000000-0000000000000000.wal"

// EtcdSegments reads every segment of a log with etcd's decoder. The error is the first that it, or
// the operating system, reports.
func EtcdSegments(dir string) ([]Segment, error) {
	names, err := SegmentNames(dir)
	if err != nil {
		return nil, err
	}
	var segments []Segment
	for _, name := range names {
		s, err := etcdSegment(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		segments = append(segments, s)
	}
	return segments, nil
}

func etcdSegment(path string) (Segment, error) {
	s := Segment{Name: filepath.Base(path)}
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	d := etcd.NewDecoder(fileutil.NewFileReader(f))
	for {
		var r etcdpb.Record
		end := d.LastOffset()
		err := d.Decode(&r)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			s.End = end
			return s, nil
		}
		if err != nil {
			return s, err
		}
		if r.GetType() == etcd.CrcType {
			d.UpdateCRC(r.GetCrc())
		}
		s.Ends = append(s.Ends, d.LastOffset())
		s.Records = append(s.Records, walpb.Record{Type: walpb.Type(r.GetType()), CRC: r.GetCrc(), Data: slices.Clone(r.Data)})
	}
}

// SegmentNames returns the names of the segments in a directory, in order.
func SegmentNames(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".wal") {
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// EtcdWould is what etcd's reading adds up to according to its documented rules, its known defects
// included: an entry at or below the snapshot voids nothing, a snapshot record voids nothing, and
// reading starts at the last segment whose name is not above the snapshot, even if the snapshot's
// record is in an earlier one. Tests compare etcd with it where etcd is not right, so that only
// these defects are excused.
func EtcdWould(segments []Segment, from walpb.Snapshot) (entries []walpb.Entry, matched, gap bool, err error) {
	start := 0
	for i, s := range segments {
		var seq, index uint64
		if _, err := fmt.Sscanf(s.Name, "%x-%x.wal", &seq, &index); err != nil {
			return nil, false, false, err
		}
		if index <= from.Index {
			start = i
		}
	}
	for _, s := range segments[start:] {
		for _, r := range s.Records {
			switch r.Type {
			case walpb.TypeEntry:
				var e walpb.Entry
				if err := e.Unmarshal(r.Data); err != nil {
					return nil, false, false, err
				}
				if e.Index <= from.Index {
					continue
				}
				at := e.Index - from.Index - 1
				if at > uint64(len(entries)) {
					return entries, matched, true, nil
				}
				entries = append(entries[:at:at], e)
			case walpb.TypeSnapshot:
				var s walpb.Snapshot
				if err := s.Unmarshal(r.Data); err != nil {
					return nil, false, false, err
				}
				matched = matched || s.Index == from.Index && s.Term == from.Term
			}
		}
	}
	return entries, matched, false, nil
}

// An Etcd writes a history with etcd's package.
type Etcd struct {
	dir  string
	size int64
	w    *etcd.WAL

	// Headless are the names of the segments that etcd began without the hard state, because it was
	// opened again and no hard state had been saved since.
	Headless []string
	stated   bool // a hard state was saved since it was opened
	state    walpb.HardState
	sync     bool
}

// CreateEtcd makes a log whose segments are full at size bytes. With sync false it survives no
// crash, which its bytes do not show.
func CreateEtcd(dir string, metadata []byte, size int64, sync bool) (*Etcd, error) {
	etcd.SegmentSizeBytes = size
	w, err := etcd.Create(zap.NewNop(), dir, metadata)
	if err != nil {
		return nil, err
	}
	if !sync {
		w.SetUnsafeNoFsync()
	}
	return &Etcd{dir: dir, size: size, w: w, sync: sync}, nil
}

// OpenEtcd opens a log as an etcd server does: at the newest snapshot that it can be replayed from.
// state is the last hard state in the log.
func OpenEtcd(dir string, size int64, sync bool, state walpb.HardState) (*Etcd, Content, error) {
	etcd.SegmentSizeBytes = size
	snapshots, err := EtcdSnapshots(dir)
	if err != nil {
		return nil, Content{}, err
	}
	at, _ := wal.Newest(snapshots)
	w, err := etcd.Open(zap.NewNop(), dir, &etcdpb.Snapshot{Index: new(at.Index), Term: new(at.Term)})
	if err != nil {
		return nil, Content{}, err
	}
	c, err := readAll(w)
	if err != nil {
		return nil, c, errors.Join(err, w.Close())
	}
	if !sync {
		w.SetUnsafeNoFsync()
	}
	return &Etcd{dir: dir, size: size, w: w, sync: sync, state: state}, c, nil
}

// Save writes one Save. With cut it makes etcd cut after it, whatever the size of the segment.
func (e *Etcd) Save(state walpb.HardState, entries []walpb.Entry, cut, never bool) error {
	etcd.SegmentSizeBytes = e.size
	if cut {
		etcd.SegmentSizeBytes = 1
	} else if never {
		etcd.SegmentSizeBytes = math.MaxInt64
	}
	before, err := SegmentNames(e.dir)
	if err != nil {
		return err
	}
	var ps []*raftpb.Entry
	for _, entry := range entries {
		ps = append(ps, ToEtcdEntry(entry))
	}
	err = e.w.Save(ToEtcdState(state), ps)
	etcd.SegmentSizeBytes = e.size
	if err != nil {
		return err
	}
	if !state.IsZero() {
		e.stated, e.state = true, state
	}
	after, err := SegmentNames(e.dir)
	if len(after) > len(before) && !e.stated && !e.state.IsZero() {
		e.Headless = append(e.Headless, after[len(after)-1])
	}
	return err
}

// SaveSnapshot writes a snapshot record.
func (e *Etcd) SaveSnapshot(s walpb.Snapshot) error {
	p, err := ToEtcdSnapshot(s)
	if err != nil {
		return err
	}
	return e.w.SaveSnapshot(p)
}

// Close closes the log.
func (e *Etcd) Close() error { return e.w.Close() }

// Reopen closes the log and opens it again.
func (e *Etcd) Reopen() error {
	if err := e.Close(); err != nil {
		return err
	}
	again, _, err := OpenEtcd(e.dir, e.size, e.sync, e.state)
	if err != nil {
		return err
	}
	again.Headless = e.Headless
	*e = *again
	return nil
}
