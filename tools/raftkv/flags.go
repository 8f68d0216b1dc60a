package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/stele-wal/stele/tools/raftkv/api"
	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/wal"
)

// options are the flags of raftkv serve. Their names and meanings are etcd's, except those whose
// help says that they are not.
type options struct {
	name, dataDir string

	// Lists of URLs, separated by commas.
	clientURLs, peerURLs, metricsURLs string // where to listen
	advertiseClient, advertisePeer    string // where others connect; empty is where it listens

	// The members, until the log says which they are.
	cluster, state, token string

	client, peer tlsOptions

	heartbeat, election uint // in milliseconds
	preVote             bool

	snapshotCount, catchUp uint64 // entries
	snapshotBytes          uint64
	snapshotRate           int64 // bytes a second, 0 is no limit
	keepSnapshots          uint
	segmentSize            int64 // 0 is the log's default
	noSync                 bool

	quota                         int64 // bytes, negative is none
	maxTxnOps, maxRequest         uint
	strict                        bool
	compactMode, compactRetention string
	corruptCheck                  time.Duration // 0 is never

	logLevel, logFormat string
	pprof               bool

	logger, logOutputs, metrics string // checked, and of no effect
}

func (o *options) register(f *pflag.FlagSet) {
	f.StringVar(&o.name, "name", "default", "name of this member")
	f.StringVar(&o.dataDir, "data-dir", "", "where the log and the snapshots are (default <name>.etcd)")
	f.StringVar(&o.clientURLs, "listen-client-urls", "http://localhost:2379", "where to listen for clients")
	f.StringVar(&o.peerURLs, "listen-peer-urls", "http://localhost:2380", "where to listen for peers")
	f.StringVar(&o.metricsURLs, "listen-metrics-urls", "", "where else to serve /metrics and the probes")
	f.StringVar(&o.advertiseClient, "advertise-client-urls", "", "where clients reach this member (default: where it listens)")
	f.StringVar(&o.advertisePeer, "initial-advertise-peer-urls", "", "where peers reach this member (default: where it listens)")
	f.StringVar(&o.cluster, "initial-cluster", "", "name=URL of all members, separated by commas (default: this one)")
	f.StringVar(&o.state, "initial-cluster-state", "new", "new, or existing for a member that was added to a cluster")
	f.StringVar(&o.token, "initial-cluster-token", "etcd-cluster", "keeps clusters with the same URLs apart")
	f.UintVar(&o.heartbeat, "heartbeat-interval", 100, "milliseconds between two heartbeats of a leader")
	f.UintVar(&o.election, "election-timeout", 1000, "milliseconds without a leader until an election, at least five heartbeats")
	f.Uint64Var(&o.snapshotCount, "snapshot-count", 0, "entries until a snapshot is made, 0 for no limit: each holds the whole state, so bytes decide")
	f.Uint64Var(&o.catchUp, "snapshot-catchup-entries", 5_000, "entries kept in memory after a snapshot, for slow members, up to 64 MiB")
	f.UintVar(&o.keepSnapshots, "max-snapshots", 2, "snapshots to keep")
	f.Int64Var(&o.quota, "quota-backend-bytes", 2<<30, "bytes the state may take before it is full and an alarm is raised, negative for no limit")
	f.UintVar(&o.maxTxnOps, "max-txn-ops", api.DefaultMaxTxnOps, "operations in a transaction at most")
	f.UintVar(&o.maxRequest, "max-request-bytes", 3<<19, "bytes in a request at most")
	f.DurationVar(&o.corruptCheck, "corrupt-check-time", 10*time.Minute, "how often the leader compares what the members hold, 0 for never")
	f.BoolVar(&o.preVote, "pre-vote", true, "hold an election only after asking whether it can be won")
	f.BoolVar(&o.strict, "strict-reconfig-check", true, "refuse changes of the members that would cost the quorum")
	f.StringVar(&o.compactMode, "auto-compaction-mode", "periodic", "periodic or revision: what --auto-compaction-retention counts")
	f.StringVar(&o.compactRetention, "auto-compaction-retention", "0", "hours, a duration, or revisions that are kept, 0 for all")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn, error, panic or fatal; nothing is logged above error")
	f.StringVar(&o.logFormat, "log-format", "console", "console or json")
	for prefix, t := range map[string]*tlsOptions{"": &o.client, "peer-": &o.peer} {
		t.prefix = prefix
		f.StringVar(&t.cert, prefix+"cert-file", "", "certificate, which is read again for each connection")
		f.StringVar(&t.key, prefix+"key-file", "", "its key")
		f.StringVar(&t.ca, prefix+"trusted-ca-file", "", "certificates of the authorities that sign those of the others")
		f.BoolVar(&t.auth, prefix+"client-cert-auth", false, "refuse connections without a certificate")
	}
	f.StringVar(&o.peer.allowedCN, "peer-cert-allowed-cn", "", "refuse peers with another common name")
	f.Uint64Var(&o.snapshotBytes, "snapshot-bytes", 64<<20, "bytes of entries until a snapshot is made; more, if half the newest is more (not etcd's)")
	f.Int64Var(&o.snapshotRate, "snapshot-send-rate", 0, "bytes a second of a snapshot to a peer, 0 for no limit (not etcd's)")
	f.Int64Var(&o.segmentSize, "wal-segment-bytes", 0, "bytes in a segment of the log, 0 for the default (not etcd's)")
	f.BoolVar(&o.noSync, "unsafe-no-fsync", false, "do not sync: a power cut loses what was acknowledged")
	f.BoolVar(&o.pprof, "enable-pprof", false, "serve profiles at /debug/pprof/ of the client URLs")
	// What etcd has and this program has no use for is accepted, so that a member's command line
	// works as it is.
	f.StringVar(&o.logger, "logger", "zap", "")
	f.StringVar(&o.logOutputs, "log-outputs", "default", "")
	f.StringVar(&o.metrics, "metrics", "basic", "")
	f.Uint("max-wals", 5, "")
	for _, name := range []string{"logger", "log-outputs", "metrics", "max-wals"} {
		_ = f.MarkHidden(name)
	}
}

