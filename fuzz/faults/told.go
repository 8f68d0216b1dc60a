package faults

import (
	"bytes"
	"errors"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
)

// judge judges what a step returned in which some operations failed. broken is why the Writer had
// failed before it, if it had.
func (t *trial) judge(s step, err error, fired []firing, broken error) {
	writer := s.kind == onWriter
	switch {
	case writer && broken != nil:
		t.sameError(s.name, broken, err)
		return
	case err == nil:
		t.excused(s, fired)
		return
	case len(fired) == 0:
		t.fail(oracle.Refused, "%s: %v", s.name, err)
		return
	}
	t.told(s, err, fired)
	if writer && s.name != "release" && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) {
		t.fail(oracle.Refused, "%s returned %q, and needs no descriptor", s.name, err)
	}
	if writer && !leavesUsable(err) {
		t.broken = err
	}
}

// readable sees to it that an error names no file twice: a line of it, for there may be several of
// one file.
func (t *trial) readable(what string, err error) {
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		var names []string
		for _, word := range strings.Fields(line) {
			word = strings.Trim(word, ":,;()")
			if filepath.Ext(word) != "" {
				word = filepath.Base(word)
			} else if !strings.Contains(word, "/") {
				continue
			}
			if slices.Contains(names, word) {
				t.fail(Stuttered, "%s returned %q", what, err)
			}
			names = append(names, word)
		}
	}
}

// sameError sees to it that a call on a Writer that has failed says so.
func (t *trial) sameError(what string, broken, err error) {
	switch {
	case err == nil:
		t.fail(WentOn, "%s returned nil after %v", what, broken)
	case !strings.Contains(err.Error(), broken.Error()):
		t.fail(Swallowed, "%s returned %q, but the first failure was %q", what, err, broken)
	}
}

// leavesUsable reports whether a failure is one of the exceptions that are documented: that what a
// Release removes cannot be removed, or that there is no space for what is to be saved.
func leavesUsable(err error) bool {
	return strings.HasPrefix(err.Error(), "wal: release: ") || errors.Is(err, wal.ErrNoSpace)
}

// told sees to it that an error has the reason and the name of the file.
func (t *trial) told(s step, err error, fired []firing) {
	if !errors.Is(err, t.run.fault.is) {
		t.fail(Swallowed, "%s returned %q, but the operation failed with %v", s.name, err, t.run.fault.err)
		return
	}
	text := err.Error()
	for _, f := range fired {
		switch f.Kind {
		case crashfs.OpSyncDir, crashfs.OpReadDir, crashfs.OpMkdir:
			if strings.Contains(text, f.Name) {
				return
			}
			continue
		}
		if strings.Contains(text, filepath.Base(f.Name)) || f.NewName != "" && strings.Contains(text, filepath.Base(f.NewName)) {
			return
		}
		// The name that it has by now.
		if harness.IsSpare(f.Name) && strings.Contains(text, ".wal") {
			return
		}
	}
	t.fail(Swallowed, "%s returned %q, which does not name the file of %v", s.name, err, fired[0])
}

// excused sees to it that what failed in a step that returned nil may fail.
func (t *trial) excused(s step, fired []firing) {
	for _, f := range fired {
		a := attempt{s, f, &t.run.fault}
		switch {
		case f.making:
			t.judgeSpare(f)
		case !slices.ContainsFunc(excuses, func(e excuse) bool { return (e.op == "" || e.op == f.Kind) && e.excuses(a) }):
			t.fail(Swallowed, "%v failed with %v, and %s returned nil", f, t.run.fault.err, s.name)
			return
		}
	}
}

// judgeSpare judges what has become of a spare. It is made in the background, and its failures go
// to the observer. If it cannot be synced, the Writer has failed.
func (t *trial) judgeSpare(f firing) {
	t.readable("the observer of the spare", t.spare)
	if !errors.Is(t.spare, t.run.fault.is) {
		t.fail(Swallowed, "%v failed, and the observer was told %v", f, t.spare)
	}
	if f.Kind == crashfs.OpSyncData && !fileutil.IsFull(t.spare) {
		t.broken = t.spare
	}
}

// An attempt is a step in which an operation failed.
type attempt struct {
	step
	firing
	fault *fault
}

func (a attempt) onWriter() bool { return a.step.kind == onWriter }

func (a attempt) full() bool { return fileutil.IsFull(a.fault.err) }

func (a attempt) file() string { return a.firing.Name }

