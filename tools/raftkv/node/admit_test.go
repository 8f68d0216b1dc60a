package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
)

// nonsenses are messages that no member sends, from the member "from" to the member "to", which has
// this term and a log of this length.
func nonsenses(from, to, term, last uint64) map[string]*raftpb.Message {
	garbage := []byte("\xff\xff\xff\xff garbage")
	message := func(t raftpb.MessageType, change func(m *raftpb.Message)) *raftpb.Message {
		m := &raftpb.Message{Type: t.Enum(), From: &from, To: &to, Term: &term, Index: new(uint64), LogTerm: new(uint64), Commit: new(uint64)}
		if t == raftpb.MsgProp || t == raftpb.MsgReadIndex {
			m.Term = nil
		}
		change(m)
		return m
	}
	proposal := func(t raftpb.EntryType, data []byte) *raftpb.Message {
		return message(raftpb.MsgProp, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{Type: &t, Data: data}} })
	}
	entries := func(change func(m *raftpb.Message), list ...*raftpb.Entry) *raftpb.Message {
		return message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Term, m.Index, m.LogTerm, m.Entries = new(term+1), &last, &term, list
			change(m)
		})
	}
	entry := func(term, index uint64, t raftpb.EntryType, data []byte) *raftpb.Entry {
		return &raftpb.Entry{Term: &term, Index: &index, Type: &t, Data: data}
	}
	asIs := func(*raftpb.Message) {}
	all := map[string]*raftpb.Message{
		"a proposal of nothing":                   message(raftpb.MsgProp, asIs),
		"a proposal that is no request":           proposal(raftpb.EntryNormal, garbage),
		"a proposal that a member cannot do":      proposal(raftpb.EntryNormal, marshal(&pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: 7}})),
		"a proposal of a type that is none":       proposal(9, nil),
		"a proposal of no change":                 proposal(raftpb.EntryConfChange, garbage),
		"a proposal of a change that says what":   proposal(raftpb.EntryConfChange, marshal(&raftpb.ConfChange{Context: garbage})),
		"a proposal of no joint change":           proposal(raftpb.EntryConfChangeV2, garbage),
		"a proposal of the end of a joint change": proposal(raftpb.EntryConfChangeV2, nil),
		"a proposal that does not say what it does": proposal(raftpb.EntryConfChangeV2, marshal(&raftpb.ConfChangeV2{Context: []byte("{}"),
			Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &from}, {Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &to}}})),
		"a proposal of a term":                     message(raftpb.MsgProp, func(m *raftpb.Message) { m.Term, m.Entries = &term, []*raftpb.Entry{{}} }),
		"a question of nothing":                    message(raftpb.MsgReadIndex, asIs),
		"a question of too much":                   message(raftpb.MsgReadIndex, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{Data: make([]byte, 1<<20)}} }),
		"the last term there is":                   message(raftpb.MsgApp, func(m *raftpb.Message) { m.Term = new(uint64(math.MaxUint64)) }),
		"a vote in the last term there is":         message(raftpb.MsgVote, func(m *raftpb.Message) { m.Term = new(uint64(math.MaxUint64)) }),
		"no term":                                  message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Term = nil }),
		"a message of one's own":                   message(raftpb.MsgApp, func(m *raftpb.Message) { m.From = &to }),
		"a message without sender":                 message(raftpb.MsgApp, func(m *raftpb.Message) { m.From = nil }),
		"a message from the thread that writes":    message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.From = new(uint64(raft.LocalAppendThread)) }),
		"a message from the thread that applies":   message(raftpb.MsgApp, func(m *raftpb.Message) { m.From = new(uint64(raft.LocalApplyThread)) }),
		"a snapshot among the messages":            message(raftpb.MsgSnap, asIs),
		"a type that there is not":                 message(77, asIs),
		"an entry in the place of another":         entries(asIs, entry(term, 1, raftpb.EntryNormal, nil)),
		"an entry after a gap":                     entries(asIs, entry(term, last+2, raftpb.EntryNormal, nil)),
		"an entry of a later term than its leader": entries(asIs, entry(term+2, last+1, raftpb.EntryNormal, nil)),
		"an entry of an earlier term than before":  entries(asIs, entry(term-1, last+1, raftpb.EntryNormal, nil)),
		"an entry that is no request":              entries(asIs, entry(term, last+1, raftpb.EntryNormal, garbage)),
		"an entry that is no change":               entries(asIs, entry(term, last+1, raftpb.EntryConfChange, garbage)),
		"an entry of a type that is none":          entries(asIs, entry(term, last+1, 9, nil)),
		"an entry that the log does not take":      entries(asIs, entry(term, last+1, raftpb.EntryNormal, make([]byte, 64<<20))),
	}
	for _, t := range []raftpb.MessageType{raftpb.MsgHup, raftpb.MsgBeat, raftpb.MsgUnreachable, raftpb.MsgSnapStatus, raftpb.MsgCheckQuorum, raftpb.MsgTransferLeader,
		raftpb.MsgStorageAppend, raftpb.MsgStorageAppendResp, raftpb.MsgStorageApply, raftpb.MsgStorageApplyResp, raftpb.MsgForgetLeader} {
		all[t.String()] = message(t, asIs)
		all[t.String()+" from the log"] = message(t, func(m *raftpb.Message) { m.From = new(uint64(raft.LocalAppendThread)) })
	}
	return all
}

