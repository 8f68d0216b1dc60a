package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// perilous are flags of etcd that raftkv lacks, each with what to do instead. An operator must not
// believe them to be in force: the data would be elsewhere, the cluster another, or the port open.
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
	"client-cert-allowed-hostname": "every certificate of the authority would be accepted",
	"peer-cert-allowed-hostname":   "give --peer-cert-allowed-cn",
	"peer-client-cert-file":        "peers are shown --peer-cert-file",
	"peer-client-key-file":         "peers are shown --peer-cert-file",
	"cipher-suites":                "Go's are taken, with TLS 1.2 or later",
	"tls-min-version":              "it is TLS 1.2",
	"tls-max-version":              "it is the newest that Go has",
	"host-whitelist":               "every Host header would be accepted",
}

// environment sets the flags that were not given from ETCD_NAME and so on. It returns notices of
// other variables of that kind; the error is for those that must not be ignored.
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
			notices = append(notices, name+" is ignored: the flag was given")
		case flag != nil:
			if err := f.Set(flag.Name, value); err != nil {
				return nil, fmt.Errorf("%s=%s: %w", name, value, err)
			}
		case why != "" && (notBool != nil || no):
			return nil, fmt.Errorf("%s=%s: raftkv has no such thing: %s, and unset the variable", name, value, why)
		case why == "":
			notices = append(notices, name+" is ignored: raftkv has no such flag")
		}
	}
	return notices, nil
}
