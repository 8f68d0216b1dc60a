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
	Witnesses   int            `json:"witnesses"`
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
		s.Witnesses += segment.Witnesses
	}
	a.tally(t, &s)
	if asJSON {
		return a.writeJSON(s)
	}
	return a.writeInfo(t, r, &s)
}

// tally counts what only the records show.
func (a *app) tally(t *target, s *summary) {
	var (
		d      decoded
		by     writers
		counts [walpb.TypeSnapshot + 1]int
		over   = a.overwrites(t)
	)
	for r, err := range wal.ScanAll(t.path, a.options()) {
		if err != nil {
			continue // the report has it
		}
		counts[r.Type]++
		d.decode(&r)
		by.see(&d)
		if r.Type != walpb.TypeEntry || d.err != nil {
			continue
		}
		if over.voids(&d) {
			s.Overwritten++
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
	s.WrittenBy = by.String()
}

// writers is what the records show of the programs that wrote them.
type writers struct {
	stele, plain bool // there are records with a witness, and without

	// Of the normal entries without a witness, some carry their type, and some do not.
	typed, untyped bool
}

func (w *writers) see(d *decoded) {
	w.stele, w.plain = w.stele || d.HasHeaderCRC, w.plain || !d.HasHeaderCRC
	if d.Type == walpb.TypeEntry && d.err == nil && !d.HasHeaderCRC && d.entry.Type == walpb.EntryNormal && len(d.Data) > 0 {
		const tagType = 1 << 3 // what an entry with a type begins with
		w.typed, w.untyped = w.typed || d.Data[0] == tagType, w.untyped || d.Data[0] != tagType
	}
}

func (w *writers) String() string {
	var by []string
	switch {
	case w.typed && w.untyped:
		by = append(by, "etcd up to 3.6, and etcd from 3.7 on or stele's plain records")
	case w.typed:
		by = append(by, "etcd up to 3.6")
	case w.untyped:
		by = append(by, "etcd from 3.7 on, or stele's plain records")
	case w.plain:
		by = append(by, "etcd, or stele's plain records")
	}
	if w.stele {
		by = append(by, "stele")
	}
	return strings.Join(by, ", and ")
}

func (a *app) writeInfo(t *target, r *wal.Report, s *summary) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }

	line("log", "%s", s.Path)
	line("written by", "%s", s.WrittenBy)
	line("metadata", "%s", s.metadataText())
	if s.Locked {
		line("locked", "yes: a running process has it open")
	} else {
		line("locked", "no")
	}
	if entries := s.Records[walpb.TypeEntry.String()]; entries == 0 {
		line("entries", "none")
	} else {
		line("entries", "%d, indexes %d..%d, terms %d..%d, overwritten %d",
			entries, s.FirstIndex, s.LastIndex, s.FirstTerm, s.LastTerm, s.Overwritten)
	}
	line("state", "term %d vote %s commit %d", s.State.Term, s.State.Vote, s.State.Commit)
	var counts []string
	total := 0
	for _, name := range typeNames {
		counts = append(counts, fmt.Sprintf("%s %d", name, s.Records[name]))
		total += s.Records[name]
	}
	line("records", "%s", strings.Join(counts, ", "))
	if s.Witnesses == 0 {
		line("witnesses", "none: all records are as etcd writes them")
	} else {
		line("witnesses", "%d of %d records carry a header checksum", s.Witnesses, total)
	}
	if s.Mark != "" {
		line("mark", "%s", s.Mark)
	}
	line("segments", "%d, %d bytes", len(s.Segments), s.Bytes)
	for _, g := range s.Segments {
		line("", "%s  %d bytes, used %d, entries %s", g.Name, g.Size, g.End, indexes(g.FirstIndex, g.LastIndex))
	}
	line("snapshots", "%d records, %d usable", len(s.Snapshots), len(usable(r)))
	for _, snapshot := range s.Snapshots {
		line("", "%s", snapshot.text(t))
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

func (s *summary) metadataText() string {
	switch {
	case s.Member != "":
		return fmt.Sprintf("member %s cluster %s", s.Member, s.Cluster)
	case s.Metadata == nil:
		return "none"
	}
	first := s.Metadata[:min(len(s.Metadata), previewed)]
	return fmt.Sprintf("%s (%d bytes, base64 %s)", appendPreview(nil, s.Metadata), len(s.Metadata), base64.StdEncoding.EncodeToString(first))
}

// text is the line of info about a snapshot record of a log.
func (s *jsonSnapshot) text(t *target) string {
	text := fmt.Sprintf("%d/%d", s.Term, s.Index)
	if !s.Usable {
		text += " not usable: beyond the commit"
	}
	switch {
	case s.File != "":
		text += ", file " + s.File
	case t.snap != "" && s.Index > 0:
		text += ", no file"
	}
	return text
}
