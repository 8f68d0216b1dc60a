package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// ErrNonsense is of a message that no member sends. Raft takes many of them for its own mistake and
// ends the process, and some of them would do so again after every restart.
var ErrNonsense = errors.New("raftkv: no member sends this")

// maxTermAhead is how far ahead of ours a term may be. A member that was away may find that many
// elections were held, but not as many as this; and since each new term has to be durable, the
// highest term there is cannot be reached in steps of this size.
const maxTermAhead = 1 << 32

// admit returns why a message from a peer must not reach raft, an ErrNonsense, or nil. What depends
// on the log is left to fits.
func (n *Node) admit(m *raftpb.Message) error {
	switch t := m.GetType(); {
	case t == raftpb.MsgProp || t == raftpb.MsgReadIndex:
		// They are passed on to the leader of any term, and may come back to their sender.
		if m.GetTerm() != 0 || !isMember(m.GetFrom()) {
			return nonsense(m, "it is of term %d, from %x", m.GetTerm(), m.GetFrom())
		}
		if len(m.Entries) == 0 || t == raftpb.MsgReadIndex && (len(m.Entries) > 1 || len(m.Entries[0].Data) != questionSize) {
			return nonsense(m, "it has %d entries", len(m.Entries))
		}
	case !between[t]:
		return nonsense(m, "members do not send these")
	case m.GetFrom() == n.cfg.ID || !isMember(m.GetFrom()):
		return nonsense(m, "it is from %x", m.GetFrom())
	case m.GetTerm() == 0 || m.GetTerm() > n.term.Load()+maxTermAhead:
		return nonsense(m, "it is of term %d, and this member's is %d", m.GetTerm(), n.term.Load())
	}
	switch m.GetType() {
	case raftpb.MsgProp:
		for _, e := range m.Entries {
			if err := n.admitEntry(e, true); err != nil {
				return nonsense(m, "%w", err)
			}
		}
	case raftpb.MsgApp:
		index, term := m.GetIndex(), m.GetLogTerm()
		for _, e := range m.Entries {
			if e.GetIndex() != index+1 || e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
				return nonsense(m, "entry %d/%d follows %d/%d", e.GetTerm(), e.GetIndex(), term, index)
			}
			if err := n.admitEntry(e, false); err != nil {
				return nonsense(m, "entry %d/%d: %w", e.GetTerm(), e.GetIndex(), err)
			}
			index, term = e.GetIndex(), e.GetTerm()
		}
	case raftpb.MsgSnap:
		return n.admitSnapshot(m)
	}
	return nil
}

// between are the messages that members send each other.
var between = map[raftpb.MessageType]bool{
	raftpb.MsgProp: true, raftpb.MsgReadIndex: true, raftpb.MsgReadIndexResp: true,
	raftpb.MsgApp: true, raftpb.MsgAppResp: true, raftpb.MsgHeartbeat: true, raftpb.MsgHeartbeatResp: true, raftpb.MsgSnap: true,
	raftpb.MsgPreVote: true, raftpb.MsgPreVoteResp: true, raftpb.MsgVote: true, raftpb.MsgVoteResp: true, raftpb.MsgTimeoutNow: true,
}

// isMember reports whether an ID can be that of a member. Raft gives some to the threads of each
// member that write its log and apply it: what it answers to such a sender would be taken for what
// it asks of these.
func isMember(id uint64) bool { return id != 0 && !raft.IsLocalMsgTarget(id) }

func nonsense(m *raftpb.Message, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", ErrNonsense, m.GetType(), fmt.Errorf(format, args...))
}

