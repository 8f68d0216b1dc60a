package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// settings are what was parsed and read of flags that were checked: a member can be made as they
// say.
type settings struct {
	listenClients, listenPeers, listenMetrics []string // URLs
	clients                                   []string // URLs at which clients reach the member
	retention                                 retention
	clientTLS, peerTLS, dialTLS               *tls.Config // nil without a certificate
}

// Limits of flags.
const (
	maxElection   = 50_000  // milliseconds, as in etcd
	maxMaxRequest = 8 << 20 // bytes: what the log takes in a record, and some room
)

// check returns what the flags say, or why a member cannot be as they say. It makes nothing, and
// logs what an operator should know but can go on with.
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
	if s.listenClients, err = listenURLs("listen-client-urls", o.clientURLs, s.clientTLS, log); err != nil {
		return s, err
	}
	if s.listenPeers, err = listenURLs("listen-peer-urls", o.peerURLs, s.peerTLS, log); err != nil {
		return s, err
	}
	if s.listenMetrics, err = listenURLs("listen-metrics-urls", o.metricsURLs, s.clientTLS, log); err != nil {
		return s, err
	}
	if s.clients, err = advertised("advertise-client-urls", o.advertiseClient, "listen-client-urls", s.listenClients); err != nil {
		return s, err
	}
	if _, err := advertised("initial-advertise-peer-urls", o.advertisePeer, "listen-peer-urls", s.listenPeers); err != nil {
		return s, err
	}
	_, err = o.founders()
	return s, err
}

// checkValues checks each flag on its own.
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

// listenURLs parses the URLs of a flag that says where to listen, with config for TLS.
func listenURLs(flag, list string, config *tls.Config, log *slog.Logger) ([]string, error) {
	urls, err := member.ParseListenURLs(split(list))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	for _, u := range urls {
		secure := strings.HasPrefix(u, "https:")
		if secure && config == nil {
			return nil, fmt.Errorf("--%s: URL %q: https takes a certificate and its key", flag, u)
		}
		if !secure && config != nil {
			log.Warn("there is a certificate, but this URL is http: clients that connect there do so without TLS, and need no certificate", "url", u)
		}
	}
	return urls, nil
}

// advertised parses the URLs of a flag that says where others connect. Without any they are those
// at which the member listens.
func advertised(flag, list, listenFlag string, listen []string) ([]string, error) {
	if len(listen) == 0 {
		return nil, fmt.Errorf("--%s: no URLs given", listenFlag)
	}
	if list == "" {
		if i := slices.IndexFunc(listen, everywhere); i >= 0 {
			return nil, fmt.Errorf("--%s %s: this is every address of the machine, and none to connect to: give --%s", listenFlag, listen[i], flag)
		}
		return listen, nil
	}
	urls, err := member.ParseURLs(split(list))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return urls, nil
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
