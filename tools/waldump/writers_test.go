package main

import (
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
)

func TestVerifySaysThatTheLogsOfEveryWriterAreClean(t *testing.T) {
	for name, dir := range testlogs.Writers(t) {
		if code, out, errs := call("verify", dir); code != exitClean {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errs)
		}
	}
}