func TestWhatNoMemberSendsIsRefusedAndEndsNobody(t *testing.T) {
	s := newSim(t, 3, Config{})
	s.startAll()
	lead := s.leader()
	for _, to := range []*simNode{lead, s.get(lead.id%3 + 1)} {
		st := to.Status()
		for name, m := range nonsenses((to.id+1)%3+1, to.id, st.Term, st.Committed) {
			if err := to.Receive(timeout(t), m); !errors.Is(err, ErrNonsense) {
				t.Errorf("to %d: %s: %v", to.id, name, err)
			}
		}
	}
	if got := s.leader(); got != lead {
		t.Errorf("member %d leads", got.id)
	}
	s.agree()
	for id := range uint64(3) { // nor after a restart
		s.crash(id+1, crashfs.KeepAll)
	}
	s.startAll()
	s.agree()
}

// These are messages as members send them, but they count on more than the log has.
func TestAMessageThatCountsOnMoreThanTheLogHasIsPassedOver(t *testing.T) {
	s := newSim(t, 3, Config{})
	s.startAll()
	lead := s.leader()
	for id := range uint64(3) {
		to := s.get(id + 1)
		from := to.id%3 + 1
		for _, term := range []uint64{to.Status().Term, to.Status().Term + 1} {
			beat := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &from, To: &to.id, Term: &term, Commit: new(uint64(1 << 40))}
			must(t, to.Receive(timeout(t), beat))
		}
		for _, reject := range []bool{false, true} {
			answer := &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: &from, To: &to.id, Term: new(to.Status().Term), Index: new(uint64(1 << 40)), Reject: &reject, RejectHint: new(uint64(1 << 39))}
			must(t, to.Receive(timeout(t), answer))
		}
	}
	s.agree()
	if s.leader() != lead {
		t.Error("another leads")
	}
}

