package node

import (
	"errors"
)

// Errors of requests. Unless it says otherwise, an error leaves open whether the request takes
// effect.
var (
	ErrStopped     = errors.New("raftkv: the node is stopped")                               // it may have been accepted
	ErrLeaderLost  = errors.New("raftkv: the leader changed before the request was decided") // it may be decided yet
	ErrTimeout     = errors.New("raftkv: request timed out")
	ErrTooMany     = errors.New("raftkv: too many requests")    // it takes no effect
	ErrTooLarge    = errors.New("raftkv: request is too large") // it takes no effect
	ErrNoSpace     = errors.New("raftkv: no space")             // it takes no effect
	ErrNotLeader   = errors.New("raftkv: not the leader")       // it takes no effect
	ErrNoTransfer  = errors.New("raftkv: request timed out, leader transfer took too long")
	ErrBadTransfer = errors.New("raftkv: bad leader transferee")                      // it takes no effect
	ErrNotReady    = errors.New("raftkv: the learner is not in sync with the leader") // it takes no effect
	ErrBadAlarm    = errors.New("raftkv: unknown alarm")                              // it takes no effect
	ErrUnhealthy   = errors.New("raftkv: not enough started members")                 // it takes no effect
)

// ErrCorrupt is of a write while members hold different things: it takes no effect, so that no more
// is built on what may be wrong.
var ErrCorrupt = errors.New("raftkv: corrupt cluster")

// ErrNotRestored is of a snapshot that raft does not go on from: it does not have this member, or
// is of a leader that is none any more.
var ErrNotRestored = errors.New("raftkv: the snapshot was not restored")

// ErrAhead is of a snapshot that the log has gone beyond, or has come to. Nothing of it is needed.
var ErrAhead = errors.New("raftkv: the log stands at the snapshot or after it")

// ErrRemoved is why a Node stops whose member was removed from the cluster.
var ErrRemoved = errors.New("raftkv: this member was removed from the cluster")
