package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/stele-wal/stele/wal"
)

func (a *app) repairCommand() *cobra.Command {
	var apply bool
	cmd := &cobra.Command{
		Use:   "repair PATH",
		Short: "Say what a repair would remove; with --apply, do it",
		Long: `Repair removes what a crash left half done at the end of a log: its torn tail, or a segment that
was not yet born. Without --apply it writes nothing, and prints what would be kept and what would go.

With --apply it takes the log's lock, writes a copy of the bytes that go into a file beside the segment, whose name
ends in .torn, syncs it, and only then zeroes them; and it prints how to undo that. It stops if a process has the
log open.

It refuses damage to what was durable, with exit code 2: to remove that would be to lose acknowledged data
silently. Exit codes are those of waldump --help; after a repair that was done, 0.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.repair(args[0], apply)
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "do it")
	return cmd
}

func (a *app) repair(path string, apply bool) error {
	t, report, err := a.toRepair(path, apply)
	if err != nil {
		return err
	}
	a.code = exitCode(report)
	if a.code == exitCorrupt {
		return a.refuse(report, t)
	}
	plan, err := wal.PlanRepair(t.path, a.options())
	if err != nil {
		return unreadable(err)
	}
	if plan.Verdict == wal.Clean {
		return a.wrote(fmt.Fprintf(a.stdout, "clean: nothing to repair; last index %d, commit %d\n", plan.LastIndex, plan.Commit))
	}
	if err := a.wrote(fmt.Fprint(a.stdout, planText(plan, report.Spares, t))); err != nil {
		return err
	}
	switch {
	case report.Locked && apply:
		return &failure{
			code: exitFailed,
			err:  fmt.Errorf("%s: %w: nothing was changed", t.path, wal.ErrLocked),
			next: "stop the process that has the log open, then look again: what it was writing may be whole by then",
		}
	case report.Locked:
		return a.wrote(fmt.Fprint(a.stdout,
			"\na running process has the log open: this is a batch that it has not finished, and nothing to repair\n"))
	case t.archive:
		return a.wrote(fmt.Fprintf(a.stdout, "\nnothing was written; next: %s\n", adviceUnpack))
	case !apply:
		return a.wrote(fmt.Fprintf(a.stdout, "\nnothing was written; to do this: waldump repair --apply %s\n", quote(t.given)))
	}
	return a.apply(plan, t)
}

// toRepair finds and checks the log that a PATH names: the directory, as one segment is not enough.
func (a *app) toRepair(path string, apply bool) (*target, *wal.Report, error) {
	t, err := a.find(path)
	if err != nil {
		return nil, nil, err
	}
	if t.archive && apply {
		return nil, nil, fmt.Errorf("repair --apply %s: an archive is not repaired: unpack it, and repair what it holds", path)
	}
	if info, err := a.fs.Stat(t.path); err != nil {
		return nil, nil, unreadable(err)
	} else if !info.IsDir() {
		return nil, nil, fmt.Errorf("repair %s: give the directory of the log: what one segment's end means depends on the others", path)
	}
	report, err := wal.Check(t.path, a.options())
	if err != nil {
		return nil, nil, unreadable(err)
	}
	return t, report, nil
}

// apply does the repair.
func (a *app) apply(plan *wal.Plan, t *target) error {
	if err := plan.Apply(); err != nil {
		f := unreadable(err)
		switch {
		case errors.Is(err, wal.ErrLocked):
			f.next = "stop the process that has the log open; nothing was changed"
		case errors.Is(err, wal.ErrChanged):
			f.next = "look again: waldump verify " + quote(t.given) + "; nothing was changed"
		case errors.Is(err, os.ErrPermission):
		default:
			f.next = "find out why the disk could not be written, then repeat: waldump repair " + quote(t.given)
		}
		return f
	}
	a.code = exitClean
	return a.wrote(fmt.Fprintf(a.stdout, "\ndone: the log is clean; last index %d, commit %d\n%s", plan.LastIndex, plan.Commit, undo(plan)))
}

// refuse says why a corrupt log is not repaired.
func (a *app) refuse(r *wal.Report, t *target) error {
	f := worst(r)
	if f == nil {
		return &failure{code: exitCorrupt, err: errors.New("corrupt"), next: adviceCorrupt}
	}
	return &failure{
		code: exitCorrupt,
		err:  fmt.Errorf("refused: %s: to cut the log there would lose what was acknowledged; nothing was changed", sentence(f)),
		next: advice(r, f, t),
	}
}

// planText is the plan as the operator reads it.
func planText(p *wal.Plan, spares []string, t *target) string {
	var b strings.Builder
	dir := p.Dir
	if t.archive {
		dir = t.given // and not the temporary directory
	}
	fmt.Fprintf(&b, "log      %s\n", dir)
	fmt.Fprintf(&b, "found    %s: offset %d: %v: %s\n", p.Segment, p.Offset, p.Verdict, p.Because)
	fmt.Fprintf(&b, "keep     all before it: entries up to %d, commit %d\n", p.LastIndex, p.Commit)
	if p.Verdict == wal.Unborn {
		fmt.Fprintf(&b, "remove   the segment %s\n", p.Segment)
	} else {
		fmt.Fprintf(&b, "drop     %d bytes, %d to %d, which become zeros\n", p.Bytes, p.Offset, p.Offset+p.Bytes)
	}
	if p.Copy != "" {
		fmt.Fprintf(&b, "copy     all bytes that go, into %s, before anything is removed\n", filepath.Join(dir, p.Copy))
	}
	if len(spares) > 0 {
		fmt.Fprintf(&b, "remove   the spares %s, which hold nothing that the log needs\n", strings.Join(spares, ", "))
	}
	if p.Verdict == wal.TornUnproven {
		b.WriteString("note     etcd leaves no proof of what was durable: that these bytes were not acknowledged is likely, not certain\n")
	}
	return b.String()
}

// undo says how to restore the bytes.
func undo(p *wal.Plan) string {
	if p.Copy == "" {
		return ""
	}
	from, to := quote(filepath.Join(p.Dir, p.Copy)), quote(filepath.Join(p.Dir, p.Segment))
	return fmt.Sprintf("to undo: dd if=%s of=%s bs=1 seek=%d conv=notrunc\n", from, to, p.Offset)
}
