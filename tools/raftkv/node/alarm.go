package node

import (
	"cmp"
	"context"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// alarms are what is wrong with the cluster, by its members' own word. They are part of the state.
type alarms struct {
	mu   sync.RWMutex
	list []*pb.AlarmMember
}

func (a *alarms) active(t pb.AlarmType) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.ContainsFunc(a.list, func(m *pb.AlarmMember) bool { return m.Alarm == t })
}

// apply does what a request says and returns the answer.
func (a *alarms) apply(r *pb.AlarmRequest) *pb.AlarmResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	resp := &pb.AlarmResponse{}
	same := func(m *pb.AlarmMember) bool { return m.MemberID == r.MemberID && m.Alarm == r.Alarm }
	switch r.Action {
	case pb.AlarmRequest_GET:
		for _, m := range a.list {
			if r.Alarm == pb.AlarmType_NONE || m.Alarm == r.Alarm {
				resp.Alarms = append(resp.Alarms, m)
			}
		}
	case pb.AlarmRequest_ACTIVATE:
		if r.Alarm == pb.AlarmType_NONE {
			break
		}
		m := &pb.AlarmMember{MemberID: r.MemberID, Alarm: r.Alarm}
		if !slices.ContainsFunc(a.list, same) {
			a.list = append(slices.Clip(a.list), m)
			slices.SortFunc(a.list, func(a, b *pb.AlarmMember) int {
				return cmp.Or(cmp.Compare(a.MemberID, b.MemberID), cmp.Compare(a.Alarm, b.Alarm))
			})
		}
		resp.Alarms = append(resp.Alarms, m)
	case pb.AlarmRequest_DEACTIVATE:
		if i := slices.IndexFunc(a.list, same); i >= 0 {
			resp.Alarms = append(resp.Alarms, a.list[i])
			a.list = slices.Delete(slices.Clone(a.list), i, i+1)
		}
	}
	return resp
}

func (a *alarms) all() []*pb.AlarmMember {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Clone(a.list)
}

func (a *alarms) set(list []*pb.AlarmMember) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = list
}

// unknown returns why an alarm cannot be raised: there is no such member, or no such kind. There
// could be any number of those. etcd takes them all.
func (n *Node) unknown(r *pb.AlarmRequest) error {
	if r.Action != pb.AlarmRequest_ACTIVATE || r.Alarm == pb.AlarmType_NONE {
		return nil
	}
	if _, ok := pb.AlarmType_name[int32(r.Alarm)]; !ok {
		return ErrBadAlarm
	}
	if _, ok := n.members.Get(r.MemberID); !ok {
		return member.ErrNotFound
	}
	return nil
}

// Alarms returns the alarms that are active.
func (n *Node) Alarms() []*pb.AlarmMember { return n.alarms.all() }

// spacious returns ErrNoSpace if a request would add to a state that is full, and has the cluster
// raise the alarm.
func (n *Node) spacious(r *pb.InternalRaftRequest) error {
	if r.Put == nil && (r.Txn == nil || !writes(r.Txn)) {
		return nil
	}
	if n.alarms.active(pb.AlarmType_NOSPACE) {
		return ErrNoSpace
	}
	if n.cfg.Quota < 0 || n.store.Stats().Size+int64(proto.Size(r)) <= n.cfg.Quota {
		return nil
	}
	raise := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: n.cfg.ID, Alarm: pb.AlarmType_NOSPACE}
	// Whether or not the others learn of it now, this request takes no effect; the next one raises
	// the alarm again.
	_, _ = n.Propose(context.Background(), &pb.InternalRaftRequest{Alarm: raise})
	return ErrNoSpace
}
