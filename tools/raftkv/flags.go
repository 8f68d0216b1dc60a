package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/stele-wal/stele/tools/raftkv/api"
	"github.com/stele-wal/stele/tools/raftkv/member"
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
	logger, logLevel, logFormat       string
	logOutputs, metrics               string
	client, peer                      tlsOptions
	snapshotBytes                     uint64
	snapshotRate, segmentSize         int64
	noSync, pprof                     bool
	compactMode, compactRetention     string
	corruptCheck                      time.Duration
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
	f.StringVar(&o.token, "initial-cluster-token", "etcd-cluster", "what tells clusters of the same URLs apart")
	f.UintVar(&o.heartbeat, "heartbeat-interval", 100, "milliseconds between two heartbeats of a leader")
	f.UintVar(&o.election, "election-timeout", 1000, "milliseconds without a leader until an election, at least five heartbeats")
	f.Uint64Var(&o.snapshotCount, "snapshot-count", 0, "entries until a snapshot is made, 0 for no limit: each holds the whole state, so bytes decide")
	f.Uint64Var(&o.catchUp, "snapshot-catchup-entries", 5_000, "entries kept in memory behind a snapshot, for slow members, up to 64 MiB")
	f.UintVar(&o.keepSnapshots, "max-snapshots", 2, "snapshots to keep")
	f.Int64Var(&o.quota, "quota-backend-bytes", 2<<30, "how large the state may grow before the alarm; without a limit if negative")
	f.UintVar(&o.maxTxnOps, "max-txn-ops", api.DefaultMaxTxnOps, "operations in a transaction at most")
	f.UintVar(&o.maxRequest, "max-request-bytes", 3<<19, "bytes in a request at most")
	f.DurationVar(&o.corruptCheck, "corrupt-check-time", 10*time.Minute, "how often the leader compares what the members hold, 0 for never")
	f.BoolVar(&o.preVote, "pre-vote", true, "ask before an election whether it could be won")
	f.BoolVar(&o.strict, "strict-reconfig-check", true, "refuse changes of the members that would cost the quorum")
	f.StringVar(&o.compactMode, "auto-compaction-mode", "periodic", "periodic or revision: what --auto-compaction-retention counts")
	f.StringVar(&o.compactRetention, "auto-compaction-retention", "0", "hours, a duration, or revisions that are kept, 0 for all")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn, error, panic or fatal; there is nothing beyond error to log")
	f.StringVar(&o.logFormat, "log-format", "console", "console or json")
	for prefix, t := range map[string]*tlsOptions{"": &o.client, "peer-": &o.peer} {
		t.prefix = prefix
		f.StringVar(&t.cert, prefix+"cert-file", "", "certificate, which is read again for each connection")
		f.StringVar(&t.key, prefix+"key-file", "", "its key")
		f.StringVar(&t.ca, prefix+"trusted-ca-file", "", "who signs the certificates of the others")
		f.BoolVar(&t.auth, prefix+"client-cert-auth", false, "let nobody in without a certificate")
	}
	f.StringVar(&o.peer.allowedCN, "peer-cert-allowed-cn", "", "let only peers with this common name in")
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

// settings are flags that were checked, and what was parsed and read of them: a member can be made
// as they say.
type settings struct {
	listenClients, listenPeers, listenMetrics []string
	clients                                   []string // where clients are told to reach the member
	retention                                 retention
	clientTLS, peerTLS, dialTLS               *tls.Config
}

// Limits of flags.
const (
	maxElection   = 50_000  // milliseconds, as in etcd
	maxMaxRequest = 8 << 20 // bytes: what the log takes in a record, and some room
)

