package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/stele-wal/stele/wal"
)

func (a *app) verifyCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "verify PATH",
		Short: "Say whether a log is whole, and if not, where and what to do",
		Long: `Verify reads a log once, strictly, every segment and every record, and goes on after damage. It
prints a line for each segment, and for each finding where it is, what it is, why it is that and not something
more harmless, what follows it, what is known of the log before it, and what to do next.

An unfinished batch at the end of a log that a running process has open is no finding to act on: the exit code
is then 0. Exit codes are those of waldump --help.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.report(args[0], output, a.verify)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// verified is what verify -o json prints.
type verified struct {
	Path     string         `json:"path"`
	Exit     int            `json:"exit"`
	Locked   bool           `json:"locked"`
	Segments []jsonSegment  `json:"segments"`
	Findings []jsonFinding  `json:"findings"`
	More     int            `json:"more_findings,omitempty"`
	Last     uint64         `json:"last_index"`
	LastTerm uint64         `json:"last_term"`
	State    jsonState      `json:"state"`
	Snaps    []jsonSnapshot `json:"snapshots"`
}

type jsonFinding struct {
	Segment   string `json:"segment"`
	Offset    int64  `json:"offset"`
	Verdict   string `json:"verdict"`
	Kind      string `json:"kind"`
	Detail    string `json:"detail,omitempty"`
	Because   string `json:"because,omitempty"`
	Rest      int64  `json:"rest,omitempty"`
	Resumes   int64  `json:"resumes,omitempty"`
	LastIndex uint64 `json:"last_index"`
	Commit    uint64 `json:"commit"`
	Next      string `json:"next"`
}

func (a *app) verify(t *target, r *wal.Report, asJSON bool) error {
	files, err := a.snapshotFiles(t)
	if err != nil {
		return err
	}
	findings := inPlace(r.Findings)
	v := verified{
		Path: t.given, Exit: a.code, Locked: r.Locked, More: r.More, Last: r.LastIndex, LastTerm: r.LastTerm,
		State: newJSONState(r.State), Segments: segments(r), Findings: []jsonFinding{}, Snaps: snapshots(r, files),
	}
	for i := range findings {
		f := &findings[i]
		v.Findings = append(v.Findings, jsonFinding{
			Segment: f.Segment, Offset: f.Offset, Verdict: f.Verdict.String(), Kind: f.Kind.String(),
			Detail: f.Detail, Because: f.Because, Rest: f.Rest, Resumes: f.Resumes,
			LastIndex: f.LastIndex, Commit: f.Commit, Next: advice(r, f, t),
		})
	}
	if asJSON {
		return a.writeJSON(v)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "segment\tsize\tend\trecords\tentries\tindexes\tverdict\n")
	for _, s := range v.Segments {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", s.Name, s.Size, s.End, s.Records, s.Entries, indexes(s.FirstIndex, s.LastIndex), s.Verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	for i := range findings {
		f := &findings[i]
		fmt.Fprintf(&b, "\n%s: offset %d: %s\n  %s\n  next: %s\n", f.Segment, f.Offset, describe(f), known(f), advice(r, f, t))
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "\nand %d more findings\n", r.More)
	}
	fmt.Fprintf(&b, "\n%s: %s", t.given, conclusion(a.code, r))
	if t.snap != "" {
		fmt.Fprintf(&b, "; %s", snapshotSummary(v.Snaps, files))
	}
	b.WriteByte('\n')
	_, err = fmt.Fprint(a.stdout, b.String())
	return err
}

// conclusion is the last line of verify, without the path.
func conclusion(code int, r *wal.Report) string {
	var s string
	switch code {
	case exitClean:
		s = "clean"
	case exitTorn:
		s = "torn: a crash left an unfinished batch at the end"
	case exitCorrupt:
		s = "corrupt: what was durable is damaged or gone"
	default:
		s = "unreadable"
	}
	if r.Locked {
		s += ", open in a running process"
	}
	if f := worst(r); code == exitCorrupt && f != nil {
		// What was read after damage says nothing about the log as a whole.
		return s + "; " + known(f)
	}
	return fmt.Sprintf("%s; last entry %d/%d, commit %d", s, r.LastTerm, r.LastIndex, r.State.Commit)
}
