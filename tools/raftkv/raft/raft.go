// Package raft is Raft as the labs of MIT's 6.5840 (6.824 before) have it: Make, Start, GetState,
// Snapshot, Kill, and a channel of what was applied. Beneath it are raftkv's node, a real log and a
// real network, so that what was applied survives crashes.
//
// Other than in the labs: a command is bytes, since it goes to the disk and to other machines.
// Peers are URLs, and a directory takes the place of the Persister. Snapshots are kept by Raft,
// which gives the newest to the channel first when it starts. Indexes rise, but not always by one:
// Raft has entries of its own, at the beginning and whenever there is a new leader.
package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/stele-wal/stele/tools/raftkv/api"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
)

// An ApplyMsg is a command that is committed, or a snapshot that takes the place of all commands up
// to its index.
type ApplyMsg struct {
	CommandValid bool
	Command      []byte
	CommandIndex uint64
	CommandTerm  uint64

	SnapshotValid bool
	Snapshot      []byte
	SnapshotIndex uint64
	SnapshotTerm  uint64
}

// A Raft is one peer of a cluster. Its methods may be called concurrently.
type Raft struct {
	node      *node.Node
	transport *peer.Transport
	server    *grpc.Server
	served    chan struct{} // closed when server has ended
	ctx       context.Context
	cancel    context.CancelFunc
	snapshots sync.RWMutex // held for reading while one is made
	one       sync.Mutex   // so that only one is made at a time
	kill      sync.Once
	err       error
	apply     *applying
}

// Options are what a caller may choose. A nil *Options and every zero field mean the default.
type Options struct {
	Listener net.Listener // where to listen; the default is what this peer's URL says
	// Between heartbeats, and a tenth of an election timeout; the default is 100 ms.
	Tick   time.Duration
	Logger *slog.Logger // the default is silence
}

// Make starts the peer that is number me of some peers, which are URLs like http://10.0.0.1:7000,
// the same list for each of them. What it must not forget is in the directory dir, which it makes
// if it is not there. Committed commands go to applied, which must be read: each once in a life of
// the peer, in order, after the newest snapshot if there is one. The channel is closed when the
// peer has ended.
//
// The error says that a peer is no URL, that dir is of another peer or is damaged, or is of the
// file system or the network.
func Make(peers []string, me int, dir string, applied chan<- ApplyMsg, opts *Options) (*Raft, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if me < 0 || me >= len(peers) {
		return nil, fmt.Errorf("raft: there is no peer %d of %d", me, len(peers))
	}
	var all []member.Member
	for _, p := range peers {
		urls, err := member.ParseURLs([]string{p})
		if err != nil {
			return nil, fmt.Errorf("raft: %w", err)
		}
		all = append(all, member.New("", "raft", urls))
	}
	id, cluster := all[me].ID, member.NewSet(all...).ClusterID()
	l := o.Listener
	if l == nil {
		var err error
		if l, err = api.Listen(peers[me], nil); err != nil {
			return nil, fmt.Errorf("raft: %w", err)
		}
	}
	rf := &Raft{transport: peer.New(cluster, id, nil, 0, o.Logger), served: make(chan struct{}), apply: &applying{to: applied}}
	rf.ctx, rf.cancel = context.WithCancel(context.Background())
	var err error
	rf.node, err = node.Start(node.Config{
		ID: id, ClusterID: cluster, Dir: dir, Members: all, Bootstrap: true,
		Transport: rf.transport, Machine: rf.apply, Logger: o.Logger, Tick: o.Tick,
	})
	if err != nil {
		rf.transport.Close()
		l.Close()
		return nil, fmt.Errorf("raft: %w", err)
	}
	reached := reachable{rf.node}
	rf.transport.Serve(reached)
	rf.server = (&peer.Server{T: rf.transport, Member: reached, Members: rf.node.Members()}).NewGRPC()
	go func() {
		defer close(rf.served)
		// It ends when the server is stopped. If the listener breaks, this peer hears no other, and
		// the others go on.
		_ = rf.server.Serve(l)
	}()
	go func() {
		<-rf.node.Stopped() // also if it has failed
		_ = rf.Kill()
	}()
	return rf, nil
}

