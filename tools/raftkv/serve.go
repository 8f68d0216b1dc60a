package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/stele-wal/stele/tools/raftkv/api"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
	"github.com/stele-wal/stele/wal"
)

func serveCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "serve",
		Short: "Be a member of a cluster",
		Long: "Serve is a member of a cluster. It takes etcd's flags, and etcd's environment variables for those that are not given.\n" +
			"SIGTERM and SIGINT end it gracefully: a leader first has another take over.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			notices, err := environment(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer cancel()
			return serve(ctx, &o, notices)
		},
	}
	o.register(c.Flags())
	return c
}

// server is a running member.
type server struct {
	o         *options
	log       *slog.Logger
	node      *node.Node
	transport *peer.Transport
	api       *api.Server
	grpc      []*grpc.Server
	http      []*http.Server
	failed    chan error     // of a listener
	beside    sync.WaitGroup // what ends with the node
}

// ballastSize is how much garbage there may be at least before it is collected, in bytes.
const ballastSize = 64 << 20

// serve is a member until ctx is done or it fails. It begins with telling notices.
func serve(ctx context.Context, o *options, notices []string) error {
	s := &server{o: o, log: o.newLogger(), failed: make(chan error, 8)}
	for _, notice := range notices {
		s.log.Warn(notice)
	}
	set, err := o.check(s.log)
	if err != nil {
		return err
	}
	// The collector takes this for state, and so leaves garbage alone until there is as much of it.
	// Nobody writes to it, so that it takes no memory. Without it a member with little state
	// collects every few hundred calls.
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	if err := s.start(ctx, set); err != nil {
		s.stop()
		return err
	}
	if !o.peer.auth && o.peer.ca == "" {
		s.log.Warn("peers are not asked for certificates: a process that reaches this port can act as a member, and read, change and delete what is stored; "+
			"keep it within a network of your own, or give --peer-cert-file, --peer-key-file and --peer-trusted-ca-file", "peers", o.peerURLs)
	}
	s.log.Info("ready to serve", "member", fmt.Sprintf("%x", s.node.Status().ID), "cluster", fmt.Sprintf("%x", s.node.Status().ClusterID),
		"clients", o.clientURLs, "peers", o.peerURLs)
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
	case <-s.node.Failed():
		err = s.node.Err()
	case err = <-s.failed:
	}
	return errors.Join(err, s.stop())
}

// start starts everything. What was started when it fails is for stop to end.
func (s *server) start(ctx context.Context, set settings) error {
	o := s.o
	var err error
	metrics := api.NewMetrics()
	cfg := node.Config{
		Dir: o.dir(), Name: o.name, Logger: s.log, Observer: metrics.Node(),
		WAL:  wal.Options{SegmentSize: o.segmentSize, NoSync: o.noSync, Observer: metrics.Log()},
		Tick: time.Duration(o.heartbeat) * time.Millisecond, HeartbeatTicks: 1, ElectionTicks: int(o.election / o.heartbeat), NoPreVote: !o.preVote,
		SnapshotEntries: o.snapshotCount, SnapshotBytes: o.snapshotBytes, CatchUpEntries: o.catchUp, KeepSnapshots: int(o.keepSnapshots),
		MaxRequest: int(o.maxRequest), Quota: o.quota,
	}
	if err := o.identify(ctx, &cfg, set.dialTLS); err != nil {
		return err
	}
	s.transport = peer.New(cfg.ClusterID, cfg.ID, set.dialTLS, o.snapshotRate, s.log)
	cfg.Transport = s.transport
	if s.node, err = node.Start(cfg); err != nil {
		return err
	}
	s.api = &api.Server{Node: s.node, Transport: s.transport, Metrics: metrics, MaxTxnOps: int(o.maxTxnOps), MaxRequest: int(o.maxRequest), Strict: o.strict, Profiles: o.pprof}
	self := reachable{s.node, s.api}
	s.transport.Serve(self)
	metrics.Watch(s.node, s.transport)
	for _, u := range set.listenPeers {
		l, err := api.Listen(u, set.peerTLS)
		if err != nil {
			return err
		}
		g := (&peer.Server{T: s.transport, Member: self, Members: s.node.Members()}).NewGRPC()
		s.grpc = append(s.grpc, g)
		go s.run(func() error { return g.Serve(l) })
	}
	g := s.api.NewGRPC()
	s.grpc = append(s.grpc, g)
	web := api.NewHTTP(s.api.HTTP())
	s.http = append(s.http, web)
	for _, u := range set.listenClients {
		l, err := api.Listen(u, set.clientTLS)
		if err != nil {
			return err
		}
		forGRPC, forHTTP := api.Split(l)
		go s.run(func() error { return g.Serve(closing{forGRPC, l}) })
		go s.run(func() error { return web.Serve(forHTTP) })
	}
	for _, u := range set.listenMetrics {
		l, err := api.Listen(u, set.clientTLS)
		if err != nil {
			return err
		}
		go s.run(func() error { return web.Serve(l) })
	}
	if set.retention != (retention{}) {
		s.beside.Go(func() { s.compact(set.retention) })
	}
	if o.corruptCheck > 0 {
		s.beside.Go(func() { s.compare(o.corruptCheck) })
	}
	s.beside.Go(func() { s.meet(set.dialTLS) })
	s.beside.Go(func() { s.introduce(set.clients) })
	return nil
}

// compact forgets old revisions until the node stops.
func (s *server) compact(keep retention) {
	ticker := time.NewTicker(keep.step())
	defer ticker.Stop()
	(&past{retention: keep}).run(s.node.Stopped(), ticker.C, compacting{s.node, s.log})
}

// closing is a part of a listener that closes the whole.
type closing struct {
	net.Listener
	whole net.Listener
}

func (c closing) Close() error { return errors.Join(c.Listener.Close(), c.whole.Close()) }

// run serves a listener, and has the program end if that fails.
func (s *server) run(serve func() error) {
	err := serve()
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
		s.failed <- err
	}
}

// reachable is what peers reach of a member.
type reachable struct {
	*node.Node
	api *api.Server
}

func (r reachable) Promote(ctx context.Context, id uint64) error { return r.api.Promote(ctx, id) }

var _ interface {
	Receive(context.Context, *raftpb.Message) error
} = reachable{}

// living returns a context that is done when the node is stopped.
func (s *server) living() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	s.beside.Go(func() {
		select {
		case <-s.node.Stopped():
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// stop ends everything, gracefully as far as it is not broken.
func (s *server) stop() error {
	if s.node == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Duration(s.o.election)*time.Millisecond)
	defer cancel()
	if s.node.Err() == nil {
		s.node.Retire(ctx)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if len(s.grpc) > 0 {
			s.grpc[len(s.grpc)-1].GracefulStop() // the clients'
		}
	}()
	select {
	case <-done: // every request was answered
	case <-ctx.Done():
	}
	err := s.node.Stop()
	s.beside.Wait()
	for _, g := range s.grpc {
		g.Stop()
	}
	for _, h := range s.http {
		h.Close()
	}
	s.transport.Close()
	return err
}