// nodeConfig returns the part of a node's configuration that the flags say. Its identity, and how
// it reaches its peers, are not in them alone.
func (o *options) nodeConfig(log *slog.Logger, metrics *api.Metrics) node.Config {
	return node.Config{
		Dir:             o.dir(),
		Name:            o.name,
		WAL:             wal.Options{SegmentSize: o.segmentSize, NoSync: o.noSync, Observer: metrics.Log()},
		Logger:          log,
		Observer:        metrics.Node(),
		Tick:            time.Duration(o.heartbeat) * time.Millisecond,
		HeartbeatTicks:  1,
		ElectionTicks:   int(o.election / o.heartbeat),
		NoPreVote:       !o.preVote,
		SnapshotEntries: o.snapshotCount,
		SnapshotBytes:   o.snapshotBytes,
		CatchUpEntries:  o.catchUp,
		KeepSnapshots:   int(o.keepSnapshots),
		MaxRequest:      int(o.maxRequest),
		Quota:           o.quota,
	}
}

// founders returns the peer URLs in --initial-cluster by the names of the members.
func (o *options) founders() (map[string][]string, error) {
	lists := map[string][]string{}
	own := split(or(o.advertisePeer, o.peerURLs))
	for _, part := range split(or(o.cluster, o.name+"="+strings.Join(own, ","+o.name+"="))) {
		name, u, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("--initial-cluster: %q is not name=URL", part)
		}
		lists[name] = append(lists[name], u)
	}
	for name, list := range lists {
		urls, err := member.ParseURLs(list)
		if err != nil {
			return nil, fmt.Errorf("--initial-cluster: %s: %w", name, err)
		}
		lists[name] = urls
	}
	return lists, nil
}

func (o *options) newLogger() *slog.Logger {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "warn": slog.LevelWarn, "error": slog.LevelError, "panic": slog.LevelError + 1, "fatal": slog.LevelError + 1}
	h := &slog.HandlerOptions{Level: levels[o.logLevel]} // info is the zero value
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, h))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, h))
}

func (o *options) dir() string { return filepath.Join(or(o.dataDir, o.name+".etcd"), "member") }

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
