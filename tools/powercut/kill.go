//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stele-wal/stele/tools/powercut/load"
)

// killStage lets a process save and kills it, over and over, on one store.
func (a *app) killStage(ctx context.Context, kills int) result {
	s := a.begin("kill")
	return s.endAfter(s.kill(ctx, kills))
}

func (s *stage) kill(ctx context.Context, kills int) (err error) {
	dir, err := os.MkdirTemp("", "powercut-kill-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rng := rand.New(rand.NewPCG(s.app.seed, 0x5163))
	ledger := load.NewLedger()
	for i := range kills {
		if s.over(ctx) {
			break
		}
		// The moment is random: it waits for nothing.
		reports, err := runMember(ctx, dir, time.Duration(rng.Int64N(int64(60*time.Millisecond))))
		if f := new(load.Failure); errors.As(err, &f) {
			s.failed(f, fmt.Sprintf("start %d", i+1), s.again(kills), nil)
			return nil
		} else if err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		err = ledger.Read(reports)
		if err == nil {
			err = ledger.Judge(filepath.Join(dir, "data"))
		}
		s.state()
		if f := new(load.Failure); errors.As(err, &f) {
			s.failed(f, fmt.Sprintf("kill %d", i+1), s.again(kills), nil)
		} else if err != nil {
			return err
		}
	}
	s.Note = fmt.Sprintf("%d entries acknowledged", ledger.Acknowledged())
	return nil
}

func (s *stage) again(kills int) string {
	return fmt.Sprintf("go run ./tools/powercut -cuts 0 -fsync 0 -seed %d -kills %d", s.app.seed, kills)
}

// memberDir names the directory of the store in the environment of a process that is to be killed.
const memberDir = "POWERCUT_MEMBER"

// runMember runs a process on the store in dir, kills it some time after it has opened the store, and returns what it had reported. A process that
// ends by itself is a *load.Failure.
func runMember(ctx context.Context, dir string, after time.Duration) (*bytes.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), memberDir+"="+filepath.Join(dir, "data"))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	opened, err := r.ReadString('\n')
	if err == nil && opened == load.Opened {
		timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
		defer timer.Stop()
	}
	rest, err2 := io.ReadAll(r) // to the end of the process
	wait := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(wait, &exit) && exit.ExitCode() == -1 && opened == load.Opened { // of a signal
		return bytes.NewReader(rest), err2
	}
	if ctx.Err() != nil {
		return nil, nil
	}
	return nil, &load.Failure{Verdict: load.Refused, Detail: strings.TrimSpace(fmt.Sprintf("the process ended by itself, %v: %s", wait, &complaint))}
}

// member is the process that is killed.
func member(dir string, stdout, stderr io.Writer) int {
	if err := load.Member(dir, stdout); err != nil {
		fmt.Fprintln(stderr, err)
	}
	return exitBroken
}