// admitEntry returns why an entry cannot be applied, or not even written. Once it is in the log it
// would end every member.
func (n *Node) admitEntry(e *raftpb.Entry, proposed bool) error {
	if limit := n.cfg.maxRecord() - recordOverhead; len(e.Data) > limit {
		return fmt.Errorf("it has %d bytes, and the log takes %d", len(e.Data), limit)
	}
	switch e.GetType() {
	case raftpb.EntryNormal:
		if len(e.Data) == 0 {
			return nil // a leader's first
		}
		_, err := parseRequest(e.Data) // a log with another would be refused at the next start
		return err
	case raftpb.EntryConfChange:
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.Data, &cc); err != nil {
			return err
		}
		if raft.IsLocalMsgTarget(cc.GetNodeId()) {
			return fmt.Errorf("no member has the ID %x", cc.GetNodeId())
		}
		if len(cc.Context) == 0 {
			return nil
		}
		return json.Unmarshal(cc.Context, new(member.Change))
	case raftpb.EntryConfChangeV2:
		var cc raftpb.ConfChangeV2
		if err := proto.Unmarshal(e.Data, &cc); err != nil {
			return err
		}
		if len(cc.Context) == 0 && len(cc.Changes) == 0 && !proposed {
			return nil // the end of a joint configuration, which only a leader proposes
		}
		var j joint
		if err := json.Unmarshal(cc.Context, &j); err != nil {
			return err
		}
		same := func(a, b *raftpb.ConfChangeSingle) bool { return proto.Equal(a, b) }
		if want := singles(j.Steps); len(want) == 0 || !slices.EqualFunc(cc.Changes, want, same) {
			return errors.New("what it says of the members is not what it does to them")
		}
		for _, c := range cc.Changes {
			if raft.IsLocalMsgTarget(c.GetNodeId()) {
				return fmt.Errorf("no member has the ID %x", c.GetNodeId())
			}
		}
		return nil
	}
	return fmt.Errorf("its type is %d", e.GetType())
}

// admitSnapshot returns why a message with a snapshot cannot be one, whatever the snapshot holds.
func (n *Node) admitSnapshot(m *raftpb.Message) error {
	meta := m.GetSnapshot().GetMetadata()
	if meta.GetIndex() == 0 || meta.GetTerm() == 0 || meta.GetTerm() > m.GetTerm() {
		return nonsense(m, "a snapshot %d/%d in term %d", meta.GetTerm(), meta.GetIndex(), m.GetTerm())
	}
	// As raft does it, which ends the process if this fails.
	conf := meta.GetConfState()
	track := tracker.MakeProgressTracker(1, 0)
	var err error
	if track.Config, track.Progress, err = confchange.Restore(confchange.Changer{Tracker: track, LastIndex: meta.GetIndex()}, conf); err == nil {
		err = conf.Equivalent(track.ConfState())
	}
	if err != nil {
		return nonsense(m, "the members of snapshot %d/%d: %w", meta.GetTerm(), meta.GetIndex(), err)
	}
	return nil
}

// fits returns why raft would not survive a message that admit lets through: it counts on more than
// is in our log. The loop calls it.
func (n *Node) fits(m *raftpb.Message) error {
	switch {
	case m.GetTerm() < n.term.Load():
		return nil // raft passes over it
	case m.GetType() == raftpb.MsgHeartbeat && m.GetCommit() > n.last:
		return nonsense(m, "it commits %d, and this member's log ends at %d", m.GetCommit(), n.last)
	case m.GetType() == raftpb.MsgAppResp && m.GetIndex() > n.last:
		return nonsense(m, "it answers for %d, and this member's log ends at %d", m.GetIndex(), n.last)
	}
	return nil
}

// step has raft take a message of a peer. The loop calls it.
func (n *Node) step(m *raftpb.Message) {
	if err := n.fits(m); err != nil {
		if n.warned == 0 { // there may be any number of them
			n.warned = n.cfg.ElectionTicks
			n.log.Warn("a message was passed over", "peer", fmt.Sprintf("%x", m.GetFrom()), "error", err)
		}
		return
	}
	// An error is a message that is no longer of use; that is how raft wants it.
	_ = n.raft.Step(m)
}