func TestASnapshotThatIsNoneDoesNotReachRaft(t *testing.T) {
	s := newSim(t, 2, Config{})
	s.startAll()
	n := s.leader()
	both := []uint64{1, 2}
	head := Head{ClusterID: s.cfg.ClusterID, Index: 1000, Members: member.NewSet(s.all...)}
	try := func(name string, h Head, m *raftpb.Message) {
		if err := received(t, n, h, m); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	for name, conf := range map[string]*raftpb.ConfState{
		"no voters": {Learners: both}, "a voter twice": {Voters: []uint64{1, 2, 2}}, "a voter that learns": {Voters: both, Learners: []uint64{2}},
		"learners to come of no joint members": {Voters: both, LearnersNext: []uint64{3}},
	} {
		try(name, head, snapshotOf(n, 1000, conf))
	}
	good := &raftpb.ConfState{Voters: both}
	later := snapshotOf(n, 1000, good)
	later.Snapshot.Metadata.Term = new(later.GetTerm() + 1)
	try("a snapshot of a later term than its leader", head, later)
	far := snapshotOf(n, 1000, good)
	far.Term = new(uint64(math.MaxUint64))
	try("a snapshot in the last term there is", head, far)
	try("the state of another index", Head{ClusterID: s.cfg.ClusterID, Index: 999, Members: head.Members}, snapshotOf(n, 1000, good))
	try("the state of another cluster", Head{ClusterID: 1, Index: 1000, Members: head.Members}, snapshotOf(n, 1000, good))
	m := snapshotOf(n, 1001, good)
	w, err := n.ResumeSnapshot(snap.NewBody(record(m.GetSnapshot())))
	must(t, err)
	_, err = fmt.Fprint(w, "no state")
	must(t, err)
	must(t, w.Commit())
	if err := n.ReceivedSnapshot(m); err == nil {
		t.Error("what is no state was taken")
	}
	// No member starts from any of them.
	s.agree()
	for id := range uint64(2) {
		s.crash(id+1, crashfs.KeepAll)
	}
	s.startAll()
	s.agree()
}

func TestTheLastVoterIsNotRemoved(t *testing.T) {
	s := newSim(t, 1, Config{})
	n := s.start(1)
	s.leader()
	must(t, n.Reconfigure(timeout(t), raftpb.ConfChangeAddLearnerNode, 2, member.Change{Member: member.Member{ID: 2, PeerURLs: []string{"http://2:1"}, IsLearner: true}}))
	if err := n.Reconfigure(timeout(t), raftpb.ConfChangeRemoveNode, 1, member.Change{}); !errors.Is(err, member.ErrLastVoter) {
		t.Errorf("%v", err)
	}
	if err := n.ReconfigureJoint(timeout(t), []Step{{Type: raftpb.ConfChangeRemoveNode, ID: 2}, {Type: raftpb.ConfChangeRemoveNode, ID: 1}}); !errors.Is(err, member.ErrLastVoter) {
		t.Errorf("at once: %v", err)
	}
	// It may come past the check of who asked: two ask at once.
	cc := &raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(1)), Id: new(uint64(5))}
	if _, err := n.await(timeout(t), proposal{id: 5, change: cc}); !errors.Is(err, member.ErrLastVoter) {
		t.Errorf("in the log: %v", err)
	}
	b, err := json.Marshal(joint{6, []Step{{Type: raftpb.ConfChangeRemoveNode, ID: 1}}})
	must(t, err)
	v2 := &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointImplicit.Enum(), Context: b, Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(1))}}}
	if _, err := n.await(timeout(t), proposal{id: 6, change: v2}); !errors.Is(err, member.ErrLastVoter) {
		t.Errorf("jointly in the log: %v", err)
	}
	if _, err := n.put(timeout(t), "k", "v"); err != nil {
		t.Error(err)
	}
}

// Whatever bytes there are in a message, it is refused or raft survives it, and the cluster goes
// on.
func FuzzAMessageEndsNobody(f *testing.F) {
	for _, m := range nonsenses(2, 1, 2, 4) {
		if proto.Size(m) < 1<<10 {
			f.Add(marshal(m))
		}
	}
	for _, t := range []raftpb.MessageType{raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow, raftpb.MsgReadIndexResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp} {
		f.Add(marshal(&raftpb.Message{Type: t.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(2)), Index: new(uint64(4)), LogTerm: new(uint64(2)), Commit: new(uint64(4)),
			Entries: []*raftpb.Entry{{Term: new(uint64(2)), Index: new(uint64(5)), Data: marshal(&pb.InternalRaftRequest{ID: 1})}}}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(raftpb.Message)
		if proto.Unmarshal(b, m) != nil || m.GetFrom() == 1 && m.GetTo() == 1 {
			return
		}
		s := newSim(t, 3, Config{})
		n := s.start(1)
		if err := n.Receive(context.Background(), m); err != nil && !errors.Is(err, ErrNonsense) {
			t.Fatal(err)
		}
		answer := make(chan struct{})
		n.inbox.call(func() { close(answer) })
		select {
		case <-answer:
		case <-timeout(t).Done():
			t.Fatal("it hangs")
		}
		if err := n.Err(); err != nil {
			t.Fatal(err)
		}
	})
}
