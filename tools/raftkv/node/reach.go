package node

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// reached are the members that the transport knows of.
type reached struct {
	mu  sync.Mutex
	ids map[uint64]bool
}

func (r *reached) init() { r.ids = map[uint64]bool{} }

// Meet has the member answer others that its log does not know yet. What the log says of a member
// is not changed by it.
func (n *Node) Meet(members []member.Member) {
	n.reached.mu.Lock()
	defer n.reached.mu.Unlock()
	// What is applied from here on reaches the transport after this.
	for _, m := range members {
		if _, ok := n.members.Get(m.ID); !ok && !n.members.Removed(m.ID) {
			n.connect(m)
		}
	}
}

// reach has the transport know exactly the members.
func (n *Node) reach() {
	n.reached.mu.Lock()
	defer n.reached.mu.Unlock()
	list := n.members.List()
	if len(list) == 0 {
		return // the log says nothing yet
	}
	for _, m := range list {
		n.connect(m)
	}
	for id := range n.reached.ids {
		if _, ok := n.members.Get(id); !ok {
			n.disconnect(id)
		}
	}
}

// follow has the transport know of one change.
func (n *Node) follow(t raftpb.ConfChangeType, id uint64) {
	if id == n.cfg.ID {
		return
	}
	n.reached.mu.Lock()
	defer n.reached.mu.Unlock()
	if t == raftpb.ConfChangeRemoveNode {
		n.disconnect(id)
	} else if m, ok := n.members.Get(id); ok {
		n.connect(m)
	}
}

func (n *Node) connect(m member.Member) {
	if m.ID != n.cfg.ID {
		n.cfg.Transport.SetPeer(m.ID, m.PeerURLs)
		n.reached.ids[m.ID] = true
	}
}

func (n *Node) disconnect(id uint64) {
	n.cfg.Transport.RemovePeer(id)
	delete(n.reached.ids, id)
}
