package main

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
)

func TestMistakesOnTheCommandLineAreUsage(t *testing.T) {
	dir := ours(t, nil)
	for _, args := range [][]string{{"dump"}, {"dump", dir, dir}, {"delete", dir}, {"dump", "--nonsense", dir}, {"dump", "-o", "xml", dir},
		{"dump", "--type", "entries", dir}, {"dump", "--from", "-1", dir}, {"verify", "-o", "ndjson", dir}, {"info", "-o", "", dir}, {"version", "x"}} {
		if code, out, errs := call(args...); code != exitUsage || out != "" || !strings.HasPrefix(errs, "waldump: ") {
			t.Errorf("%v: exit %d: %q %q", args, code, out, errs)
		}
	}
	for _, args := range [][]string{{"--help"}, {"dump", "--help"}, {"repair", "--help"}, {"version"}, {}} {
		if code, out, errs := call(args...); code != 0 || out == "" || errs != "" {
			t.Errorf("%v: exit %d: %q %q", args, code, out, errs)
		}
	}
}

// failing is a standard output that goes away.
type failing struct {
	after int
	err   error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestOutputThatGoesAway(t *testing.T) {
	dir := testlogs.Etcd(t, "3.7/small")["3.7/small"]
	for _, args := range [][]string{{"dump", dir}, {"dump", "-o", "ndjson", dir}, {"verify", dir}, {"info", dir}, {"version"}} {
		var errs bytes.Buffer
		if code := run(args, &failing{0, &fs.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}}, &errs); code != exitClean || errs.Len() > 0 {
			t.Errorf("%v: a reader that went away: exit %d: %s", args, code, errs.String())
		}
		if code := run(args, &failing{0, syscall.ENOSPC}, &errs); code != exitFailed || !strings.Contains(errs.String(), "no space") {
			t.Errorf("%v: a full disk: exit %d: %s", args, code, errs.String())
		}
	}
}

// What is done from the command line of a fresh clone, and what only a real process can show.
func TestBinary(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "waldump")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	temp := t.TempDir()
	archive := filepath.Join(repository(t), "testdata", "testlogs", "etcd", "3.4-cut.tar.gz")
	cmd := exec.Command(bin, "dump", "-o", "ndjson", archive)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	out.Close() // as head does; there is more to come than a pipe holds
	err = cmd.Wait()
	if all := lines(t, first); err != nil || errs.Len() > 0 || len(all) != 1 || all[0].Type != "crc" {
		t.Errorf("%v: %s%s", err, first, errs.String())
	}
	if left := list(t, temp); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	err = exec.Command(bin, "verify", filepath.Join(repository(t), "testdata", "testlogs", "defects.tar.gz", "23-payload-bitflip-midlog")).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitCorrupt {
		t.Errorf("verify of a corrupt log: %v", err)
	}
}
