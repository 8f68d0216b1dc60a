package main

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

func TestOfMembersThatDifferThoseAreWrongThatMostContradict(t *testing.T) {
	at := func(sum uint32) mvcc.Hash { return mvcc.Hash{Sum: sum, Rev: 9, Compacted: 3} }
	for _, test := range []struct {
		name string
		held map[uint64]mvcc.Hash
		want []uint64
	}{
		{"all the same", map[uint64]mvcc.Hash{1: at(7), 2: at(7), 3: at(7)}, nil},
		{"the leader alone", map[uint64]mvcc.Hash{1: at(7)}, nil},
		{"one other", map[uint64]mvcc.Hash{1: at(7), 2: at(7), 3: at(8)}, []uint64{3}},
		{"the leader", map[uint64]mvcc.Hash{1: at(8), 2: at(7), 3: at(7)}, []uint64{1}},
		{"no majority", map[uint64]mvcc.Hash{1: at(8), 2: at(7)}, []uint64{2}},
		{"all different", map[uint64]mvcc.Hash{1: at(8), 2: at(7), 3: at(6)}, []uint64{2, 3}},
		{"another compaction", map[uint64]mvcc.Hash{1: at(8), 2: {Sum: 7, Rev: 9, Compacted: 4}, 3: at(8)}, nil},
		{"another revision", map[uint64]mvcc.Hash{1: at(8), 2: {Sum: 7, Rev: 8, Compacted: 3}}, nil},
	} {
		if got := differing(test.held, 1); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// One member is made with another state than the others, as damage that no checksum shows would
// leave it.
func TestAMemberThatHoldsSomethingElseIsNoticed(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0, "--corrupt-check-time", "200ms")
	var all []member.Member
	ids := map[string]uint64{}
	for _, name := range c.names() {
		m := member.New(name, "etcd-cluster", []string{c.members[name].peer})
		ids[name], m.Name = m.ID, ""
		all = append(all, m)
	}
	for _, name := range c.names() {
		store := mvcc.New()
		value := "as it was"
		if name == "n2" {
			value = "otherwise"
		}
		if _, err := store.Put(&pb.PutRequest{Key: []byte("k"), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		if err := node.Seed(filepath.Join(c.members[name].dir, "member"), ids[name], member.NewSet(all...).ClusterID(), all, store.View()); err != nil {
			t.Fatal(err)
		}
	}
	c.start()
	c.leads(c.names()...)
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	var alarms []*pb.AlarmMember
	eventually(t, "the alarm", func() bool {
		r, err := pb.NewMaintenanceClient(c.conn("n1")).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
		alarms = r.GetAlarms()
		return err == nil && len(alarms) > 0
	})
	if len(alarms) != 1 || alarms[0].Alarm != pb.AlarmType_CORRUPT || alarms[0].MemberID != ids["n2"] {
		t.Errorf("the alarm is %v, and member %x differs", alarms, ids["n2"])
	}
	for _, name := range c.names() {
		eventually(t, "writes to be refused", func() bool {
			err := put(c.conn(name), "k", "new", 2*time.Second)
			return err != nil && strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCCorrupt))
		})
	}
}
