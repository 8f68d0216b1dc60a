package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func (a *app) verifyCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "verify PATH",
		Short: "Say whether a log is whole, and if not, where and what to do",
		Long: `Verify reads a log once, strictly, every segment and every record, and goes on behind damage. It
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

// report checks a log, and has the outcome shown.
func (a *app) report(path, output string, show func(t *target, r *wal.Report, asJSON bool) error) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("-o %s: there are text and json", output)
	}
	t, err := a.find(path)
	if err != nil {
		return err
	}
	r, failed := wal.Check(t.path, a.options())
	if failed != nil && len(r.Segments) == 0 {
		return unreadable(failed)
	}
	a.code = exitCode(r)
	if err := show(t, r, output == "json"); err != nil {
		return a.wrote(0, err)
	}
	if failed != nil {
		return unreadable(failed)
	}
	return nil
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

type jsonSegment struct {
	Name       string `json:"name"`
	Size       int64  `json:"size"`
	End        int64  `json:"end"`
	Records    int    `json:"records"`
	Entries    int    `json:"entries"`
	FirstIndex uint64 `json:"first_index"`
	LastIndex  uint64 `json:"last_index"`
	Vouched    int    `json:"vouched"`
	Verdict    string `json:"verdict"`
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

type jsonState struct {
	Term   uint64 `json:"term"`
	Vote   string `json:"vote"` // in hex, as etcd shows its members
	Commit uint64 `json:"commit"`
}

type jsonSnapshot struct {
	Term   uint64 `json:"term"`
	Index  uint64 `json:"index"`
	Usable bool   `json:"usable"`
	File   string `json:"file,omitempty"`
}

func (a *app) verify(t *target, r *wal.Report, asJSON bool) error {
	files, err := a.snapshotFiles(t)
	if err != nil {
		return err
	}
	v := verified{
		Path: t.given, Exit: a.code, Locked: r.Locked, More: r.More, Last: r.LastIndex, LastTerm: r.LastTerm,
		State: jsonState{r.State.Term, fmt.Sprintf("%x", r.State.Vote), r.State.Commit}, Segments: segments(r), Findings: []jsonFinding{}, Snaps: snapshots(r, files),
	}
	for _, f := range inPlace(r.Findings) {
		v.Findings = append(v.Findings, jsonFinding{f.Segment, f.Offset, f.Verdict.String(), f.Kind.String(), f.Detail, f.Because, f.Rest, f.Resumes, f.LastIndex, f.Commit, advice(r, &f, t)})
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
	for _, f := range inPlace(r.Findings) {
		fmt.Fprintf(&b, "\n%s: offset %d: %s\n  %s\n  next: %s\n", f.Segment, f.Offset, describe(&f), known(&f), advice(r, &f, t))
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

// conclusion is the last line of verify, but for the path.
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
		// What was read behind damage says nothing about the log as a whole.
		return s + "; " + known(f)
	}
	return fmt.Sprintf("%s; last entry %d/%d, commit %d", s, r.LastTerm, r.LastIndex, r.State.Commit)
}

// segments says of each segment how it ends: the worst of what was found in it.
func segments(r *wal.Report) []jsonSegment {
	list := []jsonSegment{}
	for _, s := range r.Segments {
		verdict := wal.Clean
		for i := range r.Findings {
			if f := &r.Findings[i]; f.Segment == s.Name && f.Kind != wal.MissingSegment {
				verdict = max(verdict, f.Verdict)
			}
		}
		list = append(list, jsonSegment{s.Name, s.Size, s.End, s.Records, s.Entries, s.First, s.Last, s.Vouched, verdict.String()})
	}
	return list
}

func indexes(first, last uint64) string {
	if last == 0 {
		return "-"
	}
	return fmt.Sprintf("%d..%d", first, last)
}

// snapshots pairs the snapshot records with the snapshot files.
func snapshots(r *wal.Report, files map[snapshotID]string) []jsonSnapshot {
	list := []jsonSnapshot{}
	for _, s := range r.Snapshots {
		list = append(list, jsonSnapshot{s.Term, s.Index, s.Index <= r.State.Commit, files[snapshotID{s.Term, s.Index}]})
	}
	return list
}

// snapshotSummary counts. A record without a file is no damage: old files are removed, and etcd
// from 3.8 on writes none.
func snapshotSummary(snaps []jsonSnapshot, files map[snapshotID]string) string {
	records, without := 0, len(files)
	newest := ""
	for _, s := range snaps {
		if s.Index == 0 {
			continue
		}
		records++
		if s.File != "" {
			without--
		}
		if s.Usable && s.File != "" {
			newest = s.File
		}
	}
	text := fmt.Sprintf("snapshot records %d, files %d", records, len(files))
	if without > 0 {
		text += fmt.Sprintf(" (%d of them without a record in this log)", without)
	}
	if newest != "" {
		text += ", newest usable " + newest
	}
	return text
}

// snapshotID is what names a snapshot.
type snapshotID struct{ term, index uint64 }

// snapshotFiles lists a member's snapshot files by what their names say. Their content is not
// looked at.
func (a *app) snapshotFiles(t *target) (map[snapshotID]string, error) {
	files := map[snapshotID]string{}
	if t.snap == "" {
		return files, nil
	}
	list, err := snap.ReadOnly(t.snap, &snap.Options{FS: a.fs}).List()
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return nil, unreadable(err)
	}
	for _, f := range list.Snapshots {
		files[snapshotID{f.Term, f.Index}] = f.Name()
	}
	return files, nil
}

func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// usable returns the snapshot records that a log can be replayed from.
func usable(r *wal.Report) []walpb.Snapshot {
	return slices.DeleteFunc(slices.Clone(r.Snapshots), func(s walpb.Snapshot) bool { return s.Index > r.State.Commit })
}