// check returns what the flags say, or why a member cannot be as they say. Nothing is made before.
// What an operator should hear of but can go on with, it logs.
func (o *options) check(log *slog.Logger) (s settings, err error) {
	if err := o.checkValues(); err != nil {
		return s, err
	}
	if s.retention, err = parseRetention(o.compactMode, o.compactRetention); err != nil {
		return s, err
	}
	if s.clientTLS, err = o.client.server(log); err != nil {
		return s, fmt.Errorf("certificates for clients: %w", err)
	}
	if s.peerTLS, err = o.peer.server(log); err != nil {
		return s, fmt.Errorf("certificates for peers: %w", err)
	}
	if s.dialTLS, err = o.peer.client(log); err != nil {
		return s, fmt.Errorf("certificates for peers: %w", err)
	}
	for _, l := range []struct {
		flag, value, advertise, told string
		tls                          *tls.Config
		urls                         *[]string
	}{
		{"listen-client-urls", o.clientURLs, "advertise-client-urls", o.advertiseClient, s.clientTLS, &s.listenClients},
		{"listen-peer-urls", o.peerURLs, "initial-advertise-peer-urls", o.advertisePeer, s.peerTLS, &s.listenPeers},
		{"listen-metrics-urls", o.metricsURLs, "", "", s.clientTLS, &s.listenMetrics},
	} {
		if *l.urls, err = listenURLs(l.value, l.tls, log); err != nil {
			return s, fmt.Errorf("--%s: %w", l.flag, err)
		}
		switch {
		case l.advertise == "":
		case len(*l.urls) == 0:
			return s, fmt.Errorf("--%s: no URLs given", l.flag)
		case l.told == "" && slices.ContainsFunc(*l.urls, everywhere):
			return s, fmt.Errorf("--%s %s: nobody could be told to connect to that: give --%s", l.flag, l.value, l.advertise)
		case l.told != "":
			if _, err := member.ParseURLs(split(l.told)); err != nil {
				return s, fmt.Errorf("--%s: %w", l.advertise, err)
			}
		}
	}
	if s.clients, err = member.ParseURLs(split(or(o.advertiseClient, o.clientURLs))); err != nil {
		return s, err
	}
	if _, err := o.founders(); err != nil {
		return s, err
	}
	return s, nil
}

// checkValues checks what can be said of each flag by itself.
func (o *options) checkValues() error {
	for _, v := range []struct {
		flag               string
		value, least, most uint64
	}{
		{"heartbeat-interval", uint64(o.heartbeat), 1, maxElection / 5},
		{"election-timeout", uint64(o.election), 5 * uint64(min(o.heartbeat, maxElection)), maxElection},
		{"snapshot-bytes", o.snapshotBytes, 1, math.MaxUint64},
		{"snapshot-catchup-entries", o.catchUp, 1, math.MaxUint64},
		{"max-snapshots", uint64(o.keepSnapshots), 1, math.MaxInt32},
		{"max-txn-ops", uint64(o.maxTxnOps), 1, math.MaxInt32},
		{"max-request-bytes", uint64(o.maxRequest), 1, maxMaxRequest},
		{"snapshot-send-rate", uint64(o.snapshotRate), 0, math.MaxInt64},
		{"wal-segment-bytes", uint64(o.segmentSize), 0, math.MaxInt64},
		{"corrupt-check-time", uint64(o.corruptCheck), 0, math.MaxInt64},
	} {
		if v.flag == "election-timeout" && v.value < v.least {
			return fmt.Errorf("--election-timeout %d: with --heartbeat-interval %d it must be five times that at least, %d", o.election, o.heartbeat, v.least)
		}
		if v.value < v.least || v.value > v.most {
			return fmt.Errorf("--%s: it must be %d at least and %d at most", v.flag, v.least, v.most)
		}
	}
	for _, v := range []struct {
		flag, value string
		allowed     []string
	}{
		{"initial-cluster-state", o.state, []string{"new", "existing"}},
		{"log-level", o.logLevel, []string{"debug", "info", "warn", "error", "panic", "fatal"}},
		{"log-format", o.logFormat, []string{"console", "json"}},
		{"logger", o.logger, []string{"zap"}},
		{"log-outputs", o.logOutputs, []string{"default", "stderr"}},
		{"metrics", o.metrics, []string{"basic", "extensive"}},
	} {
		if !slices.Contains(v.allowed, v.value) {
			return fmt.Errorf("--%s: %q is not one of %s", v.flag, v.value, strings.Join(v.allowed, ", "))
		}
	}
	if o.name == "" {
		return errors.New("--name: a member must have one")
	}
	return nil
}

