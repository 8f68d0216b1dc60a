package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func (a *app) dumpCommand() *cobra.Command {
	var (
		output string
		f      filter
	)
	cmd := &cobra.Command{
		Use:   "dump PATH",
		Short: "Print every record",
		Long: `Dump prints every record of a log in order, with where it is: the offset of its frame in
the segment, the type, the checksum, term and index, and the size of the frame in bytes. A line that
begins with !! is a finding: a place where the log is not as its writer left it. Dump goes on
behind it, wherever good records begin again.

With -o ndjson, each record is one JSON object on a line of its own, and findings go to standard
error. The fields are
  segment, offset, size, type, crc   of every record; type is crc, metadata, entry, state or snapshot
  term, index, kind, data            of an entry; kind is normal, confchange or confchangev2,
                                     data is base64, and left out if the entry has none
  term, vote, commit                 of a state; vote is hexadecimal, as etcd shows its members
  term, index, conf_state            of a snapshot record; conf_state is raft's, in base64
  data                               of metadata, in base64
  header_crc, synced_to              of records that stele wrote
  error, data                        of a record whose data is not what its type says

Exit codes are those of waldump --help.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "ndjson" {
				return fmt.Errorf("-o %s: there are text and ndjson", output)
			}
			for _, name := range f.types {
				if !slices.Contains(typeNames, name) {
					return fmt.Errorf("--type %s: there are %s", name, strings.Join(typeNames, ", "))
				}
			}
			f.byIndex = cmd.Flags().Changed("from") || cmd.Flags().Changed("to")
			f.byTerm = cmd.Flags().Changed("term")
			return a.dump(args[0], output, &f)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", "text", "text or ndjson")
	flags.Uint64Var(&f.from, "from", 0, "only entries and snapshot records from this index on")
	flags.Uint64Var(&f.to, "to", 1<<64-1, "only entries and snapshot records up to this index")
	flags.Uint64Var(&f.term, "term", 0, "only entries, states and snapshot records of this term")
	flags.StringSliceVar(&f.types, "type", nil, "only records of these types: "+strings.Join(typeNames, ", "))
	flags.StringVar(&f.segment, "segment", "", "only records of the segment whose name begins with this")
	flags.BoolVar(&f.live, "live", false, "leave out entries that a later one overwrote")
	return cmd
}

var typeNames = []string{"crc", "metadata", "entry", "state", "snapshot"}

// filter is which records to print.
type filter struct {
	byIndex, byTerm, live bool
	from, to, term        uint64
	types                 []string
	segment               string
}

func (f *filter) admits(r *decoded) bool {
	if f.segment != "" && !strings.HasPrefix(r.Segment, f.segment) {
		return false
	}
	if len(f.types) > 0 && !slices.Contains(f.types, r.Type.String()) {
		return false
	}
	isEntry, isSnapshot := r.Type == walpb.TypeEntry && r.err == nil, r.Type == walpb.TypeSnapshot && r.err == nil
	if f.byIndex && !(isEntry || isSnapshot) || f.byIndex && (r.index < f.from || r.index > f.to) {
		return false
	}
	if f.byTerm && !(isEntry || isSnapshot || r.Type == walpb.TypeState && r.err == nil) || f.byTerm && r.term != f.term {
		return false
	}
	return !(f.live && r.overwritten)
}

// decoded is a record with what its data means.
type decoded struct {
	wal.Record
	entry walpb.Entry
	state walpb.HardState
	snap  walpb.Snapshot
	err   error // the data is not what the type says

	term, index uint64 // of whatever it is
	overwritten bool   // by a later entry
}

func (d *decoded) decode(r *wal.Record) {
	d.Record, d.err, d.term, d.index, d.overwritten = *r, nil, 0, 0, false
	switch r.Type {
	case walpb.TypeEntry:
		d.err = unmarshal(r, &d.entry)
		d.term, d.index = d.entry.Term, d.entry.Index
	case walpb.TypeState:
		d.err = unmarshal(r, &d.state)
		d.term = d.state.Term
	case walpb.TypeSnapshot:
		d.err = unmarshal(r, &d.snap)
		d.term, d.index = d.snap.Term, d.snap.Index
	}
}

// unmarshal is as strict as the log itself is: see walpb.
func unmarshal(r *wal.Record, m interface {
	Unmarshal([]byte) error
	UnmarshalVouched([]byte) error
}) error {
	if r.Vouched {
		return m.UnmarshalVouched(r.Data)
	}
	return m.Unmarshal(r.Data)
}

// printer prints records and findings in the order of the log.
type printer interface {
	record(b []byte, r *decoded) []byte
	finding(f *wal.Finding) error
}

func (a *app) dump(path, output string, f *filter) error {
	t, err := a.find(path)
	if err != nil {
		return err
	}
	report, failed := wal.Check(t.path, a.options())
	if failed != nil && len(report.Segments) == 0 {
		return unreadable(failed)
	}
	a.code = exitCode(report)

	out := bufio.NewWriterSize(a.stdout, 64<<10)
	var p printer
	if output == "text" {
		_, _, isEtcd := etcdMember(report.Metadata)
		p = &textPrinter{out: out, etcd: isEtcd}
	} else {
		p = &jsonPrinter{app: a}
	}
	var over overwrites
	if output == "text" || f.live {
		over = a.overwrites(t)
	}

	var (
		d        decoded
		line     []byte
		findings = inPlace(report.Findings)
	)
	for r, err := range wal.ScanAll(t.path, a.options()) {
		var corrupt *wal.CorruptError
		switch {
		case err == nil:
			// A finding comes before the record that begins at its place, which for a contradiction
			// is what it is about.
			for len(findings) > 0 && isAt(&findings[0], r.Segment, r.Offset) {
				if finding := &findings[0]; !superseded(report, finding) {
					if err := p.finding(finding); err != nil {
						return a.wrote(0, err)
					}
				}
				findings = findings[1:]
			}
			d.decode(&r)
			d.overwritten = over.voids(&d)
			if !f.admits(&d) {
				continue
			}
			line = p.record(line[:0], &d)
			if _, err := out.Write(line); err != nil {
				return a.wrote(0, err)
			}
		case errors.As(err, &corrupt):
			if !slices.ContainsFunc(report.Findings, func(f wal.Finding) bool { return f.Segment == corrupt.Segment && f.Offset == corrupt.Offset }) {
				// There were too many to be reported, or it came about since.
				a.code = max(a.code, exitCorrupt)
				if err := p.finding(&wal.Finding{Verdict: wal.Corrupt, Segment: corrupt.Segment, Offset: corrupt.Offset, Kind: corrupt.Kind, Detail: corrupt.Detail, Because: corrupt.Because}); err != nil {
					return a.wrote(0, err)
				}
			}
		default:
			failed = err
		}
	}
	for i := range findings {
		if err := p.finding(&findings[i]); err != nil {
			return a.wrote(0, err)
		}
	}
	if err := out.Flush(); err != nil {
		return a.wrote(0, err)
	}
	if failed != nil {
		return unreadable(failed)
	}
	if output == "text" {
		a.sumUp(report, t)
	}
	a.adviseOn(report, t)
	return nil
}

// isAt tells whether a finding is to be shown before the record at a place.
func isAt(f *wal.Finding, segment string, offset int64) bool {
	return f.Segment < segment || f.Segment == segment && f.Offset <= offset
}

// superseded tells whether a finding was an unfinished batch that the running process has finished
// since.
func superseded(r *wal.Report, f *wal.Finding) bool {
	return r.Locked && (f.Verdict == wal.Torn || f.Verdict == wal.TornUnproven || f.Verdict == wal.Unborn)
}

// sumUp says on standard error what the worst finding is.
func (a *app) sumUp(r *wal.Report, t *target) {
	if f := worst(r); f != nil {
		fmt.Fprintf(a.stderr, "waldump: %s\n", sentence(f))
	}
	if n := len(r.Findings) + r.More - 1; n > 0 {
		fmt.Fprintf(a.stderr, "waldump: findings beside this one: %d; waldump verify %s shows them\n", n, quote(t.given))
	}
}

// adviseOn says on standard error what to do about the worst finding.
func (a *app) adviseOn(r *wal.Report, t *target) {
	if f := worst(r); f != nil {
		fmt.Fprintf(a.stderr, "next: %s\n", advice(r, f, t))
	}
}

// overwrites is which entries were overwritten. An entry at an index voids all earlier ones at or
// above it.
type overwrites struct {
	events []overwrite // rising in both fields
	seen   int
}

type overwrite struct {
	number int // of the entry that overwrote others, among all entries
	index  uint64
}

// overwrites reads the log ahead. What it cannot read does not matter: the reader that prints will
// say so.
func (a *app) overwrites(t *target) (o overwrites) {
	var (
		d     decoded
		count int
		last  uint64
	)
	for r, err := range wal.ScanAll(t.path, a.options()) {
		if d.decode(&r); err != nil || r.Type != walpb.TypeEntry || d.err != nil {
			continue
		}
		if count++; d.index <= last {
			// Whatever an earlier event with a higher index voids, this one does as well.
			for len(o.events) > 0 && o.events[len(o.events)-1].index >= d.index {
				o.events = o.events[:len(o.events)-1]
			}
			o.events = append(o.events, overwrite{count, d.index})
		}
		last = d.index
	}
	return o
}

// voids tells whether the next record is an entry that was overwritten. It is to be asked for every
// record.
func (o *overwrites) voids(d *decoded) bool {
	if d.Type != walpb.TypeEntry || d.err != nil {
		return false
	}
	o.seen++
	for len(o.events) > 0 && o.events[0].number <= o.seen {
		o.events = o.events[1:]
	}
	return len(o.events) > 0 && o.events[0].index <= d.index
}

// textPrinter prints lines for people.
type textPrinter struct {
	out     *bufio.Writer
	etcd    bool // the log is an etcd member's
	segment string
}

func (p *textPrinter) head(b []byte, segment string) []byte {
	if segment == p.segment {
		return b
	}
	if p.segment != "" {
		b = append(b, '\n')
	}
	p.segment = segment
	b = append(b, segment...)
	return append(b, "\n    offset  type      crc       term/index      size  content\n"...)
}

func (p *textPrinter) record(b []byte, r *decoded) []byte {
	b = p.head(b, r.Segment)
	b = appendPadded(b, strconv.FormatInt(r.Offset, 10), -10)
	b = appendPadded(append(b, "  "...), r.Type.String(), 8)
	b = appendHex32(append(b, "  "...), r.CRC)
	place := "-"
	if r.err == nil && (r.Type == walpb.TypeEntry || r.Type == walpb.TypeSnapshot) {
		place = strconv.FormatUint(r.term, 10) + "/" + strconv.FormatUint(r.index, 10)
	}
	b = appendPadded(append(b, "  "...), place, 10)
	b = appendPadded(append(b, ' '), strconv.FormatInt(r.Size, 10), -9)
	b = p.content(append(b, "  "...), r)
	if r.Vouched && r.SyncedTo > 0 {
		b = strconv.AppendUint(append(b, "  synced to "...), r.SyncedTo, 10)
	}
	for b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return append(b, '\n')
}

// content says what is in a record.
func (p *textPrinter) content(b []byte, r *decoded) []byte {
	if r.err != nil {
		b = append(append(b, r.err.Error()...), ": "...)
		return appendPreview(b, r.Data)
	}
	switch r.Type {
	case walpb.TypeMetadata:
		if node, cluster, ok := etcdMember(r.Data); ok {
			b = strconv.AppendUint(append(b, "member "...), node, 16)
			return strconv.AppendUint(append(b, " cluster "...), cluster, 16)
		}
		return appendPreview(b, r.Data)
	case walpb.TypeEntry:
		if r.overwritten {
			b = append(b, "[overwritten] "...)
		}
		return p.entry(b, &r.entry)
	case walpb.TypeState:
		b = strconv.AppendUint(append(b, "term "...), r.state.Term, 10)
		b = strconv.AppendUint(append(b, " vote "...), r.state.Vote, 16)
		return strconv.AppendUint(append(b, " commit "...), r.state.Commit, 10)
	case walpb.TypeSnapshot:
		if r.snap.ConfState == nil {
			return b
		}
		if with, ok := appendConfState(b, r.snap.ConfState); ok {
			if len(with) == len(b) {
				return append(b, "no members"...)
			}
			return append(b, with[len(b)+1:]...)
		}
		return appendPreview(append(b, "configuration "...), r.snap.ConfState)
	}
	return b
}

func (p *textPrinter) entry(b []byte, e *walpb.Entry) []byte {
	if e.Type != walpb.EntryNormal {
		b = append(append(b, e.Type.String()...), ' ')
		if with, ok := appendConfChange(b, e); ok {
			return with
		}
		return appendPreview(b, e.Data)
	}
	if len(e.Data) == 0 {
		return append(b, "empty"...)
	}
	if p.etcd {
		if with, ok := appendRequest(b, e.Data); ok {
			return with
		}
	}
	return appendPreview(b, e.Data)
}

func (p *textPrinter) finding(f *wal.Finding) error {
	b := p.head(nil, f.Segment)
	b = appendPadded(append(b, "!! "...), strconv.FormatInt(f.Offset, 10), -7)
	b = append(append(append(b, "  "...), describe(f)...), '\n')
	_, err := p.out.Write(b)
	return err
}

// jsonPrinter prints one object a line. No name or value in it needs to be escaped, but for error.
type jsonPrinter struct{ app *app }

func (p *jsonPrinter) record(b []byte, r *decoded) []byte {
	b = append(append(b, `{"segment":"`...), r.Segment...)
	b = strconv.AppendInt(append(b, `","offset":`...), r.Offset, 10)
	b = strconv.AppendInt(append(b, `,"size":`...), r.Size, 10)
	b = append(append(b, `,"type":"`...), r.Type.String()...)
	b = append(appendHex32(append(b, `","crc":"`...), r.CRC), '"')
	switch {
	case r.err != nil:
		text, _ := json.Marshal(r.err.Error()) // a string always can be
		b = append(append(b, `,"error":`...), text...)
		b = appendBase64(b, "data", r.Data)
	case r.Type == walpb.TypeMetadata:
		b = appendBase64(b, "data", r.Data)
	case r.Type == walpb.TypeEntry:
		b = appendNumber(b, "term", r.entry.Term)
		b = appendNumber(b, "index", r.entry.Index)
		b = append(append(append(b, `,"kind":"`...), r.entry.Type.String()...), '"')
		b = appendBase64(b, "data", r.entry.Data)
	case r.Type == walpb.TypeState:
		b = appendNumber(b, "term", r.state.Term)
		// In hex, and so that programs that take all numbers for floats keep every digit: etcd's
		// use all 64 bits.
		b = strconv.AppendUint(append(b, `,"vote":"`...), r.state.Vote, 16)
		b = append(b, '"')
		b = appendNumber(b, "commit", r.state.Commit)
	case r.Type == walpb.TypeSnapshot:
		b = appendNumber(b, "term", r.snap.Term)
		b = appendNumber(b, "index", r.snap.Index)
		b = appendBase64(b, "conf_state", r.snap.ConfState)
	}
	if r.Vouched {
		b = append(appendHex32(append(b, `,"header_crc":"`...), r.HeaderCRC), '"')
		if r.SyncedTo > 0 {
			b = appendNumber(b, "synced_to", r.SyncedTo)
		}
	}
	return append(b, "}\n"...)
}

func (p *jsonPrinter) finding(f *wal.Finding) error {
	_, err := fmt.Fprintf(p.app.stderr, "waldump: %s\n", sentence(f))
	return err
}

func appendNumber(b []byte, name string, n uint64) []byte {
	b = append(append(append(b, ',', '"'), name...), `":`...)
	return strconv.AppendUint(b, n, 10)
}

// appendBase64 leaves nil out: no data is not the same as empty data.
func appendBase64(b []byte, name string, data []byte) []byte {
	if data == nil {
		return b
	}
	b = append(append(append(b, ',', '"'), name...), `":"`...)
	return append(base64.StdEncoding.AppendEncode(b, data), '"')
}

func appendHex32(b []byte, n uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// appendPadded pads a word to a width with spaces behind it, or, if the width is negative, before
// it.
func appendPadded(b []byte, word string, width int) []byte {
	for n := len(word); n < -width; n++ {
		b = append(b, ' ')
	}
	b = append(b, word...)
	for n := len(word); n < width; n++ {
		b = append(b, ' ')
	}
	return b
}
