package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/stele-wal/stele/wal"
)

// What to do next, by verdict. The first advice is never to throw a member's data away: it may be
// the only copy.
const (
	adviceCorrupt = "copy the whole directory before anything else (cp -a); then restore this member from " +
		"a snapshot, or from another member if the others are healthy; what can still be read is what " +
		"waldump dump prints"
	adviceMissing = "look for the missing file among backups and in the directories beside this one, and " +
		"put it back; if it is gone, copy the whole directory (cp -a), then restore this member from a " +
		"snapshot, or from another member if the others are healthy"
	adviceLostEnd = "look for newer files of this log in the place that it was copied or restored from; if " +
		"there are none, copy the whole directory (cp -a), then restore this member from a snapshot, or " +
		"from another member if the others are healthy. To go on without the entries that are gone, which " +
		"may break promises that this member made, remove the file synced"
	adviceLocked   = "nothing: a running process has the log open and is in the middle of writing"
	adviceTorn     = "waldump repair %s shows what would be removed; stele's wal.Open does the same"
	adviceUnproven = "waldump repair %s shows what would be removed; nothing can prove that it was not " +
		"durable, so compare with another member first if there is one"
	adviceUnpack = "unpack the archive, and repair the log that it holds: waldump repair"
	advicePassed = "nothing: the log can be read from a later snapshot on"
)

// exitCode is the exit code for the log as a whole.
func exitCode(r *wal.Report) int {
	code := exitClean
	if r.Verdict >= wal.Corrupt {
		code = exitCorrupt // also for findings that the report had no room for
	}
	for i := range r.Findings {
		code = max(code, findingCode(r, &r.Findings[i]))
	}
	return code
}

// findingCode is the exit code for one finding. A batch that a running process has not finished yet
// needs no action.
func findingCode(r *wal.Report, f *wal.Finding) int {
	switch f.Verdict {
	case wal.Clean, wal.Passed:
		return exitClean
	case wal.Torn, wal.TornUnproven, wal.Unborn:
		if r.Locked {
			return exitClean
		}
		return exitTorn
	case wal.Unreadable:
		return exitFailed
	}
	return exitCorrupt
}

// describe says what a finding is and what follows it, in one line.
func describe(f *wal.Finding) string {
	var b strings.Builder
	b.WriteString(f.Verdict.String())
	switch {
	case f.Kind == 0:
	case f.Kind == wal.ZeroLength && f.Detail == "":
		b.WriteString(": zero length, but it is not the end")
	default:
		fmt.Fprintf(&b, ": %v", f.Kind)
	}
	if f.Detail != "" {
		fmt.Fprintf(&b, ": %s", f.Detail)
	}
	switch {
	case f.Because != "":
		fmt.Fprintf(&b, " (%s)", f.Because)
	case f.Kind == wal.Contradiction:
		b.WriteString(" (its checksums match)")
	}
	switch {
	case f.Resumes > 0:
		fmt.Fprintf(&b, "; good records resume at %d", f.Resumes)
	case f.Rest > f.Offset:
		fmt.Fprintf(&b, "; the unfinished batch is the %d bytes up to %d", f.Rest-f.Offset, f.Rest)
	case f.Verdict == wal.Corrupt && f.Kind != wal.DoubleSegment && f.Kind != wal.BadSeed && f.Kind != wal.LostEnd:
		b.WriteString("; no valid record follows in this segment")
	}
	return b.String()
}

// sentence says where a finding is, what it is, and what is known before it.
func sentence(f *wal.Finding) string {
	return fmt.Sprintf("%s: offset %d: %s; %s", f.Segment, f.Offset, describe(f), known(f))
}

// worst returns the first of the worst findings, nil if there is none.
func worst(r *wal.Report) *wal.Finding {
	var w *wal.Finding
	for i := range r.Findings {
		if f := &r.Findings[i]; w == nil || findingCode(r, f) > findingCode(r, w) {
			w = f
		}
	}
	return w
}

// known says what is known of the log before a finding.
func known(f *wal.Finding) string {
	if f.LastIndex == 0 && f.Commit == 0 {
		return "known before it: no entry"
	}
	return fmt.Sprintf("known before it: last index %d, commit %d", f.LastIndex, f.Commit)
}

// advice says what to do about a finding.
func advice(r *wal.Report, f *wal.Finding, t *target) string {
	switch f.Verdict {
	case wal.Torn, wal.Unborn, wal.TornUnproven:
		switch {
		case r.Locked:
			return adviceLocked
		case t.archive:
			return adviceUnpack
		case f.Verdict == wal.TornUnproven:
			return fmt.Sprintf(adviceUnproven, quote(t.given))
		}
		return fmt.Sprintf(adviceTorn, quote(t.given))
	case wal.Passed:
		return advicePassed
	case wal.Missing:
		return adviceMissing
	}
	if f.Kind == wal.DoubleSegment {
		return "one of the two is a copy: compare them, and move the one that does not belong there to another directory"
	}
	if f.Kind == wal.LostEnd {
		return adviceLostEnd
	}
	return adviceCorrupt
}

// inPlace sorts findings by their place; Check has those of gaps at the end.
func inPlace(findings []wal.Finding) []wal.Finding {
	sorted := slices.Clone(findings)
	slices.SortStableFunc(sorted, func(a, b wal.Finding) int {
		return cmp.Or(cmp.Compare(a.Segment, b.Segment), cmp.Compare(a.Offset, b.Offset))
	})
	return sorted
}

// quote quotes a word for a shell, if it needs it.
func quote(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,:=@%+"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
