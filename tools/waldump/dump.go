package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/stele-wal/stele/wal"
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
after it, at the next good record.

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

// printer prints records and findings, in the order of the log.
type printer interface {
	record(r *decoded) error
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
	d := dumper{report: report, findings: inPlace(report.Findings), filter: f, printer: a.printer(out, output, report)}
	if output == "text" || f.live {
		d.over = a.overwrites(t)
	}
	if err := d.all(wal.ScanAll(t.path, a.options())); err != nil {
		return a.wrote(0, err)
	}
	if err := out.Flush(); err != nil {
		return a.wrote(0, err)
	}
	if d.unreported {
		a.code = max(a.code, exitCorrupt)
	}
	if failed = cmp.Or(d.failed, failed); failed != nil {
		return unreadable(failed)
	}
	if output == "text" {
		a.sumUp(report, t)
	}
	a.adviseOn(report, t)
	return nil
}

func (a *app) printer(out *bufio.Writer, output string, r *wal.Report) printer {
	if output == "ndjson" {
		return &jsonPrinter{out: out, stderr: a.stderr}
	}
	_, _, isEtcd := etcdMember(r.Metadata)
	return &textPrinter{out: out, etcd: isEtcd}
}

// dumper has the records that the filter admits printed, and each finding where it belongs.
type dumper struct {
	report   *wal.Report
	findings []wal.Finding // of the report, those that are not printed yet, by place
	filter   *filter
	over     overwrites
	printer  printer

	unreported bool  // there was damage that the report does not have
	failed     error // of reading the log
}

// all prints a log. The error is that of the printer.
func (d *dumper) all(records iter.Seq2[wal.Record, error]) error {
	var r decoded
	for record, err := range records {
		var corrupt *wal.CorruptError
		switch {
		case errors.As(err, &corrupt):
			if err := d.corrupt(corrupt); err != nil {
				return err
			}
			continue
		case err != nil:
			d.failed = err
			continue
		}
		if err := d.findingsAt(record.Segment, record.Offset); err != nil {
			return err
		}
		r.decode(&record)
		r.overwritten = d.over.voids(&r)
		if d.filter.admits(&r) {
			if err := d.printer.record(&r); err != nil {
				return err
			}
		}
	}
	for i := range d.findings {
		if err := d.printer.finding(&d.findings[i]); err != nil {
			return err
		}
	}
	return nil
}

// findingsAt prints the findings that come before the record at a place. One that begins at the
// place is among them: a contradiction is about the record itself.
func (d *dumper) findingsAt(segment string, offset int64) error {
	for len(d.findings) > 0 && isAt(&d.findings[0], segment, offset) {
		f := &d.findings[0]
		d.findings = d.findings[1:]
		if superseded(d.report, f) {
			continue
		}
		if err := d.printer.finding(f); err != nil {
			return err
		}
	}
	return nil
}

// corrupt prints damage unless the report has it as a finding: it had too many of them, or the log
// was damaged since.
func (d *dumper) corrupt(c *wal.CorruptError) error {
	if slices.ContainsFunc(d.report.Findings, func(f wal.Finding) bool { return f.Segment == c.Segment && f.Offset == c.Offset }) {
		return nil
	}
	d.unreported = true
	return d.printer.finding(&wal.Finding{
		Verdict: wal.Corrupt, Segment: c.Segment, Offset: c.Offset, Kind: c.Kind, Detail: c.Detail, Because: c.Because,
	})
}

// isAt reports whether a finding is to be shown before the record at a place.
func isAt(f *wal.Finding, segment string, offset int64) bool {
	return f.Segment < segment || f.Segment == segment && f.Offset <= offset
}

// superseded reports whether a finding was an unfinished batch, which the running process has
// finished since.
func superseded(r *wal.Report, f *wal.Finding) bool {
	return r.Locked && (f.Verdict == wal.Torn || f.Verdict == wal.TornUnproven || f.Verdict == wal.Unborn)
}

// sumUp prints the worst finding to standard error.
func (a *app) sumUp(r *wal.Report, t *target) {
	if f := worst(r); f != nil {
		fmt.Fprintf(a.stderr, "waldump: %s\n", sentence(f))
	}
	if n := len(r.Findings) + r.More - 1; n > 0 {
		fmt.Fprintf(a.stderr, "waldump: findings beside this one: %d; waldump verify %s shows them\n", n, quote(t.given))
	}
}

// adviseOn prints to standard error what to do about the worst finding.
func (a *app) adviseOn(r *wal.Report, t *target) {
	if f := worst(r); f != nil {
		fmt.Fprintf(a.stderr, "next: %s\n", advice(r, f, t))
	}
}
