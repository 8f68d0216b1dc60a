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
)

// segment is a place in a log: the name of a .wal file, and what it says.
type segment struct {
	name  string
	seq   uint64 // segments follow each other in this order, one after the other
	index uint64 // that of its first entry, but for overwrites
}

// openSegment is a segment and its file.
type openSegment struct {
	segment
	file fileutil.File
	size int64 // of the file as far as it is read or written: what was measured, or reserved, last
}

// listing is what a log's directory holds, sorted by sequence number.
type listing struct {
	segments []openSegment
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
	if err != nil {
		return listing{}, fmt.Errorf("wal: %w", err)
	}
	if !info.IsDir() {
		name := filepath.Base(path)
		seq, index, ok := parseSegmentName(name)
		if what := special(info.Mode()); what != "" || !ok {
			return listing{}, foreign(filepath.Dir(path), name, what)
		}
		return listing{segments: []openSegment{{segment: segment{name, seq, index}}}}, nil
	}
	var l listing
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
		switch seq, index, ok := parseSegmentName(name); {
		case ok && what == "":
			l.segments = append(l.segments, openSegment{segment: segment{name, seq, index}})
		case strings.HasSuffix(name, segmentSuffix):
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
func (l *listing) check(dir string) error {
	if l.stray != nil {
		return l.stray
	}
	if len(l.segments) == 0 {
		return fmt.Errorf("wal: %s: %w", dir, ErrNoLog)
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
// removed them: then a snapshot record makes them needless.
func (l *listing) beginning() *CorruptError {
	first := &l.segments[0]
	if first.seq == 0 || l.preceded {
		return nil
	}
	_, because := decide(evidenceOf(noFrame, inGap))
	return &CorruptError{Segment: first.name, Kind: MissingSegment, Detail: fmt.Sprintf("%016x to %016x", 0, first.seq-1), Because: because}
}

// open opens the segments from the given one on.
func (l *listing) open(fsys fileutil.FS, dir string, from, flag int) error {
	opened := false
	defer l.closeUnless(&opened)
	for i := from; i < len(l.segments); i++ {
		s := &l.segments[i]
		f, err := fsys.OpenFile(filepath.Join(dir, s.name), flag, 0)
		if err != nil {
			return fmt.Errorf("wal: %w", err)
		}
		s.file = f
		if s.size, err = f.Size(); err != nil {
			return fmt.Errorf("wal: %w", err)
		}
	}
	opened = true
	return nil
}

// closeUnless closes what open opened, unless all went well. It is deferred, so that it is done
// also after a panic of an FS or of an Observer.
func (l *listing) closeUnless(well *bool) {
	if !*well {
		l.close()
	}
}

// close closes what open opened. There is nothing to learn from closing a file that was only read.
func (l *listing) close() {
	for i := range l.segments {
		if s := &l.segments[i]; s.file != nil {
			s.file.Close()
			s.file = nil
		}
	}
}

// openLog lists a log and opens its segments for reading, from the one that index selects. A
// segment that another process removes in between makes it list again.
func openLog(fsys fileutil.FS, path string, index uint64) (l listing, dir string, err error) {
	const tries = 5
	for try := 1; ; try++ {
		if l, err = list(fsys, path); err != nil {
			return l, "", err
		}
		if err = l.check(path); err != nil {
			return l, "", err
		}
		dir = path
		if filepath.Base(path) == l.segments[0].name {
			dir = filepath.Dir(path)
		}
		first := l.from(index)
		if err = l.open(fsys, dir, first, os.O_RDONLY); err == nil {
			l.segments, l.preceded = l.segments[first:], first > 0
			return l, dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || try == tries {
			return l, "", err
		}
	}
}

// isSpareName tells whether name is one that writers give what they prepare: a number and .tmp for
// a segment, the name of a copy, a number and .tmp for that.
func isSpareName(name string) bool {
	name, ok := strings.CutSuffix(name, ".tmp")
	if of, number, found := strings.Cut(name, copySuffix+"."); found && strings.Contains(of, segmentSuffix+".") {
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
	return strings.HasSuffix(name, copySuffix) && strings.Contains(name, segmentSuffix+".")
}
