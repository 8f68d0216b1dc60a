package main

import (
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

func TestFlagsThatNoMemberCanDoWithAreRefused(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"", ""},
		{"--max-request-bytes=8388608", ""},
		{"--max-request-bytes=8388609", "--max-request-bytes 8388609"},
	} {
		err := flagged(t, strings.Fields(test.args)...).check()
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.args, err)
		}
	}
}
