package rot

import (
	"bytes"
	"fmt"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/wal"
)

// A judge says what comes of damage to one log.
type judge struct {
	log     *Log
	recover Recover     // if not nil, it is judged in the place of package wal
	disk    *crashfs.FS // the log as it was
}

// A finding is what came of a fault.
type finding struct {
	outcome Outcome
	excuse  Excuse   // why an outcome is Excused
	broken  []string // the promises that were not kept
}

// try does a fault, and finds out what comes of it.
func (j *judge) try(f *fault) (got finding) {
	defer func() {
		if p := recover(); p != nil {
			got = finding{outcome: Panicked, broken: []string{fmt.Sprintf("panic: %v\n%s", p, bytes.TrimSpace(debug.Stack()))}}
		}
	}()
	disk := j.disk.Clone()
	if err := f.apply(disk, dir); err != nil {
		return finding{broken: []string{fmt.Sprintf("the fault could not be done: %v", err)}}
	}
	if j.recover != nil {
		return j.another(disk)
	}
	return observe(j.log, f, disk).judge()
}

// Evidence is what package wal makes of a damaged log.
type evidence struct {
	log    *Log
	fault  *fault
	tree   map[string][]byte // the files before Open; nil if they are not looked at
	before reading           // what Records gives before Open
	check  *wal.Report
	names  error  // of Check, which then says nothing but that the names are wrong
	wrong  string // what Replay gives that was never saved
	told   error  // what Replay, or Snapshots, says instead
	open   opening
}

// opening is what Open does.
type opening struct {
	err     error
	changed bool // it changed a file or a name
	trimmed bool
	segment string // where it trimmed
	offset  int64
	kept    bool // what it trimmed is in a copy
	after   reading
	closed  error
}

func observe(l *Log, f *fault, disk *crashfs.FS) *evidence {
	e := &evidence{log: l, fault: f, before: l.read(disk)}
	e.check, e.names = wal.Check(dir, &wal.Options{FS: disk})
	whole := e.before.whole(l) && e.before.err == nil && e.verdict() == wal.Clean
	if e.before.err == nil && (!whole || f.kind == File) {
		e.wrong, e.told = l.mean(disk, e.before.from, e.before.to)
	}
	if !whole && e.verdict() < wal.Corrupt {
		e.tree = disk.Tree()
	}
	e.open.do(l, disk, e.tree)
	return e
}

// do opens the log, whose files are tree, and reads it again.
func (o *opening) do(l *Log, disk *crashfs.FS, tree map[string][]byte) {
	var background harness.Queue
	disk.SetHook(func(op crashfs.Op) {
		o.changed = o.changed || op.Kind != crashfs.OpSyncData && op.Kind != crashfs.OpSyncDir
	}, nil)
	w, err := wal.Open(dir, &wal.Options{FS: disk, SegmentSize: max(l.size, 4096), Background: background.Add, Observer: wal.Observer{
		Trimmed: func(segment string, offset, n int64, _ string) {
			o.trimmed, o.segment, o.offset = true, segment, offset
		},
	}})
	if o.err = err; err == nil {
		background.Run()
	}
	disk.SetHook(nil, nil)
	if err != nil {
		return
	}
	o.after = l.read(disk)
	o.kept = !o.trimmed || keeps(tree, disk.Tree())
	o.closed = w.Close()
}

func (e *evidence) verdict() wal.Verdict {
	if e.names != nil {
		return wal.Corrupt
	}
	return e.check.Verdict
}

func (e *evidence) isOpen() bool { return e.open.err == nil }

func (e *evidence) isWrong() bool { return e.before.wrong != "" || e.wrong != "" }

func (e *evidence) isSaid() bool {
	return e.verdict() != wal.Clean || e.told != nil || e.before.gap != nil
}

func (e *evidence) isAll() bool { return e.before.to == len(e.log.said) }

// is is what a row of a table says of a part of the evidence.
type is uint8

const (
	either is = iota
	no
	yes
)

func (i is) matches(b bool) bool { return i == either || (i == yes) == b }

// outcomes are those of all evidence. Exactly one row matches.
var outcomes = []struct {
	// Open succeeds; other content is there; something is said; nothing is missing.
	open, wrong, said, all is
	outcome                Outcome
}{
	// open wrong said all
	{no, either, either, either, Refused},
	{yes, yes, either, either, Silent},
	{yes, no, yes, yes, Reported},
	{yes, no, yes, no, Lost},
	{yes, no, no, yes, Same}, // perhaps without what a Release could have removed
	{yes, no, no, no, Silent},
}

func (e *evidence) outcome() Outcome {
	for _, row := range outcomes {
		if row.open.matches(e.isOpen()) && row.wrong.matches(e.isWrong()) && row.said.matches(e.isSaid()) && row.all.matches(e.isAll()) {
			return row.outcome
		}
	}
	panic("rot: no row of outcomes matches")
}

