//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/tools/powercut/disk"
	"github.com/stele-wal/stele/tools/powercut/rig"
)

// A result is what a stage came to, as -json prints it.
type result struct {
	Stage    string  `json:"stage"`
	States   int     `json:"states"`
	Seconds  float64 `json:"seconds"`
	Lost     int     `json:"lost"`
	Refused  int     `json:"refused"`
	Silent   int     `json:"silent"` // what was invented: wrong, and no reader said so
	Note     string  `json:"note,omitempty"`
	Skipped  string  `json:"skipped,omitempty"`
	Broken   string  `json:"broken,omitempty"`   // the rig failed, not the store
	Saboteur string  `json:"saboteur,omitempty"` // who was at work
	Caught   string  `json:"caught,omitempty"`   // the first failure that it caused
}

func (r *result) bad() int { return r.Lost + r.Refused + r.Silent }

// String returns the result as a line.
func (r *result) String() string {
	switch {
	case r.Skipped != "":
		return fmt.Sprintf("%-12s SKIPPED, nothing was tested: %s", r.Stage, r.Skipped)
	case r.Broken != "":
		return fmt.Sprintf("%-12s BROKEN after %d states: %s", r.Stage, r.States, r.Broken)
	}
	if r.Saboteur != "" {
		return r.sabotaged()
	}
	line := fmt.Sprintf("%-12s %5d states, %6.1f s, %5.1f ms each: %d lost, %d refused, %d invented",
		r.Stage, r.States, r.Seconds, 1000*r.Seconds/float64(max(r.States, 1)), r.Lost, r.Refused, r.Silent)
	if r.Note != "" {
		line += " (" + r.Note + ")"
	}
	return line
}

// sabotaged returns the line of a stage that was meant to fail.
func (r *result) sabotaged() string {
	line := fmt.Sprintf("%-12s %5d states, %6.1f s, with %s: ", r.Stage, r.States, r.Seconds, r.Saboteur)
	if r.Caught == "" {
		line += "nothing was noticed"
	} else {
		line += "caught: " + r.Caught
	}
	if r.Note != "" {
		line += " (" + r.Note + ")"
	}
	return line
}

// mostFailures is after how many failures a stage gives up. One is enough of a saboteur.
const mostFailures = 5

// stage counts what happens in one.
type stage struct {
	result
	app   *app
	most  int // the failure that ends it
	began time.Time
	first string // failure
}

func (a *app) begin(name string) *stage {
	s := &stage{result: result{Stage: name}, app: a, most: mostFailures, began: time.Now()}
	if a.saboteur != nil {
		s.Saboteur, s.most = a.saboteur.Name, 1
	}
	return s
}

func (s *stage) skip(why string) result {
	s.Skipped = why
	return s.result
}

// endAfter returns the result. An error is one of the rig, and broke the stage, unless nothing was
// tested because the rig could not even be set up here.
func (s *stage) endAfter(err error) result {
	if errors.Is(err, rig.ErrNotPermitted) && s.States == 0 {
		return s.skip(err.Error())
	} else if err != nil {
		s.Broken = err.Error()
	}
	s.Seconds = time.Since(s.began).Seconds()
	if s.Saboteur != "" {
		s.Caught = s.first
	}
	return s.result
}

// state counts a state and shows progress.
func (s *stage) state() {
	s.States++
	s.app.progress.add()
}

// over reports whether to stop.
func (s *stage) over(ctx context.Context) bool { return ctx.Err() != nil || s.bad() >= s.most }

// failed counts a failure and says how to meet it again. image, if not nil, is what it happened on.
func (s *stage) failed(f *oracle.Failure, where, replay string, image *disk.Image) {
	switch f.Verdict {
	case oracle.Lost:
		s.Lost++
	case oracle.Refused:
		s.Refused++
	default:
		s.Silent++
	}
	if s.first == "" {
		s.first = fmt.Sprintf("%v, at %s", f, where)
	}
	if s.Saboteur != "" {
		return // it is meant to fail
	}
	text := fmt.Sprintf("%s: %v\n\tat %s\n\tagain, if the file system does the same again: %s\n", s.Stage, f, where, replay)
	if image != nil && s.bad() == 1 {
		if name, err := keep(image, strings.Fields(s.Stage)[1]); err != nil {
			text += fmt.Sprintf("\tthe image could not be kept: %v\n", err)
		} else {
			text += fmt.Sprintf("\tthe disk is kept in %s\n", name)
		}
	}
	s.app.progress.above(func() { fmt.Fprint(s.app.stderr, text) })
}

// progress is a line that says how far some stages are together. On a terminal it is overwritten;
// elsewhere it comes every ten seconds.
type progress struct {
	out      io.Writer
	terminal bool

	mu          sync.Mutex
	what        string
	done, total int
	began, last time.Time
	open        bool // a line that is to be overwritten is there
}

func newProgress(out *os.File) *progress {
	info, err := out.Stat()
	return &progress{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// begin begins to count anew.
func (p *progress) begin(what string, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.done, p.total, p.began, p.last = what, 0, total, time.Now(), time.Now()
}

// add counts a state.
func (p *progress) add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	every := 10 * time.Second
	if p.terminal {
		every = 200 * time.Millisecond
	}
	if time.Since(p.last) < every {
		return
	}
	p.last = time.Now()
	rate := float64(p.done) / time.Since(p.began).Seconds()
	left := time.Duration(float64(max(p.total-p.done, 0)) / rate * float64(time.Second)).Round(time.Second)
	line := fmt.Sprintf("%s: %d of %d, %.1f a second, %v left", p.what, p.done, p.total, rate, left)
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
		p.open = true
		return
	}
	fmt.Fprintln(p.out, line)
}

// above writes something above the line.
func (p *progress) above(write func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.open = false
	}
	write()
}

// print writes a result where the reader wants it.
func (a *app) print(r result) {
	line := r.String()
	if a.json {
		b, err := json.Marshal(r)
		if err != nil {
			panic(err) // a struct of numbers and strings
		}
		line = string(b)
	}
	a.progress.above(func() { fmt.Fprintln(a.stdout, line) })
}
