package node

import (
	"errors"
)

// Errors of requests that take no effect.
var (
	ErrTooMany     = errors.New("raftkv: too many requests")
	ErrTooLarge    = errors.New("raftkv: request is too large")
	ErrNoSpace     = errors.New("raftkv: no space")
	ErrNotLeader   = errors.New("raftkv: not the leader")
	ErrBadTransfer = errors.New("raftkv: bad leader transferee")
	ErrNotReady    = errors.New("raftkv: the learner is not in sync with the leader")
	ErrBadAlarm    = errors.New("raftkv: unknown alarm")
	ErrUnhealthy   = errors.New("raftkv: not enough started members")
)

// ErrCorrupt is of a write while members hold different things: it takes no effect, so that no more
// is built on what may be wrong.
var ErrCorrupt = errors.New("raftkv: corrupt cluster")

// Errors of requests that may take effect, now or later, or never.
var (
	ErrStopped    = errors.New("raftkv: the node is stopped")
	ErrLeaderLost = errors.New("raftkv: the leader changed before the request was decided")
	ErrTimeout    = errors.New("raftkv: request timed out")
	ErrNoTransfer = errors.New("raftkv: request timed out, leader transfer took too long")
)

// ErrNotRestored is of a snapshot that raft does not go on from: it does not have this member, or
// is of a leader that no longer leads.
var ErrNotRestored = errors.New("raftkv: the snapshot was not restored")

// ErrAhead is of a snapshot that the log has gone beyond, or has come to. Nothing of it is needed.
var ErrAhead = errors.New("raftkv: the log stands at the snapshot or after it")

// ErrRemoved is why a Node stops whose member was removed from the cluster.
var ErrRemoved = errors.New("raftkv: this member was removed from the cluster")
