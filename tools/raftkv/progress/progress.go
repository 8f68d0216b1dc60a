// Package progress shows how far something is: on a terminal in a line that changes, elsewhere, as
// in a file or the log of a CI, with a line for each stage.
package progress

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// A Progress writes to one place. Its methods may be called concurrently. What cannot be written is
// lost: it is not what the program is for.
type Progress struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex
	shown bool // there is a line that changes
}

// To returns a Progress that writes to out.
func To(out io.Writer) *Progress {
	p := &Progress{out: out}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Say writes a line that stays.
func (p *Progress) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// Show puts text in the place of what was shown before, on a terminal. Elsewhere it does nothing.
func (p *Progress) Show(format string, args ...any) {
	if !p.terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.out, format, args...)
	p.shown = true
}

// Stage says which stage begins: it shows that on a terminal, and writes a line that stays
// elsewhere.
func (p *Progress) Stage(format string, args ...any) {
	if p.terminal {
		p.Show(format, args...)
	} else {
		p.Say(format, args...)
	}
}

// Clear takes away what is shown.
func (p *Progress) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *Progress) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K") // to the beginning of the line, and nothing on it
		p.shown = false
	}
}
