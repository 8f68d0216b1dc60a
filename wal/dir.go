package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/frame"
)

// segment is a place in a log: the name of a .wal file, and what it says.
type segment struct {
	name  string
	seq   uint64 // segments follow each other in this order, without a number left out
	index uint64 // that of its first entry, but for overwrites
	size  int64  // of the file, when it was opened last
}

// openSegment is a segment and its file.
type openSegment struct {
	segment // size is that of the file, as far as it is read, or reserved to be written
	file    fileutil.File
}

// listing is what a log's directory holds, sorted by sequence number.
type listing struct {
	fsys fileutil.FS
	path string // what was listed: the directory, or one segment
	dir  string // of the segments

	segments []segment
	preceded bool     // segments before these were left out
	stray    error    // the error of the first name that ends in .wal and is no segment's
	spares   []string // what writers, ours or etcd, had in preparation: never read
	copies   []string // what Open and Repair kept of what they cut off
	mark     mark     // how far the log was durable at the least when it was listed
}

// list reads a directory, strictly: whatever ends in .wal is either a segment or a stray. path may
// also be the path of one segment, which then is all of the log, without a mark.
func list(fsys fileutil.FS, path string) (listing, error) {
	info, err := fsys.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return listing{}, fmt.Errorf("wal: %w: %w", ErrNoLog, err)
	}
	if err != nil {
		return listing{}, fmt.Errorf("wal: %w", err)
	}
	if !info.IsDir() {
		name := filepath.Base(path)
		seq, index, ok := frame.ParseSegmentName(name)
		if what := special(info.Mode()); what != "" || !ok {
			return listing{}, foreign(filepath.Dir(path), name, what)
		}
		only := []segment{{name: name, seq: seq, index: index}}
		return listing{fsys: fsys, path: path, dir: filepath.Dir(path), segments: only}, nil
	}
	l := listing{fsys: fsys, path: path, dir: path}
	// The mark first: a log that is being written is beyond it by the time the rest is read.
	if l.mark, err = readMark(fsys, path); err != nil {
		return listing{}, err
	}
	names, err := fsys.ReadDir(path)
	if err != nil {
		return listing{}, fmt.Errorf("wal: %w", err)
	}
	for _, entry := range names {
		name, what := entry.Name(), special(entry.Type())
		switch seq, index, ok := frame.ParseSegmentName(name); {
		case ok && what == "":
			l.segments = append(l.segments, segment{name: name, seq: seq, index: index})
		case strings.HasSuffix(name, frame.SegmentSuffix):
			if l.stray == nil {
				l.stray = foreign(path, name, what)
			}
		case isSpareName(name) && what == "":
			l.spares = append(l.spares, name)
		case isCopyName(name):
			l.copies = append(l.copies, name)
		}
	}
	return l, nil
}

// special returns what cannot be a file of ours by its mode, or "". A pipe would stop the process
// that opens it.
func special(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice) != 0:
		return "a pipe, a socket or a device"
	}
	return ""
}

// check returns the error of a directory that cannot be taken for one log: it holds none, or more.
func (l *listing) check() error {
	if l.stray != nil {
		return l.stray
	}
	if len(l.segments) == 0 {
		return fmt.Errorf("wal: %s: %w", l.path, ErrNoLog)
	}
	for i := 1; i < len(l.segments); i++ {
		if a, b := l.segments[i-1], l.segments[i]; a.seq == b.seq {
			return &CorruptError{Segment: b.name, Kind: DoubleSegment, Detail: "so is " + a.name, Because: "which of them is the log's cannot be known"}
		}
	}
	return nil
}

// from returns the position of the segment to start at for what follows index: the last whose name
// has an index at or below it, or the first. For 0 it is the first, whatever the names.
func (l *listing) from(index uint64) int {
	for i := len(l.segments) - 1; i > 0 && index > 0; i-- {
		if l.segments[i].index <= index {
			return i
		}
	}
	return 0
}

