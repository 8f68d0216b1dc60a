package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func (a *app) infoCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "info PATH",
		Short: "Say what is in a log",
		Long: `Info says what is in a log: whose it is, who wrote it, its segments, entries, terms, hard state and
snapshot records, what lies beside the segments, and whether a running process has it open.

Exit codes are those of waldump --help.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.report(args[0], output, a.info)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// summary is what info -o json prints.
type summary struct {
	Path        string         `json:"path"`
	Exit        int            `json:"exit"`
	WrittenBy   string         `json:"written_by"`
	Locked      bool           `json:"locked"`
	Metadata    []byte         `json:"metadata"`
	Member      string         `json:"member,omitempty"`
	Cluster     string         `json:"cluster,omitempty"`
	Bytes       int64          `json:"bytes"`
	Segments    []jsonSegment  `json:"segments"`
	FirstIndex  uint64         `json:"first_index"`
	LastIndex   uint64         `json:"last_index"`
	FirstTerm   uint64         `json:"first_term"`
	LastTerm    uint64         `json:"last_term"`
	Overwritten int            `json:"overwritten_entries"`
	Records     map[string]int `json:"records"`
	Vouched     int            `json:"vouched_records"`
	State       jsonState      `json:"state"`
	Snapshots   []jsonSnapshot `json:"snapshots"`
	Mark        string         `json:"mark,omitempty"`
	Spares      []string       `json:"spares"`
	Copies      []string       `json:"copies"`
	Findings    int            `json:"findings"`
}

func (a *app) info(t *target, r *wal.Report, asJSON bool) error {
	files, err := a.snapshotFiles(t)
	if err != nil {
		return err
	}
	s := summary{
		Path: t.given, Exit: a.code, Locked: r.Locked, Metadata: r.Metadata, Segments: segments(r), LastIndex: r.LastIndex,
		State: newJSONState(r.State), Snapshots: snapshots(r, files), Spares: append([]string{}, r.Spares...),
		Copies: append([]string{}, r.Copies...), Mark: r.Mark, Findings: len(r.Findings) + r.More,
	}
	if node, cluster, ok := etcdMember(r.Metadata); ok {
		s.Member, s.Cluster = fmt.Sprintf("%x", node), fmt.Sprintf("%x", cluster)
	}
	for _, segment := range r.Segments {
		s.Bytes += segment.Size
		s.Vouched += segment.Vouched
	}
	a.tally(t, &s)
	if asJSON {
		return a.writeJSON(s)
	}
	return a.writeInfo(t, r, &s)
}

// tally counts what only the records tell.
func (a *app) tally(t *target, s *summary) {
	var (
		d                     decoded
		typed, untyped        bool // normal entries that carry their type, and ones that do not
		total                 int
		over                  = a.overwrites(t)
		counts                [walpb.TypeSnapshot + 1]int
		etcdBytes, steleBytes bool
	)
	for r, err := range wal.ScanAll(t.path, a.options()) {
		if err != nil {
			continue // the report has it
		}
		counts[r.Type]++
		total++
		etcdBytes, steleBytes = etcdBytes || !r.Vouched, steleBytes || r.Vouched
		d.decode(&r)
		if r.Type != walpb.TypeEntry || d.err != nil {
			continue
		}
		if over.voids(&d) {
			s.Overwritten++
		}
		if !r.Vouched && d.entry.Type == walpb.EntryNormal && len(r.Data) > 0 {
			const tagType = 1 << 3
			typed, untyped = typed || r.Data[0] == tagType, untyped || r.Data[0] != tagType
		}
		if s.FirstIndex == 0 || d.index < s.FirstIndex {
			s.FirstIndex = d.index
		}
		if s.FirstTerm == 0 || d.term < s.FirstTerm {
			s.FirstTerm = d.term
		}
		s.LastTerm = max(s.LastTerm, d.term)
	}
	s.Records = map[string]int{}
	for kind := walpb.TypeMetadata; kind <= walpb.TypeSnapshot; kind++ {
		s.Records[kind.String()] = counts[kind]
	}
	var by []string
	switch {
	case typed && untyped:
		by = append(by, "etcd up to 3.6, and etcd from 3.7 on or stele's plain records")
	case typed:
		by = append(by, "etcd up to 3.6")
	case untyped:
		by = append(by, "etcd from 3.7 on, or stele's plain records")
	case etcdBytes:
		by = append(by, "etcd, or stele's plain records")
	}
	if steleBytes {
		by = append(by, "stele")
	}
	s.WrittenBy = strings.Join(by, ", and ")
}

func (a *app) writeInfo(t *target, r *wal.Report, s *summary) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }

	line("log", "%s", s.Path)
	line("written by", "%s", s.WrittenBy)
	switch {
	case s.Member != "":
		line("metadata", "member %s cluster %s", s.Member, s.Cluster)
	case r.Metadata == nil:
		line("metadata", "none")
	default:
		line("metadata", "%s (%d bytes, base64 %s)", appendPreview(nil, r.Metadata), len(r.Metadata), base64.StdEncoding.EncodeToString(r.Metadata[:min(len(r.Metadata), previewed)]))
	}
	if s.Locked {
		line("locked", "yes: a running process has it open")
	} else {
		line("locked", "no")
	}
	if s.Records[walpb.TypeEntry.String()] == 0 {
		line("entries", "none")
	} else {
		line("entries", "%d, indexes %d..%d, terms %d..%d, overwritten %d", s.Records[walpb.TypeEntry.String()], s.FirstIndex, s.LastIndex, s.FirstTerm, s.LastTerm, s.Overwritten)
	}
	line("state", "term %d vote %s commit %d", s.State.Term, s.State.Vote, s.State.Commit)
	var counts []string
	total := 0
	for _, name := range typeNames {
		counts = append(counts, fmt.Sprintf("%s %d", name, s.Records[name]))
		total += s.Records[name]
	}
	line("records", "%s", strings.Join(counts, ", "))
	switch s.Vouched {
	case 0:
		line("witnesses", "none: all records are as etcd writes them")
	default:
		line("witnesses", "%d of %d records carry a header checksum", s.Vouched, total)
	}
	if s.Mark != "" {
		line("mark", "%s", s.Mark)
	}
	line("segments", "%d, %d bytes", len(s.Segments), s.Bytes)
	for _, segment := range s.Segments {
		line("", "%s  %d bytes, used %d, entries %s", segment.Name, segment.Size, segment.End, indexes(segment.FirstIndex, segment.LastIndex))
	}
	line("snapshots", "%d records, %d usable", len(s.Snapshots), len(usable(r)))
	for _, snapshot := range s.Snapshots {
		text := fmt.Sprintf("%d/%d", snapshot.Term, snapshot.Index)
		if !snapshot.Usable {
			text += " not usable: beyond the commit"
		}
		switch {
		case snapshot.File != "":
			text += ", file " + snapshot.File
		case t.snap != "" && snapshot.Index > 0:
			text += ", no file"
		}
		line("", "%s", text)
	}
	if len(s.Spares) > 0 {
		line("spares", "%s", strings.Join(s.Spares, ", "))
	}
	if len(s.Copies) > 0 {
		line("copies", "%s", strings.Join(s.Copies, ", "))
	}
	if s.Findings > 0 {
		line("findings", "%d: waldump verify %s shows them", s.Findings, quote(t.given))
	} else {
		line("findings", "none")
	}
	return w.Flush()
}
