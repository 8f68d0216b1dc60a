package api

import (
	"bufio"
	"context"
	"crypto/sha256"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type maintenance struct {
	pb.UnsafeMaintenanceServer
	s *Server
}

func (m *maintenance) Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	st, size := m.s.Node.Status(), m.s.Node.Store().Stats()
	resp := &pb.StatusResponse{
		Header:           m.s.header(0),
		Version:          version.Version, // of the API that is spoken
		StorageVersion:   storageVersion,
		DbSize:           size.Size,
		DbSizeInUse:      size.Size, // defragmenting would give back nothing
		DbSizeQuota:      m.s.Node.Quota(),
		Leader:           st.Leader,
		RaftIndex:        st.Committed,
		RaftAppliedIndex: st.Applied,
		RaftTerm:         st.Term,
		IsLearner:        st.Learner,
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	if st.Leader == 0 {
		resp.Errors = append(resp.Errors, "etcdserver: no leader")
	}
	for _, a := range m.s.Node.Alarms() {
		resp.Errors = append(resp.Errors, a.String())
	}
	return resp, nil
}

func (m *maintenance) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	out, err := m.s.Node.Propose(ctx, &pb.InternalRaftRequest{Alarm: r})
	if err != nil {
		return nil, err
	}
	resp := out.(*pb.AlarmResponse)
	answer := &pb.AlarmResponse{Header: m.s.header(0), Alarms: resp.Alarms}
	return answer, nil
}

// Defragment has nothing to do: the state is in memory.
func (m *maintenance) Defragment(context.Context, *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	return &pb.DefragmentResponse{}, nil
}

func (m *maintenance) Hash(ctx context.Context, r *pb.HashRequest) (*pb.HashResponse, error) {
	h, err := m.s.Node.Store().View().Hash(0)
	if err != nil {
		return nil, err
	}
	return &pb.HashResponse{Header: m.s.header(h.Rev), Hash: h.Sum}, nil
}

func (m *maintenance) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	view := m.s.Node.Store().View()
	h, err := view.Hash(r.Revision)
	if err != nil {
		return nil, err
	}
	return &pb.HashKVResponse{Header: m.s.header(view.Rev()), Hash: h.Sum, CompactRevision: h.Compacted, HashRevision: h.Rev}, nil
}

func (m *maintenance) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := m.s.Node.MoveLeader(ctx, r.TargetID); err != nil {
		return nil, err
	}
	return &pb.MoveLeaderResponse{}, nil
}

func (m *maintenance) Downgrade(context.Context, *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	return nil, status.Error(codes.Unimplemented, "raftkv has one version of its state")
}

// Snapshot sends the state, padded with zeros to whole sectors, and then its SHA-256: that it is so
// long, and no sector longer, is how clients and raftkv restore know that it is whole.
func (m *maintenance) Snapshot(r *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	if err := m.s.Node.ReadIndex(stream.Context()); err != nil {
		return err
	}
	sum := sha256.New()
	out := &sender{stream: stream}
	b := bufio.NewWriterSize(io.MultiWriter(sum, out), 32<<10)
	if err := m.s.Node.SaveState(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if short := out.n % sector; short != 0 {
		b.Write(make([]byte, sector-short))
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return stream.Send(&pb.SnapshotResponse{Blob: sum.Sum(nil), Version: storageVersion})
}

const sector = 512

// storageVersion is of which etcd's state this one answers like.
const storageVersion = "3.7.0"

type sender struct {
	stream pb.Maintenance_SnapshotServer
	n      int
}

func (s *sender) Write(b []byte) (int, error) {
	s.n += len(b)
	// How much remains is not known: the state is encoded as it goes. More than none does.
	r := &pb.SnapshotResponse{Blob: append([]byte(nil), b...), RemainingBytes: 1, Version: storageVersion}
	return len(b), s.stream.Send(r)
}
