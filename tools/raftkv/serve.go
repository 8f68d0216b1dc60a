package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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

// options are the flags of raftkv serve. Their names and meanings are etcd's, but for the last few.
type options struct {
	name, dataDir                     string
	clientURLs, peerURLs, metricsURLs string
	advertiseClient, advertisePeer    string
	cluster, state, token             string
	heartbeat, election               uint
	snapshotCount, catchUp            uint64
	keepSnapshots                     uint
	quota                             int64
	maxTxnOps, maxRequest             uint
	preVote, strict                   bool
	logLevel, logFormat               string
	client, peer                      tlsOptions
	snapshotBytes                     uint64
	snapshotRate, segmentSize         int64
	noSync, pprof                     bool
	compactMode, compactRetention     string
}

type tlsOptions struct {
	cert, key, ca string
	auth          bool
	allowedCN     string
}

func (o *options) register(f *pflag.FlagSet) {
	f.StringVar(&o.name, "name", "default", "name of this member")
	f.StringVar(&o.dataDir, "data-dir", "", "where the log and the snapshots are (default <name>.etcd)")
	f.StringVar(&o.clientURLs, "listen-client-urls", "http://localhost:2379", "where to listen for clients")
	f.StringVar(&o.peerURLs, "listen-peer-urls", "http://localhost:2380", "where to listen for peers")
	f.StringVar(&o.metricsURLs, "listen-metrics-urls", "", "where else to serve /metrics and /healthz")
	f.StringVar(&o.advertiseClient, "advertise-client-urls", "", "where clients reach this member (default: where it listens)")
	f.StringVar(&o.advertisePeer, "initial-advertise-peer-urls", "", "where peers reach this member (default: where it listens)")
	f.StringVar(&o.cluster, "initial-cluster", "", "name=URL of all members, separated by commas (default: this one)")
	f.StringVar(&o.state, "initial-cluster-state", "new", "new, or existing for a member that was added to a cluster")
	f.StringVar(&o.token, "initial-cluster-token", "etcd-cluster", "what tells clusters of the same URLs apart")
	f.UintVar(&o.heartbeat, "heartbeat-interval", 100, "milliseconds between two heartbeats of a leader")
	f.UintVar(&o.election, "election-timeout", 1000, "milliseconds without a leader until an election")
	f.Uint64Var(&o.snapshotCount, "snapshot-count", 100_000, "entries until a snapshot is made; more than etcd's 10000, because each holds the whole state")
	f.Uint64Var(&o.catchUp, "snapshot-catchup-entries", 5_000, "entries kept in memory behind a snapshot, for slow members")
	f.UintVar(&o.keepSnapshots, "max-snapshots", 2, "snapshots to keep")
	f.Int64Var(&o.quota, "quota-backend-bytes", 2<<30, "how large the state may grow before the alarm; without a limit if negative")
	f.UintVar(&o.maxTxnOps, "max-txn-ops", api.DefaultMaxTxnOps, "operations in a transaction at most")
	f.UintVar(&o.maxRequest, "max-request-bytes", 3<<19, "bytes in a request at most")
	f.BoolVar(&o.preVote, "pre-vote", true, "ask before an election whether it could be won")
	f.BoolVar(&o.strict, "strict-reconfig-check", true, "refuse changes of the members that would cost the quorum")
	f.StringVar(&o.compactMode, "auto-compaction-mode", "periodic", "periodic or revision: what --auto-compaction-retention counts")
	f.StringVar(&o.compactRetention, "auto-compaction-retention", "0", "hours, a duration, or revisions that are kept, 0 for all")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "console", "console or json")
	for prefix, t := range map[string]*tlsOptions{"": &o.client, "peer-": &o.peer} {
		f.StringVar(&t.cert, prefix+"cert-file", "", "certificate")
		f.StringVar(&t.key, prefix+"key-file", "", "its key")
		f.StringVar(&t.ca, prefix+"trusted-ca-file", "", "who signs the certificates of the others")
		f.BoolVar(&t.auth, prefix+"client-cert-auth", false, "let nobody in without a certificate")
	}
	f.StringVar(&o.peer.allowedCN, "peer-cert-allowed-cn", "", "let only peers with this common name in")
	f.Uint64Var(&o.snapshotBytes, "snapshot-bytes", 64<<20, "bytes of entries until a snapshot is made (not etcd's)")
	f.Int64Var(&o.snapshotRate, "snapshot-send-rate", 0, "bytes a second of a snapshot to a peer, 0 for no limit (not etcd's)")
	f.Int64Var(&o.segmentSize, "wal-segment-bytes", 0, "bytes in a segment of the log, 0 for the default (not etcd's)")
	f.BoolVar(&o.noSync, "unsafe-no-fsync", false, "do not sync: a power cut loses what was acknowledged")
	f.BoolVar(&o.pprof, "enable-pprof", false, "serve profiles at /debug/pprof/ of the client URLs")
	// What etcd has and this program has no use for is accepted, so that a member's command line works as it is.
	for _, name := range []string{"logger", "log-outputs", "max-wals"} {
		f.String(name, "", "")
		_ = f.MarkHidden(name)
	}
}

