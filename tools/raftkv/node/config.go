package node

import (
	"log/slog"
	"math"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/wal"
)

// Config is what a Node is made of. Numbers that are 0 mean their defaults, unless stated.
type Config struct {
	ID        uint64
	ClusterID uint64
	Dir       string // the log and the snapshots are in it
	Name      string // a directory of a member with another name is refused; empty fits all

	// Members are those that the cluster begins with if Bootstrap is set. Otherwise they are only
	// the first to answer; the log says who the members are.
	Members   []member.Member
	Bootstrap bool

	FS        fileutil.FS // nil is the operating system's
	WAL       wal.Options // FS and Logger are set by Start
	Transport Transport
	Machine   Machine // nil is the key-value store
	Logger    *slog.Logger
	Observer  Observer

	Tick           time.Duration    // the clock's step
	Ticks          <-chan time.Time // if not nil, the clock itself
	HeartbeatTicks int
	ElectionTicks  int
	NoPreVote      bool

	// A snapshot is made after this many entries, 0 is no limit; or once they have this many bytes,
	// or half as many as the newest snapshot if that is more.
	SnapshotEntries uint64
	SnapshotBytes   uint64

	// At most this many entries and bytes stay in memory after a snapshot, for slow followers.
	CatchUpEntries uint64
	CatchUpBytes   uint64

	KeepSnapshots  int
	MaxRequest     int   // in bytes; lowered to what the log takes in a record
	Quota          int64 // of the state, in bytes; negative is none
	RequestTimeout time.Duration

	saboteur saboteur
}

// saboteur breaks a promise on purpose, so that tests can show that they notice. The zero value
// breaks none.
type saboteur struct {
	ackBeforeSync     bool
	applyBeforeCommit bool
	staleReads        bool
}

// A Transport carries messages to peers. It may lose them, but it may not change them.
type Transport interface {
	// Send sends a message to m.To. It does not wait.
	Send(m *raftpb.Message)
	// SendSnapshot sends a snapshot's body, which open opens, and m after it, and calls done when
	// the peer has both or cannot be reached. It does not wait.
	SendSnapshot(m *raftpb.Message, open func() (*snap.Reader, error), done func(error))
	// SetPeer says where a member is, RemovePeer that it is gone.
	SetPeer(id uint64, urls []string)
	RemovePeer(id uint64)
}

// An Observer is a set of functions that a Node calls as it works; each may be nil.
type Observer struct {
	Applied       func(took time.Duration) // an entry
	LeaderChanged func(leader uint64)
	Failed        func() // a proposal
	Snapshot      func(took time.Duration, err error)
}

// recordOverhead is more than a record has beside a request, in bytes.
const recordOverhead = 4 << 10

func (c *Config) setDefaults() {
	if c.FS == nil {
		c.FS = fileutil.OS{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	set := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	set(&c.SnapshotEntries, math.MaxUint64)
	set(&c.SnapshotBytes, 64<<20)
	set(&c.CatchUpEntries, 5_000)
	set(&c.CatchUpBytes, 64<<20)
	if c.KeepSnapshots == 0 {
		c.KeepSnapshots = 2
	}
	if c.Tick == 0 {
		c.Tick = 100 * time.Millisecond
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 1
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.MaxRequest == 0 {
		c.MaxRequest = 3 << 19
	}
	// A larger one would be the end of every member.
	c.MaxRequest = min(c.MaxRequest, c.maxRecord()-recordOverhead)
	if c.Quota == 0 {
		c.Quota = 2 << 30
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 5*time.Second + 2*c.election()
	}
}

// maxRecord is the limit on a record of the log, in bytes.
func (c *Config) maxRecord() int {
	if c.WAL.MaxRecord > 0 {
		return c.WAL.MaxRecord
	}
	return wal.DefaultMaxRecord
}

func (c *Config) election() time.Duration { return time.Duration(c.ElectionTicks) * c.Tick }
