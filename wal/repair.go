package wal

import (
	"errors"
	"fmt"
)

// ErrChanged says that a log is no longer as it was when its repair was planned. Nothing was
// written.
var ErrChanged = errors.New("the log has changed since")

// A Plan is what a repair would do to a log: remove the end that a crash left, and with it the
// spares, which hold nothing.
type Plan struct {
	Dir     string
	Verdict Verdict // Clean: there is nothing to do. Otherwise Torn, TornUnproven or Unborn.
	Segment string  // the last one
	Offset  int64   // of the first byte to be zeroed; 0 if the segment is unborn, and goes whole
	Bytes   int64   // how many there are that are worth a copy
	Copy    string  // the file in Dir that will hold these bytes; empty if there are none
	Because string  // why this end is one that a crash leaves

	// What the log holds then: its last entry and its commit.
	LastIndex, Commit uint64

	opts Options
}

// PlanRepair reads a log and says what Apply would do. It takes no lock and writes nothing.
//
// The error is a *CorruptError, the first, if what was durable is damaged: that is not for a repair
// to remove. Otherwise the errors are those of Check.
func PlanRepair(dir string, opts *Options) (*Plan, error) {
	o := opts.withDefaults()
	report, err := Check(dir, &o)
	if err != nil {
		return nil, err
	}
	p := &Plan{Dir: dir, Verdict: Clean, LastIndex: report.LastIndex, Commit: report.State.Commit, opts: o}
	for _, f := range report.Findings {
		switch f.Verdict {
		case Passed:
		case Torn, TornUnproven, Unborn:
			e := judgement{ending: ending{offset: f.Offset}, verdict: f.Verdict, rest: f.Rest}
			p.Verdict, p.Segment, p.Offset, p.Bytes, p.Because = f.Verdict, f.Segment, e.from(), e.rest-e.from(), f.Because
			if p.Bytes > 0 {
				p.Copy = copyName(p.Segment, p.Offset, report.Copies)
			}
		default:
			return nil, &CorruptError{Segment: f.Segment, Offset: f.Offset, Kind: f.Kind, Detail: f.Detail, Because: f.Because, LastIndex: f.LastIndex, Commit: f.Commit}
		}
	}
	return p, nil
}

// Apply does what the Plan says: under the lock it writes the copy and syncs it, zeroes the torn
// tail, or removes the unborn segment, and syncs the log; then it reads the log again. To undo it,
// write the copy back into the segment at Offset, or give it the name of the unborn segment. A
// crash in between leaves the log as it was, or torn, or repaired; Apply a new Plan then. Applying
// a Plan that has nothing to do does nothing.
//
// On a full disk nothing goes without a copy; the error says how much to free. It is ErrLocked if a
// Writer or an etcd has the log open, ErrChanged if the log is not as it was when the Plan was
// made, or what the file system said.
func (p *Plan) Apply() error {
	if p.Verdict == Clean {
		return nil
	}
	o := p.opts.withDefaults() // of a Plan that is not from PlanRepair
	o.SegmentSize = 0          // leave the file as long as it is
	k, err := lockLog(p.Dir, o)
	if err != nil {
		return err
	}
	defer k.locks.close()
	if err := k.syncNames(); err != nil {
		return err
	}
	s := k.scan()
	for _, err := range s.records() {
		if err != nil && !isGap(err) {
			return err
		}
	}
	j := &s.end
	if k.segments[j.segment].name != p.Segment || j.from() != p.Offset || j.verdict != p.Verdict || j.rest-j.from() != p.Bytes {
		return fmt.Errorf("wal: %s: %w: plan the repair again", p.Dir, ErrChanged)
	}
	if _, err := recoverTail(k, j, true); err != nil {
		return err
	}
	report, err := Check(p.Dir, &p.opts)
	if err != nil {
		return err
	}
	if report.Verdict.bad() || report.LastIndex != p.LastIndex {
		return fmt.Errorf("wal: %s: the repair did not give the log that was planned: %v", p.Dir, report.Verdict)
	}
	return nil
}