// environment sets the flags that were not given from ETCD_NAME and so on.
func environment(f *pflag.FlagSet) error {
	var err error
	f.VisitAll(func(flag *pflag.Flag) {
		name := "ETCD_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		if value, ok := os.LookupEnv(name); ok && !flag.Changed && err == nil {
			if e := f.Set(flag.Name, value); e != nil {
				err = fmt.Errorf("%s: %w", name, e)
			}
		}
	})
	return err
}

func serveCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "serve",
		Short: "Be a member of a cluster",
		Long: "Serve is a member of a cluster. It takes etcd's flags, and etcd's environment variables for those that are not given.\n" +
			"SIGTERM and SIGINT end it gracefully: a leader first has another take over.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := environment(cmd.Flags()); err != nil {
				return err
			}
			ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer cancel()
			return serve(ctx, &o)
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

// serve is a member until ctx is done or it fails.
func serve(ctx context.Context, o *options) error {
	s := &server{o: o, log: o.logger(), failed: make(chan error, 8)}
	// The collector takes this for state, and so leaves garbage alone until there is as much of it. Nobody writes to it, so that it takes
	// no memory. Without it a member with little state collects every few hundred calls.
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	if err := s.start(ctx); err != nil {
		s.stop()
		return err
	}
	s.log.Info("ready to serve", "member", fmt.Sprintf("%x", s.node.Status().ID), "cluster", fmt.Sprintf("%x", s.node.Status().ClusterID),
		"clients", o.clientURLs, "peers", o.peerURLs)
	var err error
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
	case <-s.node.Failed():
		err = s.node.Err()
	case err = <-s.failed:
	}
	return errors.Join(err, s.stop())
}