// ownDir reports whether the file is the directory of the log, or that of the snapshots.
func (a attempt) ownDir() bool { return a.file() == harness.Dir || a.file() == harness.SnapDir }

// An excuse is when a step may return nil although an operation in it failed.
type excuse struct {
	why     string
	op      crashfs.OpKind // "" is any
	excuses func(a attempt) bool
}

var excuses = []excuse{
	{"there is nothing to learn from closing a directory", crashfs.OpClose, func(a attempt) bool {
		return a.ownDir() || a.file() == path.Dir(harness.Dir) || a.file() == "."
	}},
	{"nor from closing what was only read, or was synced, or is gone", crashfs.OpClose, func(a attempt) bool {
		return a.name != "close" && (!harness.IsSpare(a.file()) || a.name == "release")
	}},
	{"a mark that is not written leaves the one before, which is still valid", "", func(a attempt) bool {
		return filepath.Base(a.file()) == "synced" && (a.onWriter() || a.late)
	}},
	{"a parent that cannot be written cannot have changed", crashfs.OpSyncDir, func(a attempt) bool {
		return errors.Is(a.fault.err, syscall.EROFS) && !a.ownDir()
	}},
	{"zeros are then left at the end of a segment that is full", crashfs.OpTruncate, func(a attempt) bool {
		return a.onWriter() && a.full()
	}},
	{"it is the last witness; that all else is there is looked for", crashfs.OpWrite, func(a attempt) bool {
		return a.name == "close" && a.full()
	}},
	{"the segment is cut before it is full", crashfs.OpPreallocate, func(a attempt) bool {
		return a.onWriter() && a.full()
	}},
	{"space is reserved if there is any; appends find out", crashfs.OpPreallocate, func(a attempt) bool {
		return a.step.kind == recovers
	}},
	{"what was not needed yet is read again when it is", crashfs.OpRead, func(a attempt) bool {
		return a.fault.partial
	}},
	{"whether the file is there already does not matter: it is written again", "", func(a attempt) bool {
		return strings.HasPrefix(a.name, "save") && strings.HasSuffix(a.file(), ".snap")
	}},
	{"an older snapshot is found, also where a damaged one cannot be set aside", "", func(a attempt) bool {
		return a.name == "newest of damaged" && (slices.Contains(settingAside, a.Kind) || a.Kind == crashfs.OpOpen && a.file() == harness.SnapDir)
	}},
}

var settingAside = []crashfs.OpKind{crashfs.OpRename, crashfs.OpReadDir, crashfs.OpSyncDir, crashfs.OpRemove}

// untouched sees to it that what was to recover a log and failed has done nothing to it but what it
// would have done anyway, and no byte of that without a copy.
func (t *trial) untouched(s step, was *crashfs.FS) {
	clean := &trial{run: run{workload: t.run.workload, op: -1}, rng: t.rng, model: t.model.Clone(), snaps: t.snaps.clone()}
	clean.striker.run, clean.striker.trace = clean.run, &clean.trace
	before := was.Tree()
	clean.attach(was)
	if err := s.do(clean); err != nil {
		t.fail(oracle.Refused, "%s without a fault: %v", s.name, err)
		return
	}
	after, now := was.Tree(), t.disk.Tree()
	clean.finish()
	for name, old := range before {
		if filepath.Ext(name) != ".wal" {
			continue
		}
		got, there := now[name]
		want, stays := after[name]
		same := there && len(got) == len(old)
		for i := 0; same && i < len(got); i++ {
			same = got[i] == old[i]
		}
		if same {
			continue
		}
		if there == stays && !there || there && stays && between(got, old, want) {
			kept := slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(n string) bool {
				return strings.HasPrefix(n, name) && strings.HasSuffix(n, ".torn")
			})
			if kept || len(bytes.Trim(trimmed(old, want), "\x00")) == 0 {
				continue
			}
		}
		t.fail(Damaged, "%s failed, and left %s changed", s.name, name)
	}
}

// between reports whether b is on its way from old to want. What is beyond the end of one counts as
// zero.
func between(b, old, want []byte) bool {
	at := func(s []byte, i int) byte {
		if i < len(s) {
			return s[i]
		}
		return 0
	}
	for i := range max(len(b), len(old), len(want)) {
		if c := at(b, i); c != at(old, i) && c != at(want, i) {
			return false
		}
	}
	return true
}

// trimmed returns what is in old and no longer in want.
func trimmed(old, want []byte) (lost []byte) {
	for i, c := range old {
		if i >= len(want) || want[i] != c {
			lost = append(lost, c)
		}
	}
	return lost
}