// beginning returns the error of a log of which the first segments are not there. Release may have
// removed them: then a snapshot record supersedes them.
func (l *listing) beginning() *CorruptError {
	first := &l.segments[0]
	if first.seq == 0 || l.preceded {
		return nil
	}
	_, because := decide(evidenceOf(noFrame, inGap))
	return &CorruptError{Segment: first.name, Kind: MissingSegment, Detail: fmt.Sprintf("%016x to %016x", 0, first.seq-1), Because: because}
}

// openLog lists a log to read it, from the segment that index selects.
func openLog(fsys fileutil.FS, path string, index uint64) (listing, error) {
	l, err := list(fsys, path)
	if err != nil {
		return l, err
	}
	if err := l.check(); err != nil {
		return l, err
	}
	first := l.from(index)
	l.segments, l.preceded = l.segments[first:], first > 0
	return l, nil
}

// scan returns a scanner that reads without a lock.
func (l *listing) scan() *scanner { return newScanner(l, l) }

// open opens a segment to read it.
func (l *listing) open(seg *segment) (*openSegment, error) { return l.openFile(seg, os.O_RDONLY) }

// close closes a segment. There is nothing to learn from closing a file that was only read.
func (l *listing) close(seg *openSegment) { seg.file.Close() }

// locked reports whether a process has the log open to write it: whether the last segment is
// locked. If the log was cut since it was listed, another is the last by now.
func (l *listing) locked() (bool, error) {
	last := l.segments[len(l.segments)-1]
	for {
		locked, err := l.asksLock(&last)
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil // a Release has removed it since
		}
		if locked || err != nil {
			return locked, err
		}
		now, err := l.relist(last.seq)
		if err != nil || len(now) == 0 || now[len(now)-1].seq == last.seq {
			return false, err
		}
		last = now[len(now)-1]
	}
}

func (l *listing) asksLock(seg *segment) (bool, error) {
	s, err := l.open(seg)
	if err != nil {
		return false, err
	}
	defer l.close(s)
	return s.file.Locked()
}

// relist returns the segments that are there now, from a sequence number on.
func (l *listing) relist(seq uint64) ([]segment, error) {
	now, err := openLog(l.fsys, l.path, 0)
	for len(now.segments) > 0 && now.segments[0].seq < seq {
		now.segments = now.segments[1:]
	}
	return now.segments, err
}

// openFile opens a segment, and takes its size.
func (l *listing) openFile(seg *segment, flag int) (*openSegment, error) {
	file, err := l.fsys.OpenFile(filepath.Join(l.dir, seg.name), flag, 0)
	if err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	opened := false
	defer closeUnless(&opened, file)
	if seg.size, err = file.Size(); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	opened = true
	return &openSegment{*seg, file}, nil
}

// closeUnless closes a file unless all went well. It is deferred, so that it is done also after a
// panic of an FS.
func closeUnless(well *bool, file fileutil.File) {
	if !*well {
		file.Close()
	}
}

// isSpareName reports whether writers give that name to what they prepare: a number and .tmp to a
// segment; the name of a copy, a number and .tmp to a copy.
func isSpareName(name string) bool {
	name, ok := strings.CutSuffix(name, ".tmp")
	if of, number, found := strings.Cut(name, copySuffix+"."); found && strings.Contains(of, frame.SegmentSuffix+".") {
		name = number
	}
	return ok && name != "" && strings.Trim(name, "0123456789") == ""
}

// copyName names the copy that is kept of what was cut off a segment at an offset. It does not end
// in .wal, so that etcd does not take it for a segment. Release removes it together with the
// segment. A copy that is there already keeps its name: it may be that of an Open that was cut
// short, which holds more than is left.
func copyName(segment string, offset int64, copies []string) string {
	name := fmt.Sprintf("%s.%d%s", segment, offset, copySuffix)
	for n := 1; slices.Contains(copies, name); n++ {
		name = fmt.Sprintf("%s.%d.%d%s", segment, offset, n, copySuffix)
	}
	return name
}

const copySuffix = ".torn"

func isCopyName(name string) bool {
	return strings.HasSuffix(name, copySuffix) && strings.Contains(name, frame.SegmentSuffix+".")
}