func (o *options) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(o.logLevel)) // what is unknown is info
	h := &slog.HandlerOptions{Level: level}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, h))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, h))
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// members returns the members in an --initial-cluster and which of them this one is.
func (o *options) members() (all []member.Member, self member.Member, err error) {
	own, err := member.ParseURLs(split(or(o.advertisePeer, o.peerURLs)))
	if err != nil {
		return nil, self, err
	}
	urls := map[string][]string{}
	for _, part := range split(or(o.cluster, o.name+"="+strings.Join(own, ","+o.name+"="))) {
		name, u, ok := strings.Cut(part, "=")
		if !ok {
			return nil, self, fmt.Errorf("--initial-cluster: %q is not name=URL", part)
		}
		urls[name] = append(urls[name], u)
	}
	for name, list := range urls {
		list, err := member.ParseURLs(list)
		if err != nil {
			return nil, self, fmt.Errorf("--initial-cluster: %s: %w", name, err)
		}
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

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (o *options) dir() string { return filepath.Join(or(o.dataDir, o.name+".etcd"), "member") }

// maxMaxRequest is the largest --max-request-bytes: what the log takes in a record, and some room.
const maxMaxRequest = 8 << 20

// check returns why a member cannot be as the flags say.
func (o *options) check() error {
	if o.maxRequest > maxMaxRequest {
		return fmt.Errorf("--max-request-bytes %d: the log takes no more than %d", o.maxRequest, maxMaxRequest)
	}
	return nil
}

// start starts everything. What was started when it fails is for stop to end.
func (s *server) start(ctx context.Context) error {
	o := s.o
	if err := o.check(); err != nil {
		return err
	}
	keep, err := parseRetention(o.compactMode, o.compactRetention)
	if err != nil {
		return err
	}
	clientTLS, err := o.client.server("")
	if err != nil {
		return fmt.Errorf("certificates for clients: %w", err)
	}
	peerTLS, err := o.peer.server(o.peer.allowedCN)
	if err != nil {
		return fmt.Errorf("certificates for peers: %w", err)
	}
	dialTLS, err := o.peer.client()
	if err != nil {
		return fmt.Errorf("certificates for peers: %w", err)
	}
	metrics := api.NewMetrics()
	cfg := node.Config{
		Dir: o.dir(), Logger: s.log, Observer: metrics.Node(),
		WAL:  wal.Options{SegmentSize: o.segmentSize, NoSync: o.noSync, Observer: metrics.Log()},
		Tick: time.Duration(o.heartbeat) * time.Millisecond, HeartbeatTicks: 1, ElectionTicks: int(o.election / max(o.heartbeat, 1)), NoPreVote: !o.preVote,
		SnapshotEntries: o.snapshotCount, SnapshotBytes: o.snapshotBytes, CatchUpEntries: o.catchUp, KeepSnapshots: int(o.keepSnapshots),
		MaxRequest: int(o.maxRequest), Quota: o.quota,
	}
	if err := o.identify(ctx, &cfg, dialTLS); err != nil {
		return err
	}
	s.transport = peer.New(cfg.ClusterID, cfg.ID, dialTLS, o.snapshotRate, s.log)
	cfg.Transport = s.transport
	if s.node, err = node.Start(cfg); err != nil {
		return err
	}
	s.api = &api.Server{Node: s.node, Transport: s.transport, Metrics: metrics, MaxTxnOps: int(o.maxTxnOps), MaxRequest: int(o.maxRequest), Strict: o.strict, Profiles: o.pprof}
	self := reachable{s.node, s.api}
	s.transport.Serve(self)
	metrics.Watch(s.node, s.transport)
	for _, u := range split(o.peerURLs) {
		l, err := api.Listen(u, peerTLS)
		if err != nil {
			return err
		}
		g := (&peer.Server{T: s.transport, Member: self, Members: s.node.Members()}).NewGRPC()
		s.grpc = append(s.grpc, g)
		go s.run(func() error { return g.Serve(l) })
	}
	g := s.api.NewGRPC()
	s.grpc = append(s.grpc, g)
	web := &http.Server{Handler: s.api.HTTP(), ReadHeaderTimeout: 10 * time.Second}
	s.http = append(s.http, web)
	for _, u := range split(o.clientURLs) {
		l, err := api.Listen(u, clientTLS)
		if err != nil {
			return err
		}
		forGRPC, forHTTP := api.Split(l)
		go s.run(func() error { return g.Serve(closing{forGRPC, l}) })
		go s.run(func() error { return web.Serve(forHTTP) })
	}
	for _, u := range split(o.metricsURLs) {
		l, err := api.Listen(u, clientTLS)
		if err != nil {
			return err
		}
		go s.run(func() error { return web.Serve(l) })
	}
	if keep != (retention{}) {
		s.beside.Go(func() { s.compact(keep) })
	}
	s.beside.Go(func() { s.meet(dialTLS) })
	go s.introduce(split(or(o.advertiseClient, o.clientURLs)))
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
	info, err := peer.Ask(ctx, m.PeerURLs[0], dialTLS)
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

// server returns what to listen with, nil if there is no certificate.
func (t *tlsOptions) server(allowedCN string) (*tls.Config, error) {
	if t.cert == "" && t.key == "" {
		if t.auth || t.ca != "" {
			return nil, errors.New("to ask others for certificates takes one")
		}
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if t.ca != "" {
		if c.ClientCAs, err = pool(t.ca); err != nil {
			return nil, err
		}
	}
	if t.auth || t.ca != "" {
		if c.ClientCAs == nil {
			return nil, errors.New("to check certificates takes a trusted CA file")
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if allowedCN != "" {
		c.VerifyPeerCertificate = func(_ [][]byte, chains [][]*x509.Certificate) error {
			for _, chain := range chains {
				if len(chain) > 0 && chain[0].Subject.CommonName == allowedCN {
					return nil
				}
			}
			return fmt.Errorf("the certificate's common name is not %q", allowedCN)
		}
	}
	return c, nil
}

// client returns what to connect with, nil if there is no certificate.
func (t *tlsOptions) client() (*tls.Config, error) {
	if t.cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if t.ca != "" {
		c.RootCAs, err = pool(t.ca)
	}
	return c, err
}

func pool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificate in it", file)
	}
	return p, nil
}
