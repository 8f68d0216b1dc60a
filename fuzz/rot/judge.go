package rot

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// ErrPanicked is in the error of a RotRecover whose program panicked.
var ErrPanicked = errors.New("it panicked")

// A judge says what comes of damage to one log.
type judge struct {
	log      *Log
	recover  Recover
	disk     *crashfs.FS // the log as it was
	counts   Counts
	failures []Failure
}

func newJudge(l *Log, recover Recover) *judge {
	return &judge{log: l, recover: recover, disk: l.disk()}
}

// opening is what Open did.
type opening struct {
	err     error
	trimmed bool
	segment string // where it trimmed
	offset  int64
	changed bool // it changed a file or a name
	after   reading
}

// judge counts what package wal makes of a damaged log.
func (j *judge) judge(f *fault, disk *crashfs.FS, fail func(string, ...any)) {
	l := j.log
	before := l.read(disk)
	report, err := wal.Check(dir, &wal.Options{FS: disk})
	verdict := report.Verdict
	if err != nil { // of the names
		verdict = wal.Corrupt
	}
	whole := before.whole(l) && before.err == nil && verdict == wal.Clean
	var said error
	var wrong string
	if before.err == nil && (!whole || f.kind == File) {
		wrong, said = l.mean(disk, before.from, before.to)
	}
	var tree map[string][]byte
	if !whole && verdict < wal.Corrupt {
		tree = disk.Tree()
	}
	o := j.open(disk, tree, fail)

	tornAs := slices.ContainsFunc(report.Findings, func(f wal.Finding) bool {
		return f.Verdict == wal.Torn || f.Verdict == wal.TornUnproven || f.Verdict == wal.Unborn
	})
	switch {
	case (o.err != nil) != (verdict >= wal.Corrupt):
		fail("Check says %v, Open %v", verdict, o.err)
	case before.err != nil && o.err == nil:
		fail("Records says %v, and Open opens it", before.err)
	case o.err == nil && said == wal.ErrSnapshotNotFound: // not of Replay, which wraps it, but of Snapshots that are none
		fail("Open opens it, and there is no snapshot record to replay it from")
	case o.err != nil && o.changed:
		fail("Open changed a log that it refuses: %v", o.err)
	case o.err == nil && o.trimmed != tornAs:
		fail("Check says %v, and Open trimmed: %v", verdict, o.trimmed)
	case o.err == nil && (o.after.from != before.from || o.after.to != before.to || o.after.wrong != before.wrong):
		fail("before Open there were records %d to %d, %s, and then %d to %d, %s", before.from, before.to, before.wrong, o.after.from, o.after.to, o.after.wrong)
	}
	switch {
	case o.err != nil:
		j.counts.Refused++
		if before.wrong != "" && !f.foreign && l.witnessed() {
			fail("before it is refused: %s", before.wrong)
		}
	case before.wrong != "" || wrong != "":
		if e := l.excuseWrong(f); e != "" {
			j.excuse(e)
			return
		}
		j.counts.Silent++
		fail("other content: %s", before.wrong+wrong)
	case verdict != wal.Clean || said != nil || before.gap != nil:
		j.counts.Reported++
		if before.to < len(l.said) {
			j.counts.Lost++
			if l.marked(tree) && before.gap == nil {
				fail("%v, %d of %d records are there, and the mark says that there were more", verdict, before.to, len(l.said))
			}
		}
		if proof := l.proof(tree, o); proof != "" {
			fail("%v at %s %d, but %s", verdict, o.segment, o.offset, proof)
		}
	case before.to == len(l.said):
		j.counts.Same++ // without what a Release could have removed, perhaps
	default:
		if e := l.excuse(tree, &before); e != "" {
			j.excuse(e)
			return
		}
		j.counts.Silent++
		fail("%d of %d records are there, and nothing is said", before.to, len(l.said))
	}
}

func (j *judge) excuse(e Excuse) {
	if j.counts.Excused == nil {
		j.counts.Excused = map[Excuse]int{}
	}
	j.counts.Excused[e]++
}

// open opens the log, which holds tree, and reads it again.
func (j *judge) open(disk *crashfs.FS, tree map[string][]byte, fail func(string, ...any)) (o opening) {
	var background harness.Queue
	disk.SetHook(func(op crashfs.Op) {
		o.changed = o.changed || op.Kind != crashfs.OpSyncData && op.Kind != crashfs.OpSyncDir
	}, nil)
	w, err := wal.Open(dir, &wal.Options{FS: disk, SegmentSize: max(j.log.size, 4096), Observer: wal.Observer{
		Trimmed: func(segment string, offset, n int64, _ string) {
			o.trimmed, o.segment, o.offset = true, segment, offset
		},
	}, Background: background.Add})
	if err == nil {
		background.Run()
	}
	disk.SetHook(nil, nil)
	if o.err = err; err != nil {
		return o
	}
	o.after = j.log.read(disk)
	if o.after.err != nil {
		fail("after Open: %v", o.after.err)
	}
	if o.trimmed && !keeps(tree, disk.Tree()) {
		fail("Open trimmed %s at %d, and bytes are gone", o.segment, o.offset)
	}
	if err := w.Close(); err != nil {
		fail("close: %v", err)
	}
	return o
}

