package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stele-wal/stele/tools/raftkv/peer"
)

// killers are messages that raft does not survive.
var killers = map[string]func(*raftpb.Message){
	"a commit of what there is not": func(m *raftpb.Message) { m.Type, m.Commit = raftpb.MsgHeartbeat.Enum(), new(uint64(1<<40)) },
	"an empty proposal":             func(m *raftpb.Message) { m.Type, m.Term = raftpb.MsgProp.Enum(), nil },
	"a proposal of garbage": func(m *raftpb.Message) {
		m.Type, m.Term, m.Entries = raftpb.MsgProp.Enum(), nil, []*raftpb.Entry{{Data: []byte("\xff\xff\xff\xff garbage")}}
	},
	"a change of garbage": func(m *raftpb.Message) {
		m.Type, m.Term, m.Entries = raftpb.MsgProp.Enum(), nil, []*raftpb.Entry{{Type: raftpb.EntryConfChange.Enum(), Data: []byte("\xff\xff\xff\xff garbage")}}
	},
	"a proposal of no type": func(m *raftpb.Message) {
		m.Type, m.Term, m.Entries = raftpb.MsgProp.Enum(), nil, []*raftpb.Entry{{Type: raftpb.EntryType(9).Enum(), Data: []byte("x")}}
	},
	"the last term": func(m *raftpb.Message) { m.Type, m.Term = raftpb.MsgApp.Enum(), new(uint64(math.MaxUint64)) },
	"a snapshot": func(m *raftpb.Message) {
		m.Type, m.Snapshot = raftpb.MsgSnap.Enum(), &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1 << 40)), Term: m.Term, ConfState: &raftpb.ConfState{Voters: []uint64{m.GetTo()}}}}
	},
}

// say sends one message to a member's port for peers, and returns how the stream ended.
func say(t *testing.T, url string, cluster, from, to uint64, m *raftpb.Message) codes.Code {
	t.Helper()
	conn, err := peer.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "version", "1",
		"cluster", fmt.Sprintf("%x", cluster), "from", fmt.Sprintf("%x", from), "to", fmt.Sprintf("%x", to)), enough)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/raftkv.Peer/Messages")
	if err != nil {
		t.Fatal(err)
	}
	m.From, m.To = &from, &to
	_ = stream.SendMsg(m) // the stream may have been refused by then, which RecvMsg says
	_ = stream.CloseSend()
	return status.Code(stream.RecvMsg(new(emptypb.Empty)))
}

// Neither who is a stranger, nor who has a member's name, ends the cluster with a message. There
// are no certificates here.
func TestAMessageOnThePeerPortEndsNobody(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	c.settle()
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	info, err := peer.Ask(ctx, c.members["n1"].peer, nil)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]uint64{}
	for name, m := range c.list() {
		ids[name] = m.ID
	}
	for _, kind := range slices.Sorted(maps.Keys(killers)) {
		for to, id := range ids {
			from := ids["n1"]
			if to == "n1" {
				from = ids["n2"]
			}
			m := &raftpb.Message{Term: new(uint64(1 << 20))}
			killers[kind](m)
			if got := say(t, c.members[to].peer, info.ClusterID, 0xdead, id, m); got != codes.PermissionDenied {
				t.Errorf("%s of a stranger: %v", kind, got)
			}
			// What depends on the log is passed over.
			want := codes.InvalidArgument
			if m.GetType() == raftpb.MsgHeartbeat {
				want = codes.OK
			}
			if got := say(t, c.members[to].peer, info.ClusterID, from, id, m); got != want {
				t.Errorf("%s in a member's name: %v", kind, got)
			}
		}
		for _, name := range c.names() {
			eventually(t, "a write after "+kind, func() bool { return put(c.conn(name), kind, name, 2*time.Second) == nil })
		}
	}
	for _, name := range c.names() {
		m := c.members[name]
		if err := m.end(syscall.SIGTERM); err != nil {
			t.Errorf("%s ended with %v", name, err)
		}
		if said := "peers are not asked for certificates"; !strings.Contains(m.log.String(), said) {
			t.Errorf("%s does not say that %s", name, said)
		}
	}
	c.start()
	for _, name := range c.names() {
		eventually(t, "a write after a restart", func() bool { return put(c.conn(name), "again", name, 2*time.Second) == nil })
	}
}