// Start begins agreement on a command and returns at once. The first result is the index that it
// will have if it is ever committed, the second the current term, and the third whether this peer
// believes that it leads; if not, nothing was begun. A command that Start took may be lost if the
// leader changes: it is committed once it has come out of the channel, at that index. One larger
// than 1.5 MiB is never taken.
func (rf *Raft) Start(command []byte) (index, term uint64, isLeader bool) {
	return rf.node.Begin(command)
}

// GetState returns the current term, and whether this peer believes that it leads.
func (rf *Raft) GetState() (term uint64, isLeader bool) {
	s := rf.node.Status()
	return s.Term, s.Leader == s.ID
}

// Snapshot says that the service has a snapshot of all up to an index that came out of the channel.
// Once Snapshot has returned nil it is durable, and Raft forgets what is before it. The error says
// that nothing has come out at that index, that the peer was killed, or is that of the file system.
func (rf *Raft) Snapshot(index uint64, snapshot []byte) error {
	rf.snapshots.RLock()
	defer rf.snapshots.RUnlock()
	rf.one.Lock()
	defer rf.one.Unlock()
	if rf.ctx.Err() != nil {
		return node.ErrStopped
	}
	if last := rf.apply.newest(); index > last {
		return fmt.Errorf("raft: a snapshot at %d, and the last that came out is %d", index, last)
	}
	err := rf.node.SnapshotAt(rf.ctx, index, snapshot)
	if err == nil {
		rf.apply.forget(index)
	}
	return err
}

// PersistBytes returns how many bytes of commands have come out of the channel since the newest
// snapshot: when they are too many it is time for another.
func (rf *Raft) PersistBytes() int { return rf.apply.size() }

// Kill ends the peer and closes the channel. What was acknowledged to others is durable. The error
// is that of the log, or why the peer had ended before; Kill may be called more than once.
func (rf *Raft) Kill() error {
	rf.kill.Do(func() {
		rf.cancel()
		rf.snapshots.Lock() // none is made any more
		rf.err = errors.Join(rf.node.Err(), rf.node.Stop())
		rf.server.Stop()
		<-rf.served
		rf.transport.Close()
		close(rf.apply.to)
		rf.snapshots.Unlock()
	})
	return rf.err
}

// reachable is what peers reach of one.
type reachable struct{ *node.Node }

// Promote is part of peer.Member: there are no learners.
func (reachable) Promote(context.Context, uint64) error { return node.ErrNotReady }

// applying is a node's Machine: it sends what it is given.
type applying struct {
	to chan<- ApplyMsg

	mu    sync.Mutex
	sizes []sized // of the commands since the newest snapshot
	bytes int
	last  uint64 // the index of what was sent last, or is being sent
}

type sized struct {
	index uint64
	bytes int
}

// Apply is part of node.Machine.
func (a *applying) Apply(stop <-chan struct{}, index, term uint64, command []byte) {
	a.mu.Lock()
	a.sizes = append(a.sizes, sized{index, len(command)})
	a.bytes += len(command)
	a.last = index
	a.mu.Unlock()
	a.send(stop, ApplyMsg{CommandValid: true, Command: command, CommandIndex: index, CommandTerm: term})
}

// Restore is part of node.Machine.
func (a *applying) Restore(stop <-chan struct{}, index, term uint64, state []byte) {
	a.forget(index)
	a.mu.Lock()
	a.last = index
	a.mu.Unlock()
	a.send(stop, ApplyMsg{SnapshotValid: true, Snapshot: state, SnapshotIndex: index, SnapshotTerm: term})
}

func (a *applying) send(stop <-chan struct{}, m ApplyMsg) {
	select {
	case a.to <- m:
	case <-stop:
	}
}

// forget says that a snapshot stands for the commands up to an index.
func (a *applying) forget(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.sizes) > 0 && a.sizes[0].index <= index {
		a.bytes -= a.sizes[0].bytes
		a.sizes = a.sizes[1:]
	}
}

func (a *applying) newest() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

func (a *applying) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes
}
