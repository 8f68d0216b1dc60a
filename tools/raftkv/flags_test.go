package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// flagged returns the options that a command line gives.
func flagged(t testing.TB, args ...string) *options {
	t.Helper()
	var o options
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	o.register(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &o
}

// told returns a logger, and what it was told.
func told() (*slog.Logger, *bytes.Buffer) {
	b := new(bytes.Buffer)
	return slog.New(slog.NewTextHandler(b, nil)), b
}

func TestFlagsThatNoMemberCanDoWithAreRefusedBeforeAnythingIsMade(t *testing.T) {
	ca, cert, key := certificates(t, t.TempDir(), "ours")
	replace := strings.NewReplacer("{ca}", ca, "{cert}", cert, "{key}", key)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct{ args, says string }{
		{"--max-request-bytes=8388609", "--max-request-bytes"},
		{"--max-request-bytes=0", "--max-request-bytes"},
		{"--max-txn-ops=0", "--max-txn-ops"},
		{"--snapshot-bytes=0", "--snapshot-bytes"},
		{"--snapshot-catchup-entries=0", "--snapshot-catchup-entries"},
		{"--snapshot-send-rate=-1", "--snapshot-send-rate"},
		{"--wal-segment-bytes=-1", "--wal-segment-bytes"},
		{"--corrupt-check-time=-1s", "--corrupt-check-time"},
		{"--max-snapshots=0", "--max-snapshots"},
		{"--name=", "--name"},
		{"--initial-cluster-state=old", `"old"`},
		{"--initial-cluster=default", `"default" is not name=URL`},
		{"--initial-cluster=default=localhost:2380", `"localhost:2380"`},
		{"--initial-cluster=default=http://localhost:2380,other=http://b", `other: URL "http://b"`},
		{"--auto-compaction-mode=never", "--auto-compaction-mode"},
		{"--auto-compaction-retention=never", "--auto-compaction-retention"},
		{"--log-level=loud", `"loud"`},
		{"--log-format=xml", `"xml"`},
		{"--log-outputs=/var/log/etcd", `"/var/log/etcd"`},
		{"--logger=capnslog", `"capnslog"`},
		{"--metrics=all", `"all"`},

		{"--heartbeat-interval=0", "--heartbeat-interval"},
		{"--election-timeout=0", "--election-timeout"},
		{"--election-timeout=50001", "--election-timeout"},
		{"--election-timeout=499", "500"},
		{"--election-timeout=100 --heartbeat-interval=100", "500"},
		{"--election-timeout=50 --heartbeat-interval=100", "500"},
		{"--heartbeat-interval=1000000", "--heartbeat-interval"},
		{"--heartbeat-interval=18446744073709551615", "--heartbeat-interval"},

		{"--listen-client-urls=localhost:2379", "--listen-client-urls: URL"},
		{"--listen-client-urls=unix:///tmp/x.sock", "--listen-client-urls: URL"},
		{"--listen-client-urls=http://", "--listen-client-urls: URL"},
		{"--listen-client-urls=http://example.com:2379", "--listen-client-urls: URL"},
		{"--listen-client-urls=", "--listen-client-urls: no URLs"},
		{"--listen-client-urls=http://0.0.0.0:2379", "give --advertise-client-urls"},
		{"--listen-client-urls=https://localhost:2379", "https takes a certificate"},
		{"--listen-peer-urls=localhost:2380", "--listen-peer-urls: URL"},
		{"--listen-peer-urls=http://[::]:2380", "give --initial-advertise-peer-urls"},
		{"--listen-peer-urls=https://localhost:2380", "https takes a certificate"},
		{"--listen-peer-urls=https://localhost:2380 --cert-file={cert} --key-file={key}", "https takes a certificate"},
		{"--listen-metrics-urls=localhost:2381", "--listen-metrics-urls: URL"},
		{"--listen-metrics-urls=https://localhost:2381", "https takes a certificate"},
		{"--advertise-client-urls=localhost:2379", "--advertise-client-urls: URL"},
		{"--initial-advertise-peer-urls=http://:2380", "--initial-advertise-peer-urls: URL"},

		{"--cert-file={cert}", "--cert-file and --key-file"},
		{"--peer-key-file={key}", "--peer-cert-file and --peer-key-file"},
		{"--client-cert-auth", "give --cert-file"},
		{"--trusted-ca-file={ca}", "give --cert-file"},
		{"--peer-cert-allowed-cn=member", "give --peer-cert-file"},
		{"--client-cert-auth --cert-file={cert} --key-file={key}", "--client-cert-auth takes --trusted-ca-file"},
		{"--peer-cert-allowed-cn=member --peer-cert-file={cert} --peer-key-file={key}", "--peer-cert-allowed-cn takes --peer-trusted-ca-file"},
		{"--cert-file={cert} --key-file={ca}", ca},
		{"--trusted-ca-file={key} --cert-file={cert} --key-file={key}", "no certificate in it"},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		err := serve(done, flagged(t, append(strings.Fields(replace.Replace(test.args)), "--data-dir="+dir)...), nil)
		if err == nil || !strings.Contains(err.Error(), replace.Replace(test.says)) {
			t.Errorf("%s: %v", test.args, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: there is a directory", test.args)
		}
	}
}

func TestFlagsThatAMemberCanDoWithAreTaken(t *testing.T) {
	for _, args := range []string{
		"",
		"--max-request-bytes=8388608",
		"--election-timeout=500 --heartbeat-interval=100",
		"--election-timeout=50000 --heartbeat-interval=10000",
		"--listen-client-urls=http://0.0.0.0:2379 --advertise-client-urls=http://example.com:2379",
		"--listen-client-urls=http://[::1]:2379,http://127.0.0.1:2379",
		"--quota-backend-bytes=-1",
		"--logger=zap --log-outputs=stderr --max-wals=7 --metrics=extensive --log-level=fatal",
	} {
		log, warnings := told()
		if _, err := flagged(t, strings.Fields(args)...).check(log); err != nil || warnings.Len() > 0 {
			t.Errorf("%s: %v, and %s", args, err, warnings)
		}
	}
}

func TestAnHTTPURLBesideACertificateIsWarnedOf(t *testing.T) {
	ca, cert, key := certificates(t, t.TempDir(), "ours")
	for _, prefix := range []string{"", "peer-"} {
		for _, test := range []struct {
			scheme string
			warned bool
		}{{"http", true}, {"https", false}} {
			flag, url := "--listen-client-urls=", test.scheme+"://localhost:2379"
			if prefix != "" {
				flag, url = "--listen-peer-urls=", test.scheme+"://localhost:2380"
			}
			log, warnings := told()
			o := flagged(t, flag+url, "--"+prefix+"cert-file="+cert, "--"+prefix+"key-file="+key, "--"+prefix+"trusted-ca-file="+ca)
			if _, err := o.check(log); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(warnings.String(), url) != test.warned {
				t.Errorf("%s: it says %q", url, warnings)
			}
		}
	}
}

func TestTheEnvironmentSetsFlagsThatWereNotGivenAndNothingInItIsPassedOverInSilence(t *testing.T) {
	for _, test := range []struct{ env, notice, err string }{
		{"ETCD_NAME=n7", "", ""},
		{"ETCD_HEARTBEAT_INTERVAL=", "", ""},
		{"ETCDCTL_API=3", "", ""},
		{"ETCD_ELECTION_TIMEOUT=2000", "ETCD_ELECTION_TIMEOUT", ""}, // the flag was given
		{"ETCD_ELECTION_TIMEOUTS=2000", "ETCD_ELECTION_TIMEOUTS", ""},
		{"ETCD_UNSUPPORTED_ARCH=arm64", "ETCD_UNSUPPORTED_ARCH", ""},
		{"ETCD_HEARTBEAT_INTERVAL=often", "", "ETCD_HEARTBEAT_INTERVAL=often"},
		{"ETCD_WAL_DIR=/wal", "", "ETCD_WAL_DIR=/wal"},
		{"ETCD_CONFIG_FILE=/etc/etcd.yml", "", "ETCD_CONFIG_FILE=/etc/etcd.yml"},
		{"ETCD_FORCE_NEW_CLUSTER=true", "", "ETCD_FORCE_NEW_CLUSTER=true"},
		{"ETCD_FORCE_NEW_CLUSTER=false", "", ""},
		{"ETCD_PEER_AUTO_TLS=1", "", "ETCD_PEER_AUTO_TLS=1"},
		{"ETCD_CLIENT_CRL_FILE=/crl", "", "ETCD_CLIENT_CRL_FILE=/crl"},
		{"ETCD_DISCOVERY_SRV=example.com", "", "ETCD_DISCOVERY_SRV=example.com"},
	} {
		var o options
		f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		o.register(f)
		if err := f.Parse([]string{"--election-timeout=3000"}); err != nil {
			t.Fatal(err)
		}
		notices, err := environment(f, []string{"HOME=/", test.env, "PATH=/"})
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v", test.env, err)
		}
		if (len(notices) == 0) != (test.notice == "") || test.notice != "" && !strings.HasPrefix(notices[0], test.notice+" ") {
			t.Errorf("%s: %q", test.env, notices)
		}
		if o.election != 3000 {
			t.Errorf("%s: the election timeout is %d", test.env, o.election)
		}
		if test.env == "ETCD_NAME=n7" && o.name != "n7" {
			t.Errorf("%s: the name is %q", test.env, o.name)
		}
	}
}

func TestABenchmarkOfNothingIsRefused(t *testing.T) {
	for _, flag := range []string{"--turns=0", "--seconds=0", "--seconds=-1", "--nodes=0", "--nodes=3,-1", "--clients=0"} {
		c := benchCommand()
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetArgs([]string{flag})
		if err := c.Execute(); err == nil || !strings.HasPrefix(flag, strings.SplitN(err.Error(), ":", 2)[0]+"=") {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
