package main

import (
	"fmt"
	"io"
	"strings"
)

// A row is what one stage came to.
type row struct {
	stage   string
	what    string // the states are
	states  int
	seconds float64

	lost, refused, silent int

	etcd    *row     // the same of etcd's log, nil if it was not put to the test
	caught  []string // the saboteurs that this stage caught
	missed  []string // and those that it should have
	weak    []string // why a count of zero means less than it should
	notes   []string // what else is to be known
	skipped string   // why nothing was tested
	broken  string   // why the stage could not go on
	details []string // failures, and how to meet them again
}

// failed reports whether the stage has found something.
func (r *row) failed() bool { return r.lost+r.refused+r.silent > 0 }

func (r *row) bad() bool { return r.failed() || len(r.missed)+len(r.weak) > 0 || r.broken != "" }

// atLeast says that the stage is weak if fewer of something were done than there should be. A stage
// that failed may have ended early.
func (r *row) atLeast(what string, done, asked int) {
	if done < asked && !r.bad() && r.skipped == "" {
		r.weak = append(r.weak, fmt.Sprintf("only %s %s, not %s", grouped(done), what, grouped(asked)))
	}
}

// replay says how to meet a failure again, in its detail.
func (r *row) replay(detail int, format string, args ...any) {
	r.details[detail] += "\n\tagain: " + fmt.Sprintf(format, args...)
}

type table struct{ rows []row }

func (t *table) add(rows ...row) { t.rows = append(t.rows, rows...) }

// code returns the exit code. A stage that was skipped is no failure.
func (t *table) code() int {
	for i := range t.rows {
		if t.rows[i].bad() {
			return exitBroken
		}
	}
	return exitHeld
}

// print prints three tables as Markdown, and after them what did not fit: what was tried on our
// log, the same on etcd's, and which builds that are wrong on purpose were caught.
func (t *table) print(w io.Writer) {
	fmt.Fprintln(w, "| stage | tried | lost | refused | silent | seconds |")
	fmt.Fprintln(w, "| --- | --- | ---: | ---: | ---: | ---: |")
	var (
		sum       row
		etcd      strings.Builder
		saboteurs strings.Builder
	)
	for i := range t.rows {
		r := &t.rows[i]
		if r.skipped != "" {
			continue
		}
		sum.states += r.states
		sum.lost += r.lost
		sum.refused += r.refused
		sum.silent += r.silent
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %.0f |\n", r.stage, strings.TrimSpace(grouped(r.states)+" "+r.what),
			grouped(r.lost), grouped(r.refused), grouped(r.silent), r.seconds)
		if e := r.etcd; e != nil {
			refused := grouped(e.refused)
			if e.refused < 0 {
				refused = "does not apply"
			}
			fmt.Fprintf(&etcd, "| %s | %s | %s | %s | %s |\n", r.stage, grouped(e.states), grouped(e.lost), refused, grouped(e.silent))
		}
		if n := len(r.caught) + len(r.missed); n > 0 {
			fmt.Fprintf(&saboteurs, "| %s | %d of %d |\n", r.stage, len(r.caught), n)
		}
	}
	fmt.Fprintf(w, "| **all** | %s | **%d** | **%d** | **%d** | |\n", grouped(sum.states), sum.lost, sum.refused, sum.silent)
	if etcd.Len() > 0 {
		fmt.Fprintf(w, "\n| etcd 3.7.3 under the same | states | lost | refused | silent |\n| --- | ---: | ---: | ---: | ---: |\n%s", etcd.String())
	}
	if saboteurs.Len() > 0 {
		fmt.Fprintf(w, "\n| builds that are wrong on purpose | caught |\n| --- | ---: |\n%s", saboteurs.String())
	}
	for i := range t.rows {
		r := &t.rows[i]
		if len(r.caught) > 0 {
			fmt.Fprintf(w, "\n%s, caught: %s\n", r.stage, strings.Join(r.caught, "; "))
		}
		if len(r.notes) > 0 {
			fmt.Fprintf(w, "\n%s: %s\n", r.stage, strings.Join(r.notes, "; "))
		}
		for _, d := range r.details {
			fmt.Fprintf(w, "\n%s: %s\n", r.stage, d)
		}
		for _, m := range r.missed {
			fmt.Fprintf(w, "\n%s: NOT CAUGHT: %s\n", r.stage, m)
		}
		for _, why := range r.weak {
			fmt.Fprintf(w, "\n%s: TOO LITTLE: %s\n", r.stage, why)
		}
		if r.broken != "" {
			fmt.Fprintf(w, "\n%s: BROKEN: %s\n", r.stage, r.broken)
		}
	}
	for i := range t.rows {
		if r := &t.rows[i]; r.skipped != "" {
			fmt.Fprintf(w, "\n%s: SKIPPED, nothing was tested: %s\n", r.stage, r.skipped)
		}
	}
}

// grouped returns a number with a comma before every third digit.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