// listenURLs parses where to listen, with config for TLS.
func listenURLs(list string, config *tls.Config, log *slog.Logger) ([]string, error) {
	urls, err := member.ParseListenURLs(split(list))
	for _, u := range urls {
		secure := strings.HasPrefix(u, "https:")
		if secure && config == nil {
			return nil, fmt.Errorf("URL %q: https takes a certificate and its key", u)
		}
		if !secure && config != nil {
			log.Warn("there is a certificate, but this URL is http: clients that connect there do so without TLS, and need no certificate", "url", u)
		}
	}
	return urls, err
}

// everywhere reports whether a URL at which to listen stands for all addresses of the machine.
func everywhere(s string) bool {
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsUnspecified()
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

// perilous are flags of etcd that this program does not have, and that an operator must not believe
// in force when they are not: because the data would be elsewhere, the cluster another, or the door
// open.
var perilous = map[string]string{
	"wal-dir":                      "the log is in the data directory: mount a disk at member/wal in it",
	"config-file":                  "give the flags themselves, or their environment variables",
	"force-new-cluster":            "start a new cluster with raftkv restore, from what etcdctl snapshot save wrote",
	"discovery":                    "name the members in --initial-cluster",
	"discovery-srv":                "name the members in --initial-cluster",
	"discovery-endpoints":          "name the members in --initial-cluster",
	"auto-tls":                     "make a certificate, and give --cert-file and --key-file",
	"peer-auto-tls":                "make a certificate, and give --peer-cert-file and --peer-key-file",
	"client-crl-file":              "no certificate would be refused for being in it",
	"peer-crl-file":                "no certificate would be refused for being in it",
	"client-cert-allowed-hostname": "every certificate of the authority would be let in",
	"peer-cert-allowed-hostname":   "give --peer-cert-allowed-cn",
	"peer-client-cert-file":        "peers are shown --peer-cert-file",
	"peer-client-key-file":         "peers are shown --peer-cert-file",
	"cipher-suites":                "Go's are taken, with TLS 1.2 or later",
	"tls-min-version":              "it is TLS 1.2",
	"tls-max-version":              "it is the newest that Go has",
	"host-whitelist":               "every Host header would be let in",
}

// environment sets the flags that were not given from ETCD_NAME and so on. It returns what to tell
// of other variables of that kind; the error is for those that must not be passed over in silence.
func environment(f *pflag.FlagSet, environ []string) (notices []string, err error) {
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(variable, "=")
		rest, ok := strings.CutPrefix(name, "ETCD_")
		if !ok || value == "" {
			continue // as etcd, which takes an empty one for none
		}
		flag := f.Lookup(strings.ReplaceAll(strings.ToLower(rest), "_", "-"))
		why := perilous[strings.ReplaceAll(strings.ToLower(rest), "_", "-")]
		no, notBool := strconv.ParseBool(value)
		switch {
		case flag != nil && flag.Changed:
			notices = append(notices, name+" is not looked at: the flag was given")
		case flag != nil:
			if err := f.Set(flag.Name, value); err != nil {
				return nil, fmt.Errorf("%s=%s: %w", name, value, err)
			}
		case why != "" && (notBool != nil || no):
			return nil, fmt.Errorf("%s=%s: raftkv has no such thing: %s, and unset the variable", name, value, why)
		case why == "":
			notices = append(notices, name+" is not looked at: raftkv has no such flag")
		}
	}
	return notices, nil
}
