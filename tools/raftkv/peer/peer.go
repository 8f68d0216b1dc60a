// Package peer carries raft's messages between the members of a cluster: over one gRPC stream from
// each member to each other, and snapshots over a stream of their own, in chunks, so that a large
// one does not hold up the rest.
//
// Messages are lost when a stream breaks; raft expects that. They are never changed, reordered
// within a stream, or taken from a member of another cluster.
package peer

import (
	"context"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

// A Member is what a peer's calls reach.
type Member interface {
	Receive(ctx context.Context, m *raftpb.Message) error
	ResumeSnapshot(b snap.Body) (*snap.Writer, error)
	ReceivedSnapshot(m *raftpb.Message) error
	Unreachable(id uint64)
	Meet(members []member.Member)
	Evicted()
	Forgot()
	Standing() node.Standing
	Trusts(ctx context.Context, id uint64, s node.Standing) error
	Promote(ctx context.Context, id uint64) error
	Hash(ctx context.Context, rev int64) (mvcc.Hash, error)
}

// Limits.
const (
	maxQueue   = 4096             // messages that wait for a stream
	maxQueued  = 64 << 20         // bytes of their entries, unless it is one message
	maxMessage = 64 << 20         // bytes of one message
	chunkSize  = 64 << 10         // bytes of a snapshot in one message
	patience   = 10 * time.Second // for a peer to take a chunk
	retryEvery = 500 * time.Millisecond

	measureEvery = 5 * time.Second // how long a peer takes to answer

	pingEvery    = 10 * time.Second // when nothing else arrives
	pingTimeout  = 5 * time.Second  // until a peer that does not answer is taken for lost
	streamWindow = 1 << 20          // bytes under way in one stream
	connWindow   = 4 << 20          // and in all of a connection
)

// version is of what peers say to each other. Members of different ones do not talk.
const version = "1"
