package api

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

type cluster struct {
	pb.UnsafeClusterServer
	s *Server
}

// connected is for how long a peer's stream must have been open to count, when members come and go.
const connected = 5 * time.Second

func (c *cluster) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := c.s.Node.ReadIndex(ctx); err != nil {
			return nil, err
		}
	}
	return &pb.MemberListResponse{Header: c.header(), Members: c.list()}, nil
}

func (c *cluster) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := member.ParseURLs(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	m := member.Joining(urls, r.IsLearner, time.Now())
	t := raftpb.ConfChangeAddNode
	if r.IsLearner {
		t = raftpb.ConfChangeAddLearnerNode
	}
	if c.s.Strict {
		// The new member counts before it has started, and a learner is to be a voter one day.
		voters, started := c.s.voters()
		if !r.IsLearner && started < (voters+1)/2+1 && !(voters == 1 && started == 1) {
			return nil, node.ErrUnhealthy
		}
		if voters, up := c.up(); up < (voters+1)/2+1 && voters > 1 {
			return nil, rpctypes.ErrGRPCUnhealthy
		}
	}
	if err := c.s.Node.Reconfigure(ctx, t, m.ID, member.Change{Member: m}); err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{Header: c.header(), Member: toProto(m), Members: c.list()}, nil
}

func (c *cluster) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	m, ok := c.s.Node.Members().Get(r.ID)
	if ok && !m.IsLearner && c.s.Strict {
		voters, started := c.s.voters()
		if m.Name != "" {
			started--
		}
		if started < (voters-1)/2+1 {
			return nil, node.ErrUnhealthy
		}
		// A member that is down already is no loss; one that is up must leave a quorum of those
		// that are.
		if voters, up := c.up(); c.isUp(r.ID) && up-1 < (voters-1)/2+1 {
			return nil, rpctypes.ErrGRPCUnhealthy
		}
	}
	if err := c.s.Node.Reconfigure(ctx, raftpb.ConfChangeRemoveNode, r.ID, member.Change{}); err != nil {
		return nil, err
	}
	return &pb.MemberRemoveResponse{Header: c.header(), Members: c.list()}, nil
}

func (c *cluster) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	urls, err := member.ParseURLs(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	change := member.Change{Member: member.Member{ID: r.ID, PeerURLs: urls}}
	if err := c.s.Node.Reconfigure(ctx, raftpb.ConfChangeUpdateNode, r.ID, change); err != nil {
		return nil, err
	}
	return &pb.MemberUpdateResponse{Header: c.header(), Members: c.list()}, nil
}

func (c *cluster) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := c.s.Promote(ctx, r.ID); err != nil {
		return nil, err
	}
	return &pb.MemberPromoteResponse{Header: c.header(), Members: c.list()}, nil
}

// Promote makes a learner a voter. Only the leader knows whether it is ready, so others ask the
// leader.
func (s *Server) Promote(ctx context.Context, id uint64) error {
	err := s.Node.Promotable(ctx, id)
	if errors.Is(err, node.ErrNotLeader) {
		leader := s.Node.Status().Leader
		if leader == 0 {
			return rpctypes.ErrGRPCNoLeader
		}
		if err := s.Transport.Promote(ctx, leader, id); err != nil {
			return err
		}
		return s.Node.ReadIndex(ctx) // so that the answer shows it
	}
	if err != nil {
		return err
	}
	if voters, started := s.voters(); s.Strict && started+1 < (voters+1)/2+1 {
		return node.ErrUnhealthy // the learner has started, or it would not be ready
	}
	change := member.Change{Member: member.Member{ID: id}, IsPromote: true}
	return s.Node.Reconfigure(ctx, raftpb.ConfChangeAddNode, id, change)
}

// voters counts the voters, and those that have ever started.
func (s *Server) voters() (all, started int) {
	for _, m := range s.Node.Members().List() {
		if !m.IsLearner {
			all++
			if m.Name != "" {
				started++
			}
		}
	}
	return all, started
}

// up counts the voters, and those that this member has reached for a while.
func (c *cluster) up() (all, up int) {
	for _, m := range c.s.Node.Members().List() {
		if !m.IsLearner {
			all++
			if c.isUp(m.ID) {
				up++
			}
		}
	}
	return all, up
}

func (c *cluster) isUp(id uint64) bool {
	if id == c.s.Node.Status().ID {
		return true
	}
	since := c.s.Transport.Active(id)
	return !since.IsZero() && time.Since(since) > connected
}

func (c *cluster) header() *pb.ResponseHeader {
	h := c.s.header(0)
	h.Revision = 0 // as etcd: this is not about keys
	return h
}

func (c *cluster) list() []*pb.Member {
	var out []*pb.Member
	for _, m := range c.s.Node.Members().List() {
		out = append(out, toProto(m))
	}
	return out
}

func toProto(m member.Member) *pb.Member {
	return &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner}
}