// another counts what another program makes of a damaged log.
func (j *judge) another(disk *crashfs.FS, fail func(string, ...any)) {
	damaged := disk.Clone()
	log, reported, err := j.recover(disk, dir)
	c := &j.counts
	switch {
	case errors.Is(err, ErrPanicked):
		c.Panicked++
		fail("%v", err)
	case err != nil:
		c.Refused++
	case j.log.means(log, oracle.Fold(j.log.records)) && !reported:
		c.Same++
	case j.log.means(log, oracle.Fold(j.log.records)):
		c.Reported++
	case reported && j.log.once(log):
		c.Reported++
		c.Lost++
	default:
		// What nobody can see is no fault of the program.
		if r := j.log.read(damaged); r.wrong == "" && r.err == nil && r.gap == nil && r.to < len(j.log.said) && !reported {
			if e := j.log.excuse(damaged.Tree(), &r); e != "" {
				j.excuse(e)
				return
			}
		}
		c.Silent++
		fail("%s behind %d/%d and %+v, and nothing is said", oracle.Indexes(log.Entries), log.Snapshot.Index, log.Snapshot.Term, log.State)
	}
}

// goodFor returns an error unless another program reads the log as it should while it is good.
func (l *Log) goodFor(r Recover) error {
	log, reported, err := r(l.disk(), dir)
	if err == nil && (reported || !l.means(log, oracle.Fold(l.records))) {
		err = errors.New("it is not what was saved")
	}
	if err != nil {
		return fmt.Errorf("fuzz: the log %s, before it is damaged, by the program to be judged: %w", l.Name, err)
	}
	return nil
}

// once tells whether a log is what the records came to at some time.
func (l *Log) once(log *wal.Log) bool {
	for n := len(l.records); n >= 0; n-- {
		if l.means(log, oracle.Fold(l.records[:n])) {
			return true
		}
	}
	return false
}

// witnessed tells whether all records of the log carry a header_crc.
func (l *Log) witnessed() bool {
	for i := range l.frames {
		if !l.frames[i].Vouched {
			return false
		}
	}
	return true
}

// keeps tells whether every byte of the segments before is in its place after, or in a copy that
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

// marked tells whether the log in tree has the mark that it had.
func (l *Log) marked(tree map[string][]byte) bool {
	good, ok := l.files[mark]
	return ok && bytes.Equal(good, tree[path.Join(dir, mark)])
}

// A Excuse is why damage cannot be detected; see wal/FORMAT.md, chapter 11.
type Excuse string

// What cannot be detected.
const (
	// Without the mark: the end of a log that was not closed. All that was lost is of the last
	// batch, and behind it are zeros.
	LastBatch Excuse = "the last batch is gone, with nothing behind it"
	// Without the mark: the last segment ends earlier, with a frame, and behind it are zeros, or
	// nothing. What was lost may be of several batches.
	EndGone Excuse = "the end of the last segment is gone, from the end of a frame on"
	// Without the mark: the last segments are lost, and their names.
	SegmentsGone Excuse = "the last segment is gone, name and all"
	// In a log without witnesses, a hard state has become an entry: its three numbers are those of
	// one, and in a few places, as before a snapshot record, one more entry contradicts nothing.
	StateAsEntry Excuse = "without a witness: a hard state passes for an entry"
	// In a log without witnesses, a segment has another number than its own, and no segment stands
	// before it that would have to have the one before. If others are missing in between that is
	// reported, but not that this is an old one.
	OtherNumber Excuse = "without a witness: a segment under another number than its own"
)

// excuse returns why it cannot be detected that a log ends where a reading ended; empty if there is
// no reason. The log must look to the last byte like one that was never longer.
func (l *Log) excuse(tree map[string][]byte, r *reading) Excuse {
	if l.marked(tree) {
		return ""
	}
	for name, b := range tree {
		if path.Ext(name) != ".wal" || path.Base(name) < r.last {
			continue
		}
		if path.Base(name) > r.last || len(bytes.TrimRight(b[r.end:], "\x00")) > 0 {
			return ""
		}
	}
	switch {
	case r.to >= l.batch:
		return LastBatch
	case r.last == l.segments[len(l.segments)-1].name:
		return EndGone
	}
	return SegmentsGone
}

// excuseWrong returns why it cannot be detected that a fault changed what the log says.
func (l *Log) excuseWrong(f *fault) Excuse {
	if f.renames && !l.witnessed() {
		return OtherNumber
	}
	e := &f.edits[0]
	for i := range l.frames {
		r := &l.frames[i]
		const typeAt = 9 // behind the length word and the tag of the type
		if f.kind == Flip && l.segments[r.segment].name == e.name && int64(r.offset)+typeAt == e.at &&
			!r.Vouched && r.Type == walpb.TypeState && walpb.Type(e.data[0]) == walpb.TypeEntry {
			return StateAsEntry
		}
	}
	return ""
}
