package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A Table is the figures of both Systems, turn by turn.
type Table struct {
	systems [2]System
	lines   []*line
}

type line struct {
	at      cell
	figures [][2]Figure // of each turn
}

func (t *Table) add(at cell, f [2]Figure) {
	i := slices.IndexFunc(t.lines, func(l *line) bool { return l.at == at })
	if i < 0 {
		i = len(t.lines)
		t.lines = append(t.lines, &line{at: at})
	}
	t.lines[i].figures = append(t.lines[i].figures, f)
}

// measures are what is compared, and how it is shown.
var measures = []struct {
	name string
	of   func(Figure) float64
	show func(float64) string
}{
	{"ops/s", func(f Figure) float64 { return f.Rate }, func(v float64) string { return fmt.Sprintf("%.0f", v) }},
	{"p99", func(f Figure) float64 { return float64(f.P99) }, func(v float64) string { return fmt.Sprintf("%.2f ms", v/float64(time.Millisecond)) }},
	{"CPU", func(f Figure) float64 { return float64(f.CPU) }, func(v float64) string { return fmt.Sprintf("%.0f µs", v/float64(time.Microsecond)) }},
}

// WriteTo writes the table as Markdown: of each measure the median of both, and the median of the
// ratios of the turns.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	b.WriteString("| workload | nodes | clients |")
	for _, m := range measures {
		fmt.Fprintf(&b, " %s %s | %s | ratio |", m.name, t.systems[0].Name, t.systems[1].Name)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", 2+3*len(measures)) + "\n")
	for _, l := range t.lines {
		fmt.Fprintf(&b, "| %s | %d | %d |", l.at.workload, l.at.nodes, l.at.clients)
		for _, m := range measures {
			first, second, ratio := l.medians(m.of)
			fmt.Fprintf(&b, " %s | %s | %.2f |", m.show(first), m.show(second), ratio)
		}
		b.WriteString("\n")
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// medians returns the medians of a measure of both Systems, and that of the second's multiple of
// the first's in each turn.
func (l *line) medians(of func(Figure) float64) (first, second, ratio float64) {
	var a, b, r []float64
	for _, f := range l.figures {
		x, y := of(f[0]), of(f[1])
		a, b, r = append(a, x), append(b, y), append(r, y/x)
	}
	return median(a), median(b), median(r)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
