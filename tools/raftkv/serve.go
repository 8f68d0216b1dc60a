package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/stele-wal/stele/tools/raftkv/api"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
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

// server is a running member. What is nil in it has not started.
type server struct {
	o   *options
	set settings
	log *slog.Logger

	metrics   *api.Metrics
	transport *peer.Transport
	node      *node.Node
	api       *api.Server
	peers     *grpc.Server
	clients   *grpc.Server
	http      *http.Server
	failed    chan error     // takes the errors of listeners
	beside    sync.WaitGroup // goroutines that end when the node stops
}

// serve is a member until ctx is done or it fails. It begins with telling notices.
func serve(ctx context.Context, o *options, notices []string) error {
	s := &server{o: o, log: o.newLogger(), failed: make(chan error, 8)}
	for _, notice := range notices {
		s.log.Warn(notice)
	}
	var err error
	if s.set, err = o.check(s.log); err != nil {
		return err // nothing was made
	}
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	if err := s.start(ctx); err != nil {
		s.stop()
		return err
	}
	s.announce()
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
	case <-s.node.Failed():
		err = s.node.Err()
	case err = <-s.failed:
	}
	return errors.Join(err, s.stop())
}

// ballastSize is how much garbage there may be at least before it is collected, in bytes. The
// collector takes the ballast for state, and waits until there is as much garbage as state. It is
// never written to, so that it takes no memory. Without it a member with little state collects
// every few hundred calls.
const ballastSize = 64 << 20

// start starts everything, from the log up. What was started when it fails is for stop to end.
func (s *server) start(ctx context.Context) error {
	s.metrics = api.NewMetrics()
	cfg := s.o.nodeConfig(s.log, s.metrics)
	if err := s.o.identify(ctx, &cfg, s.set.dialTLS); err != nil {
		return err
	}
	s.transport = peer.New(cfg.ClusterID, cfg.ID, s.set.dialTLS, s.o.snapshotRate, s.log)
	cfg.Transport = s.transport
	var err error
	if s.node, err = node.Start(cfg); err != nil {
		return err
	}
	s.api = &api.Server{
		Node: s.node, Transport: s.transport, Metrics: s.metrics,
		MaxTxnOps: int(s.o.maxTxnOps), MaxRequest: int(s.o.maxRequest), Strict: s.o.strict, Profiles: s.o.pprof,
	}
	s.metrics.Watch(s.node, s.transport)
	if err := s.listen(); err != nil {
		return err
	}
	if s.set.retention != (retention{}) {
		s.beside.Go(s.compact)
	}
	if s.o.corruptCheck > 0 {
		s.beside.Go(s.compare)
	}
	s.beside.Go(s.meet)
	s.beside.Go(s.introduce)
	return nil
}

// announce logs that the member serves, and who may reach it.
func (s *server) announce() {
	o := s.o
	if !o.peer.auth && o.peer.ca == "" {
		s.log.Warn("peers are not asked for certificates: a process that reaches this port can act as a member, and read, change and delete what is stored; "+
			"keep it within a network of your own, or give --peer-cert-file, --peer-key-file and --peer-trusted-ca-file", "peers", o.peerURLs)
	}
	st := s.node.Status()
	s.log.Info("ready to serve", "member", fmt.Sprintf("%x", st.ID), "cluster", fmt.Sprintf("%x", st.ClusterID),
		"clients", o.clientURLs, "peers", o.peerURLs)
}

// stop ends everything: a leader hands over and requests are answered, as far as that works within
// two election timeouts.
func (s *server) stop() error {
	if s.node == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Duration(s.o.election)*time.Millisecond)
	defer cancel()
	if s.node.Err() == nil {
		s.node.Retire(ctx)
	}
	s.answer(ctx)
	err := s.node.Stop()
	s.beside.Wait()
	s.close()
	s.transport.Close()
	return err
}

// compact forgets old revisions until the node stops.
func (s *server) compact() {
	keep := s.set.retention
	ticker := time.NewTicker(keep.step())
	defer ticker.Stop()
	(&past{retention: keep}).run(s.node.Stopped(), ticker.C, compacting{s.node, s.log})
}

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
