package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stele-wal/stele/fuzz/crash"
	"github.com/stele-wal/stele/fuzz/faults"
)

const repository = "github.com/stele-wal/stele/tools/"

// build builds one of the repository's commands into a directory that remove removes.
func build(ctx context.Context, tool string, flags ...string) (binary string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "proof-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	binary = filepath.Join(dir, tool)
	args := append([]string{"build", "-o", binary}, flags...)
	if out, err := exec.CommandContext(ctx, "go", append(args, repository+tool)...).CombinedOutput(); err != nil {
		remove()
		return "", nil, fmt.Errorf("go build %s, which needs the repository as the working directory: %w: %s", tool, err, bytes.TrimSpace(out))
	}
	return binary, remove, nil
}

// power runs tools/powercut.
func power(ctx context.Context, s *settings, p *progress) []row {
	binary, remove, err := build(ctx, "powercut")
	if err != nil {
		return []row{{stage: "power", broken: err.Error()}}
	}
	defer remove()
	asked := map[string]int{"power": s.of(powerCuts), "fsync": s.of(faultFsyncs), "kill": s.of(kills)}
	cmd := exec.CommandContext(ctx, binary, "-json", "-seed", fmt.Sprint(s.seed), "-cuts", fmt.Sprint(asked["power"]),
		"-fsync", fmt.Sprint(asked["fsync"]), "-kills", fmt.Sprint(asked["kill"]))
	// It has file systems to unmount.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return []row{{stage: "power", broken: err.Error()}}
	}
	var said bytes.Buffer
	cmd.Stderr = io.MultiWriter(&said, progressOf{p})
	if err := cmd.Start(); err != nil {
		return []row{{stage: "power", broken: err.Error()}}
	}
	rows := fewer(powerRows(stdout), asked)
	if err := cmd.Wait(); err != nil {
		last := &rows[len(rows)-1]
		if !slices.ContainsFunc(rows, func(r row) bool { return r.failed() || r.broken != "" }) {
			last.broken = err.Error()
		}
		last.details = append(last.details, said.String())
	}
	return rows
}

// powerRows reads what tools/powercut prints: an object for each stage.
func powerRows(from io.Reader) (rows []row) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		var r struct {
			Stage                 string
			States                int
			Seconds               float64
			Lost, Refused, Silent int
			Note, Skipped, Broken string
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return append(rows, row{stage: "power", broken: fmt.Sprintf("%q: %v", lines.Text(), err)})
		}
		line := row{stage: r.Stage, states: r.States, seconds: r.Seconds, lost: r.Lost, refused: r.Refused, silent: r.Silent,
			skipped: r.Skipped, broken: r.Broken}
		if r.Note != "" {
			line.notes = []string{r.Note}
		}
		rows = append(rows, line)
	}
	if len(rows) == 0 {
		rows = append(rows, row{stage: "power", broken: "it printed nothing"})
	}
	return rows
}

// fewer says of which of its stages tools/powercut did less than it was asked: cuts, failures of a
// sync, kills. The cuts are shared by the file systems, and each of these has all the failures, and
// power cuts after each.
func fewer(rows []row, asked map[string]int) []row {
	for _, kind := range []string{"power", "fsync", "kill"} {
		var last *row
		done, systems, excused := 0, 0, false
		for i := range rows {
			r := &rows[i]
			if !strings.Contains(r.stage, kind) {
				continue
			}
			last = r
			done, systems, excused = done+r.states, systems+1, excused || r.bad() || r.skipped != ""
		}
		want := asked[kind]
		if kind == "fsync" {
			want *= cutsPerFailure * systems
		}
		switch {
		case last == nil && !slices.ContainsFunc(rows, func(r row) bool { return r.bad() }):
			rows = append(rows, row{stage: kind, broken: "it was not run"})
		case last != nil && !excused:
			last.atLeast("states of "+kind, done, want)
		}
	}
	return rows
}

// cutsPerFailure is how many power cuts tools/powercut makes after each failed sync.
const cutsPerFailure = 6

// progressOf shows the last of what another program says of its progress.
type progressOf struct{ p *progress }

func (w progressOf) Write(b []byte) (int, error) {
	fields := strings.FieldsFunc(string(b), func(r rune) bool { return r == '\r' || r == '\n' })
	if n := len(fields); n > 0 {
		w.p.at("%s", strings.TrimPrefix(fields[n-1], "\x1b[K"))
	}
	return len(b), nil
}

