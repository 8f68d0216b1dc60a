package main

import (
	"context"
	"errors"
	"net"
	"net/http"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/stele-wal/stele/tools/raftkv/api"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
)

// listen begins to serve at all URLs: peers over gRPC, clients over gRPC and HTTP on the same port,
// and metrics over HTTP.
func (s *server) listen() error {
	self := reachable{s.node, s.api}
	s.transport.Serve(self)
	s.peers = (&peer.Server{T: s.transport, Member: self, Members: s.node.Members()}).NewGRPC()
	for _, u := range s.set.listenPeers {
		l, err := api.Listen(u, s.set.peerTLS)
		if err != nil {
			return err
		}
		go s.run(func() error { return s.peers.Serve(l) })
	}
	s.clients = s.api.NewGRPC()
	s.http = api.NewHTTP(s.api.HTTP())
	for _, u := range s.set.listenClients {
		l, err := api.Listen(u, s.set.clientTLS)
		if err != nil {
			return err
		}
		forGRPC, forHTTP := api.Split(l)
		go s.run(func() error { return s.clients.Serve(closing{forGRPC, l}) })
		go s.run(func() error { return s.http.Serve(forHTTP) })
	}
	for _, u := range s.set.listenMetrics {
		l, err := api.Listen(u, s.set.clientTLS)
		if err != nil {
			return err
		}
		go s.run(func() error { return s.http.Serve(l) })
	}
	return nil
}

// run serves a listener, and has the program end if that fails.
func (s *server) run(serve func() error) {
	err := serve()
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
		s.failed <- err
	}
}

// answer takes no more requests of clients, and waits until those that were taken are answered or
// ctx is done.
func (s *server) answer(ctx context.Context) {
	if s.clients == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.clients.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// close ends all that listens.
func (s *server) close() {
	for _, g := range []*grpc.Server{s.peers, s.clients} {
		if g != nil {
			g.Stop()
		}
	}
	if s.http != nil {
		s.http.Close()
	}
}

// closing is a part of a listener that closes the whole.
type closing struct {
	net.Listener
	whole net.Listener
}

func (c closing) Close() error { return errors.Join(c.Listener.Close(), c.whole.Close()) }

// reachable is what peers reach of a member.
type reachable struct {
	*node.Node
	api *api.Server
}

func (r reachable) Promote(ctx context.Context, id uint64) error { return r.api.Promote(ctx, id) }

var _ interface {
	Receive(context.Context, *raftpb.Message) error
} = reachable{}
