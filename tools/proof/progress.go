package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress is a line on the terminal that says how far a stage is. To a file, it is a line for each
// stage.
type progress struct {
	w     io.Writer
	mu    sync.Mutex
	stage string
	began time.Time
}

func (p *progress) begin(stage string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage, p.began = stage, time.Now()
	p.show("begins")
	if !p.live() {
		fmt.Fprintln(p.w)
	}
}

// at shows how far the stage is, if the output is a terminal.
func (p *progress) at(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live() {
		p.show(fmt.Sprintf(format, args...))
	}
}

// far shows that done of all are done, and when the rest will be.
func (p *progress) far(done, all int) {
	took := time.Since(p.began)
	if done == 0 || took < time.Second {
		return
	}
	left := time.Duration(float64(took) / float64(done) * float64(max(0, all-done)))
	p.at("%d of %d, %.0f/s, %v left", done, all, float64(done)/took.Seconds(), left.Round(time.Second))
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func (p *progress) show(what string) {
	if p.live() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	fmt.Fprintf(p.w, "%s: %s", p.stage, what)
}

// live reports whether the line can be written over.
func (p *progress) live() bool {
	f, ok := p.w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
