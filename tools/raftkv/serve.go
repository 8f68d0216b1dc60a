package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/stele-wal/stele/tools/raftkv/api"
	"github.com/stele-wal/stele/tools/raftkv/member"
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
	// The collector takes this for state, and so leaves garbage alone until there is as much of it. Nobody writes to it, so that it takes
	// no memory. Without it a member with little state collects every few hundred calls.
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	if err := s.start(ctx, set); err != nil {
		s.stop()
		return err
	}
	if !o.peer.auth && o.peer.ca == "" {
		s.log.Warn("peers are not asked for certificates: whoever reaches this port can act as a member, and read, change and delete what is stored; "+
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

// members returns the members in an --initial-cluster and which of them this one is.
func (o *options) members() (all []member.Member, self member.Member, err error) {
	own, err := member.ParseURLs(split(or(o.advertisePeer, o.peerURLs)))
	if err != nil {
		return nil, self, err
	}
	founders, err := o.founders()
	if err != nil {
		return nil, self, err
	}
	for name, list := range founders {
		m := member.New(name, o.token, list)
		if name == o.name {
			self = m
		}
		m.Name = "" // until it has started
		all = append(all, m)
	}
	if self.ID == 0 {
		return nil, self, fmt.Errorf("--initial-cluster does not have --name %s", o.name)
	}
	if !slices.Equal(self.PeerURLs, own) {
		return nil, self, fmt.Errorf("--initial-cluster has %s at %s, but --initial-advertise-peer-urls is %s",
			o.name, strings.Join(self.PeerURLs, ","), strings.Join(own, ","))
	}
	return all, self, nil
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
	s.beside.Go(func() { s.meet(set.dialTLS) })
	go s.introduce(set.clients)
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

// identify finds out who this member is: from its log, from the flags, or from the members of the cluster it joins.
func (o *options) identify(ctx context.Context, cfg *node.Config, dialTLS *tls.Config) error {
	id, cluster, err := node.Identity(cfg.Dir)
	if err == nil {
		cfg.ID, cfg.ClusterID = id, cluster
		// The flags may still say who the others are, until the log has told; and whose log a crash left empty.
		if all, self, err := o.members(); err == nil && o.state == "new" && self.ID == id && member.NewSet(all...).ClusterID() == cluster {
			cfg.Members, cfg.Bootstrap = all, true
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all, self, err := o.members()
	if err != nil {
		return err
	}
	switch o.state {
	case "new":
		cfg.ID, cfg.ClusterID = self.ID, member.NewSet(all...).ClusterID()
		cfg.Members, cfg.Bootstrap = all, true
		return nil
	case "existing":
		var last error
		for _, m := range all {
			if slices.Equal(m.PeerURLs, self.PeerURLs) {
				continue
			}
			info, err := whoBelongs(ctx, m, dialTLS)
			if err != nil {
				last = err
				continue
			}
			me, ok := member.NewSet(info.Members...).Named(self.PeerURLs)
			if !ok {
				return fmt.Errorf("the cluster at %s has no member at %s: add it first", m.PeerURLs[0], strings.Join(self.PeerURLs, ","))
			}
			cfg.ID, cfg.ClusterID, cfg.Members = me.ID, info.ClusterID, info.Members
			return nil
		}
		return fmt.Errorf("no member of the cluster to join answers: %w", last)
	}
	return fmt.Errorf("--initial-cluster-state: %q is neither new nor existing", o.state)
}

// whoBelongs asks a member who belongs to its cluster.
func whoBelongs(ctx context.Context, m member.Member, dialTLS *tls.Config) (peer.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := peer.Ask(ctx, strings.Join(m.PeerURLs, ","), dialTLS)
	if err == nil && len(info.Members) == 0 {
		err = fmt.Errorf("the member at %s does not know yet who belongs to its cluster", m.PeerURLs[0])
	}
	return info, err
}

// meet asks who belongs to the cluster until this member's log says so. A crash may have left a log that says only whose it is; then
// nothing but the flags tells whom to ask.
func (s *server) meet(dialTLS *tls.Config) {
	all, self, err := s.o.members()
	if err != nil {
		return // a member needs these flags only until its log tells
	}
	ctx, cancel := s.living()
	defer cancel()
	ticker := time.NewTicker(retryEvery)
	defer ticker.Stop()
	for len(s.node.Members().List()) == 0 {
		for _, m := range all {
			if slices.Equal(m.PeerURLs, self.PeerURLs) {
				continue
			}
			if info, err := whoBelongs(ctx, m, dialTLS); err == nil && info.ClusterID == s.node.Status().ClusterID {
				s.node.Meet(info.Members)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// retryEvery is how often a member tries again what it is to do when it starts.
const retryEvery = time.Second

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

// introduce tells the cluster this member's name and where clients reach it.
func (s *server) introduce(clientURLs []string) {
	id := s.node.Status().ID
	for {
		if m, ok := s.node.Members().Get(id); ok && m.Name == s.o.name && slices.Equal(m.ClientURLs, clientURLs) {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := s.node.Propose(ctx, &etcdserverpb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
			Member_ID:        id,
			MemberAttributes: &membershippb.Attributes{Name: s.o.name, ClientUrls: clientURLs},
		}})
		cancel()
		if errors.Is(err, node.ErrStopped) {
			return
		}
	}
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
