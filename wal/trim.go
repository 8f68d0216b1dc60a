package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/fileutil"
)

// recoverTail removes what a crash left after the end of a log, makes durable what stands before,
// and then says what it has done. It returns the end to go on from, which is in the last segment of
// the listing.
//
// What it removes it keeps a copy of. On a full disk it does without, unless strict, where the
// verdict is Torn: these records are ours, and nobody was told that they are durable.
func recoverTail(dir string, l *listing, e end, o Options, strict bool) (end, error) {
	name := l.segments[len(l.segments)-1].name
	// The spares first: on a full disk, theirs is the space for the copy.
	for _, name := range l.spares {
		if err := o.FS.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return e, fmt.Errorf("wal: %w", err)
		}
	}
	copied, err := setAside(dir, l, e, o.FS)
	what := "trimmed"
	dispensable := e.verdict == Torn && !sabotaged(refuseFull) || sabotaged(dropUnproven)
	if fileutil.IsFull(err) && dispensable && !strict {
		copied, err, what = "", nil, "trimmed without a copy, for which there is no space"
	}
	if err != nil {
		return e, err
	}
	next, err := trimTail(dir, l, e, o, copied)
	if err != nil || e.verdict == Clean {
		return next, err
	}
	o.Logger.Warn("wal: "+e.verdict.String()+" end of the log "+what, "dir", dir, "segment", name,
		"offset", e.from(), "bytes", e.rest-e.from(), "copy", copied, "reason", e.kind.String()+" "+e.detail, "because", e.because)
	if f := o.Observer.Trimmed; f != nil {
		f(name, e.from(), e.rest-e.from(), copied)
	}
	return next, nil
}

// setAside keeps what is about to go, in a file beside the segment, and returns its name. An unborn
// segment becomes that file.
func setAside(dir string, l *listing, e end, fsys fileutil.FS) (copied string, err error) {
	last, from := &l.segments[len(l.segments)-1], e.from()
	if e.verdict == Clean || from == e.rest {
		return "", nil
	}
	copied = copyName(last.name, from, l.copies)
	path := filepath.Join(dir, copied)
	if e.verdict == Unborn {
		err = fsys.Rename(filepath.Join(dir, last.name), path)
		if err == nil {
			// Zeros follow, and have space reserved. A crash may give the file its name back, so it
			// ends where a segment can.
			err = last.file.Truncate(toPage(e.rest))
		}
		if err != nil {
			err = fmt.Errorf("wal: set the unborn segment aside: %w", err)
		}
		return copied, err
	}
	err = fileutil.ReplaceFile(fsys, path, 0o600, func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(last.file, from, e.rest-from))
		return err
	})
	if fileutil.IsFull(err) {
		const more = 1 << 20 // for the name and the inode: xfs and btrfs give these out by the hundred
		need := toPage(e.rest-from) + more
		return "", fmt.Errorf("wal: %s: offset %d: no space for a copy of the torn tail, %d bytes, which is not removed without one: free %d bytes: %w",
			last.name, from, e.rest-from, need, err)
	}
	if err != nil {
		return "", fmt.Errorf("wal: keep a copy of the torn tail: %w", err)
	}
	return copied, nil
}

// trimTail removes what a crash left, for good.
func trimTail(dir string, l *listing, e end, o Options, copied string) (end, error) {
	last := &l.segments[len(l.segments)-1]
	if e.verdict == Unborn {
		if copied == "" {
			if err := o.FS.Remove(filepath.Join(dir, last.name)); err != nil {
				return e, fmt.Errorf("wal: %w", err)
			}
		}
		last.file.Close()
		l.segments = l.segments[:len(l.segments)-1]
		last = &l.segments[len(l.segments)-1]
		e = *e.before
	}
	// Only zeros may follow the end, so that no old frame is ever taken for a new one.
	err := zero(last.file, e.offset, e.rest)
	if fileutil.IsFull(err) { // where what is there is not written in its place
		err = last.file.Truncate(e.offset)
	}
	if err != nil {
		return e, fmt.Errorf("wal: %w", err)
	}
	var space error
	if e.offset < o.SegmentSize {
		if space = last.file.Preallocate(o.SegmentSize); space != nil {
			o.Logger.Warn("wal: no space to make the last segment as long as it will be", "dir", dir, "segment", last.name, "error", space)
		}
	}
	if last.size, err = last.file.Size(); err != nil {
		return e, fmt.Errorf("wal: %w", err)
	}
	// A crash while frames are written over what was zeroed may leave the file as long as it is
	// now, which is where a batch ended that is not there any more. A file that ends inside a frame
	// was cut off, for readers; so it ends with a page from here on.
	odd := last.size%pageSize != 0 && e.offset < last.size
	if odd {
		last.size += pageSize - last.size%pageSize
		if err := last.file.Truncate(last.size); err != nil {
			return e, fmt.Errorf("wal: %w", err)
		}
	}
	if space != nil {
		last.size = min(last.size, toPage(e.offset)) // what follows has to be reserved
	}
	if o.NoSync && !odd {
		return e, nil
	}
	if err := last.file.SyncData(); err != nil {
		return e, fmt.Errorf("wal: %w", err)
	}
	if err := fileutil.SyncDir(o.FS, dir); err != nil {
		return e, fmt.Errorf("wal: %w", err)
	}
	// From here on, everything before the end is durable, and the end is the end.
	return e, nil
}

// zero overwrites a part of a segment, which nothing but zeros follows, with zeros. It writes whole
// pages, as the Writer does.
func zero(f fileutil.File, from, to int64) error {
	if from >= to {
		return nil
	}
	var page pages
	page.append(make([]byte, pageSize))
	kept, at := page.bytes[:from%pageSize], from/pageSize*pageSize
	if _, err := f.ReadAt(kept, at); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for ; at < to; at += pageSize {
		if _, err := f.WriteAt(page.bytes, at); err != nil {
			return err
		}
		clear(kept)
	}
	return nil
}