// builds are the ways in which package wal can be built wrong, each with the stages that may catch
// it, in order.
var builds = []struct {
	name   string
	stages []string
}{
	{"ack-before-sync", []string{"model"}},
	{"last-sync-only", []string{"model"}},
	{"no-release-sync", []string{"model"}},
	{"no-finish", []string{"model"}},
	{"early-witness", []string{"model"}},
	{"early-mark", []string{"model"}},
	{"no-reserve", []string{"model"}},
	{"spare-idle", []string{"model"}},
	{"refuse-full", []string{"model"}},
	{"drop-unproven", []string{"model"}},
	{"open-anew", []string{"model"}},
	{"go-on", []string{"faults"}},
	{"zero-is-the-end", []string{"rot"}},
	{"no-header-crc", []string{"rot"}},
}

// saboteurs looks whether the stages notice what is wrong.
func saboteurs(ctx context.Context, s *settings, p *progress) []row {
	binary, remove, err := build(ctx, "proof", "-tags", "sabotage")
	if err != nil {
		return []row{{stage: "saboteurs", broken: err.Error()}}
	}
	defer remove()
	began := time.Now() // of the saboteur that is at work
	byStage := map[string]*row{}
	of := func(name string) *row {
		if byStage[name] == nil {
			byStage[name] = &row{stage: "saboteurs of " + name}
		}
		return byStage[name]
	}
	note := func(stage, saboteur string, states int, caught bool) {
		r := of(stage)
		r.states += states
		r.seconds += time.Since(began).Seconds()
		began = time.Now()
		if caught {
			r.caught = append(r.caught, saboteur)
		} else {
			r.missed = append(r.missed, saboteur)
		}
		p.at("%s: %s", stage, saboteur)
	}
	for _, b := range builds {
		for i, name := range b.stages {
			states, caught, err := hunted(ctx, s, binary, b.name, name)
			if err != nil {
				of(name).broken = fmt.Sprintf("%s: %v", b.name, err)
			} else if caught || i == len(b.stages)-1 {
				note(name, b.name, states, caught)
				break
			}
		}
	}
	for _, saboteur := range crash.Saboteurs() {
		r, err := crash.Run(crash.Config{Seed: s.seed, States: huntStates, Saboteur: &saboteur, Workers: s.workers})
		note("model", saboteur.Name, r.States, err != nil && r.Bad() > 0)
	}
	for _, saboteur := range faults.Saboteurs() {
		r, err := faults.Run(faults.Config{Seed: s.seed, Saboteur: &saboteur, Workers: s.workers})
		note("faults", saboteur.Name, r.States, err != nil && len(r.Failures) > 0)
	}
	var rows []row
	for _, name := range []string{"model", "rot", "faults"} {
		rows = append(rows, *of(name))
	}
	return rows
}

// huntStates is after how many states a saboteur has escaped.
const huntStates = 400_000

// hunted runs a stage of a build that is wrong, and reports whether the stage failed as it must.
func hunted(ctx context.Context, s *settings, binary, saboteur, stage string) (states int, caught bool, err error) {
	cmd := exec.CommandContext(ctx, binary, "-hunt", "-stages", stage, "-seed", fmt.Sprint(s.seed), "-workers", fmt.Sprint(s.workers))
	cmd.Env = append(os.Environ(), "STELE_SABOTEUR="+saboteur)
	// So that it says what hangs.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, false, err
	}
	var r hunting
	if jerr := json.Unmarshal(out, &r); jerr != nil {
		// It has broken the campaign itself, by a panic for one. What it wrote says how.
		err = errors.Join(err, jerr)
		if exit != nil {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return 0, false, err
	}
	if r.Broken != "" && !r.Caught {
		return r.States, false, errors.New(r.Broken)
	}
	return r.States, r.Caught, nil
}

// hunting is what a build that is wrong says of itself.
type hunting struct {
	States int
	Caught bool   // it was seen to lose something, refuse it, or show what is wrong
	Broken string // why a stage could not go on
}

// hunt runs the stages of a build that is wrong, and prints whether that was noticed.
func hunt(ctx context.Context, s *settings, stdout io.Writer) int {
	s.scale = 0.05
	if s.only["model"] {
		s.scale = float64(huntStates) / modelStates
	}
	var h hunting
	for _, st := range stages {
		if s.only[st.name] {
			for _, r := range st.run(ctx, s, &progress{w: io.Discard}) {
				h.States += r.states
				h.Caught = h.Caught || r.failed()
				h.Broken = cmp.Or(h.Broken, r.broken)
			}
		}
	}
	if err := json.NewEncoder(stdout).Encode(h); err != nil {
		return exitBroken
	}
	return exitHeld
}
