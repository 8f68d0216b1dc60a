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
	"syscall"
	"time"

	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/tools/powercut/load"
)

// killStage lets a process save and kills it, over and over.
func (a *app) killStage(ctx context.Context, kills int) result {
	s := a.begin("kill")
	return s.endAfter(s.kill(ctx, kills))
}

// round is after how many kills there is a new store.
const round = 8

// kill kills a process on one store over and over; and in each round the first two on a store of
// their own. One kill in four comes early, and does not wait for the store to be open, so that it
// falls into Create or Open.
func (s *stage) kill(ctx context.Context, kills int) (err error) {
	dir, err := os.MkdirTemp("", "powercut-kill-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rng := rand.New(rand.NewPCG(s.app.seed, 0x5163))
	m := &members{stage: s, kills: kills, opening: 15 * time.Millisecond}
	lasting := &killed{dir: filepath.Join(dir, "data"), ledger: load.NewLedger()}
	var young *killed
	for i := 0; i < kills && !s.over(ctx); i++ {
		store, early := lasting, i%round == round/2
		switch i % round {
		case 0:
			young, early = &killed{dir: filepath.Join(dir, fmt.Sprint("young", i)), ledger: load.NewLedger()}, true
			store = young
		case 1:
			store = young
		}
		// The moment is random: it waits for nothing.
		after := time.Duration(rng.Int64N(int64(60 * time.Millisecond)))
		if early {
			after = m.opening/4 + time.Duration(rng.Int64N(int64(m.opening)))
		}
		if goOn, err := m.kill(ctx, store, i, early, after); err != nil || !goOn {
			return err
		}
	}
	s.Note = fmt.Sprintf("%d entries acknowledged, %d kills before the store was open", m.acknowledged, m.unopened)
	return nil
}

// members are the processes that a stage kills.
type members struct {
	*stage
	kills int
	// From the start of the last process that was left to open its store until it had.
	opening      time.Duration
	unopened     int
	acknowledged int
}

// killed is a store, and what was acknowledged of it.
type killed struct {
	dir    string
	opened bool
	ledger *load.Ledger
}

// kill starts and kills a process once, and judges what is left. It returns whether to go on.
func (m *members) kill(ctx context.Context, store *killed, i int, early bool, after time.Duration) (goOn bool, err error) {
	life, err := runMember(ctx, store.dir, early, after)
	if f := new(oracle.Failure); errors.As(err, &f) {
		m.failed(f, fmt.Sprintf("start %d", i+1), m.again(m.kills), nil)
		return false, nil
	} else if err != nil || ctx.Err() != nil {
		return false, err
	}
	if life.opened {
		store.opened = true
		if !early {
			m.opening = life.opening
		}
	} else {
		m.unopened++
	}
	before := store.ledger.Acknowledged()
	err = store.ledger.Read(life.reports)
	m.acknowledged += store.ledger.Acknowledged() - before
	if err == nil && store.opened { // before, nothing is owed but that the next process can open it
		err = store.ledger.Judge(store.dir)
	}
	m.state()
	if f := new(oracle.Failure); errors.As(err, &f) {
		m.failed(f, fmt.Sprintf("kill %d", i+1), m.again(m.kills), nil)
		return true, nil
	}
	return err == nil, err
}

func (s *stage) again(kills int) string {
	return fmt.Sprintf("go run ./tools/powercut -cuts 0 -fsync 0 -seed %d -kills %d", s.app.seed, kills)
}

// memberDir names the directory of the store in the environment of a process that is to be killed.
const memberDir = "POWERCUT_MEMBER"

// A memberLife is what is known of a process that was killed.
type memberLife struct {
	opened  bool          // the store, and it said so
	opening time.Duration // how long that took
	reports io.Reader     // what it reported from then on
}

// runMember runs a process on the store in dir and kills it: some time after it has opened the
// store, or, early, after its start, whether or not it has. A process that ends on its own is a
// *oracle.Failure.
func runMember(ctx context.Context, dir string, early bool, after time.Duration) (memberLife, error) {
	self, err := os.Executable()
	if err != nil {
		return memberLife{}, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), memberDir+"="+dir)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return memberLife{}, err
	}
	if err := cmd.Start(); err != nil {
		return memberLife{}, err
	}
	began := time.Now()
	if early {
		defer time.AfterFunc(after, func() { cmd.Process.Kill() }).Stop()
	}
	r := bufio.NewReader(out)
	first, err := r.ReadString('\n')
	life := memberLife{opened: err == nil && first == load.Opened, opening: time.Since(began)}
	if life.opened && !early {
		defer time.AfterFunc(after, func() { cmd.Process.Kill() }).Stop()
	}
	rest, err := io.ReadAll(r) // to the end of the process
	life.reports = bytes.NewReader(rest)
	wait := cmd.Wait()
	if ctx.Err() != nil {
		return memberLife{}, nil
	}
	var exit *exec.ExitError
	if errors.As(wait, &exit) && (life.opened || early && first == "") {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return life, err
		}
	}
	return memberLife{}, &oracle.Failure{Verdict: oracle.Refused, Detail: strings.TrimSpace(fmt.Sprintf("the process ended on its own, %v: %s", wait, &complaint))}
}

// member is the process that is killed.
func member(dir string, stdout, stderr io.Writer) int {
	if err := load.Member(dir, stdout); err != nil {
		fmt.Fprintln(stderr, err)
	}
	return exitBroken
}