// promises are what must hold of all evidence, each unless it is broken.
var promises = []struct {
	promise string
	broken  func(e *evidence) bool
}{
	{"Check and Open agree", func(e *evidence) bool { return e.isOpen() != (e.verdict() < wal.Corrupt) }},
	{"what Records refuses is not opened", func(e *evidence) bool { return e.isOpen() && e.before.err != nil }},
	// Replay wraps this error; as it is, it stands for an empty list of snapshots.
	{"what is opened can be replayed from some snapshot record", func(e *evidence) bool { return e.isOpen() && e.told == wal.ErrSnapshotNotFound }},
	{"Open changes nothing of a log that it refuses", func(e *evidence) bool { return !e.isOpen() && e.open.changed }},
	{"Open trims what Check calls torn, and nothing else", func(e *evidence) bool { return e.isOpen() && e.open.trimmed != e.isTorn() }},
	{"Open changes nothing of what Records gives", func(e *evidence) bool { return e.isOpen() && !e.before.same(&e.open.after) }},
	{"Records takes what Open has opened", func(e *evidence) bool { return e.isOpen() && e.open.after.err != nil }},
	{"Open keeps a copy of what it trims", func(e *evidence) bool { return e.isOpen() && !e.open.kept }},
	{"what was opened can be closed", func(e *evidence) bool { return e.isOpen() && e.open.closed != nil }},
	{"Records gives no other content before it refuses a log with witnesses", func(e *evidence) bool {
		return !e.isOpen() && e.before.wrong != "" && !e.fault.foreign && e.log.witnessed()
	}},
	{"what the mark says was durable is not called torn", func(e *evidence) bool {
		return e.outcome() == Lost && e.before.gap == nil && e.log.marked(e.tree)
	}},
}

// judge says what the evidence comes to.
func (e *evidence) judge() finding {
	got := finding{outcome: e.outcome()}
	for _, p := range promises {
		if p.broken(e) {
			got.broken = append(got.broken, fmt.Sprintf("not so: %s: %v", p.promise, e))
		}
	}
	switch got.outcome {
	case Reported, Lost:
		if proof := e.log.proof(e.tree, e.open); proof != "" {
			got.broken = append(got.broken, fmt.Sprintf("%v at %s %d, but %s", e.verdict(), e.open.segment, e.open.offset, proof))
		}
	case Silent:
		if got.excuse = e.excuse(); got.excuse != "" {
			got.outcome = Excused
		} else {
			got.broken = append(got.broken, fmt.Sprintf("nothing is said: %v", e))
		}
	}
	return got
}

func (e *evidence) excuse() Excuse {
	if e.isWrong() {
		return e.log.excuseWrong(e.fault)
	}
	return e.log.excuse(e.tree, &e.before)
}

// isTorn reports whether Check has found what Open trims.
func (e *evidence) isTorn() bool {
	return slices.ContainsFunc(e.check.Findings, func(f wal.Finding) bool {
		return f.Verdict == wal.Torn || f.Verdict == wal.TornUnproven || f.Verdict == wal.Unborn
	})
}

func (e *evidence) String() string {
	s := fmt.Sprintf("Check says %v", e.verdict())
	for _, part := range []struct {
		what string
		is   any
		ok   bool
	}{
		{"Records says", e.before.err, e.before.err != nil},
		{"Records gives", e.before.wrong, e.before.wrong != ""},
		{"Replay says", e.told, e.told != nil},
		{"Replay gives", e.wrong, e.wrong != ""},
		{"Open says", e.open.err, !e.isOpen()},
		{"Open has trimmed", e.open.segment, e.open.trimmed},
		{"after Open, Records says", e.open.after.err, e.open.after.err != nil},
		{"after Open, Records gives", e.open.after.wrong, e.open.after.wrong != ""},
		{"Close says", e.open.closed, e.open.closed != nil},
	} {
		if part.ok {
			s += fmt.Sprintf("; %s %v", part.what, part.is)
		}
	}
	return s + fmt.Sprintf("; records %d to %d of %d, and after Open %d to %d",
		e.before.from, e.before.to, len(e.log.said), e.open.after.from, e.open.after.to)
}

// keeps reports whether every byte of the segments before is in its place after, or in a copy that
// says its place.
func keeps(before, after map[string][]byte) bool {
	for name, b := range before {
		if path.Ext(name) != ".wal" {
			continue
		}
		kept := make([]byte, len(b))
		copy(kept, after[name])
		for copied, c := range after {
			at, ok := strings.CutPrefix(copied, name+".")
			at, torn := strings.CutSuffix(at, ".torn")
			at, _, _ = strings.Cut(at, ".") // the number of a second copy
			if offset, err := strconv.Atoi(at); ok && torn && err == nil && offset <= len(kept) && before[copied] == nil {
				copy(kept[offset:], c)
			}
		}
		if !bytes.Equal(kept, b) {
			return false
		}
	}
	return true
}
