package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/frame"
)

// recoverTail removes what a crash left after the end of a log, makes durable what stands before,
// and then says what it has done. It returns the end to go on from, which is in the last segment of
// the listing.
//
// What it removes it keeps a copy of. On a full disk it does without, unless strict, where the
// verdict is Torn: these records are ours, and were not acknowledged.
func recoverTail(k *lockedLog, j *judgement, strict bool) (ending, error) {
	name, o := k.last().name, &k.opts
	// The spares first: on a full disk, theirs is the space for the copy.
	for _, name := range k.spares {
		if err := k.fsys.Remove(filepath.Join(k.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ending{}, fmt.Errorf("wal: %w", err)
		}
	}
	copied, err := setAside(k, j)
	what := "trimmed"
	dispensable := j.verdict == Torn && !sabotaged(refuseFull) || sabotaged(dropUnproven)
	if fileutil.IsFull(err) && dispensable && !strict {
		copied, err, what = "", nil, "trimmed without a copy, for which there is no space"
	}
	if err != nil {
		return ending{}, err
	}
	end, err := trimTail(k, j, copied)
	if err != nil || j.verdict == Clean {
		return end, err
	}
	o.Logger.Warn("wal: "+j.verdict.String()+" end of the log "+what, "dir", k.dir, "segment", name,
		"offset", j.from(), "bytes", j.rest-j.from(), "copy", copied, "reason", j.kind.String()+" "+j.detail, "because", j.because)
	if f := o.Observer.Trimmed; f != nil {
		f(name, j.from(), j.rest-j.from(), copied)
	}
	return end, nil
}

// setAside keeps what is about to go, in a file beside the segment, and returns its name. An unborn
// segment becomes that file.
func setAside(k *lockedLog, j *judgement) (copied string, err error) {
	last, from := k.last(), j.from()
	if j.verdict == Clean || from == j.rest {
		return "", nil
	}
	copied = copyName(last.name, from, k.copies)
	path := filepath.Join(k.dir, copied)
	if j.verdict == Unborn {
		err = k.fsys.Rename(filepath.Join(k.dir, last.name), path)
		if err == nil {
			// Zeros follow, and have space reserved. A crash may give the file its name back, so it
			// ends where a segment can.
			err = last.file.Truncate(frame.ToPage(j.rest))
		}
		if err != nil {
			err = fmt.Errorf("wal: set the unborn segment aside: %w", err)
		}
		return copied, err
	}
	err = fileutil.ReplaceFile(k.fsys, path, 0o600, func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(last.file, from, j.rest-from))
		return err
	})
	if fileutil.IsFull(err) {
		const more = 1 << 20 // for name and inode: xfs and btrfs reserve these by the hundred
		need := frame.ToPage(j.rest-from) + more
		return "", fmt.Errorf("wal: %s: offset %d: no space for a copy of the torn tail, %d bytes, which is not removed without one: free %d bytes: %w",
			last.name, from, j.rest-from, need, err)
	}
	if err != nil {
		return "", fmt.Errorf("wal: keep a copy of the torn tail: %w", err)
	}
	return copied, nil
}

// trimTail removes what a crash left, for good.
func trimTail(k *lockedLog, j *judgement, copied string) (ending, error) {
	e, rest, o := j.ending, j.rest, &k.opts
	if j.verdict == Unborn {
		if copied == "" {
			if err := k.fsys.Remove(filepath.Join(k.dir, k.last().name)); err != nil {
				return e, fmt.Errorf("wal: %w", err)
			}
		}
		k.dropLast()
		e, rest = j.before, j.before.offset
	}
	last := k.last()
	// Only zeros may follow the end, so that no old frame is ever taken for a new one.
	err := zero(last.file, e.offset, rest)
	if fileutil.IsFull(err) { // where what is there is not written in its place
		err = last.file.Truncate(e.offset)
	}
	if err != nil {
		return e, fmt.Errorf("wal: %w", err)
	}
	var space error
	if e.offset < o.SegmentSize {
		if space = last.file.Preallocate(o.SegmentSize); space != nil {
			o.Logger.Warn("wal: no space to make the last segment as long as it will be", "dir", k.dir, "segment", last.name, "error", space)
		}
	}
	if last.size, err = last.file.Size(); err != nil {
		return e, fmt.Errorf("wal: %w", err)
	}
	// A crash while frames are written over what was zeroed may leave the file as long as it is
	// now, which is where a batch ended that is not there any more. A file that ends inside a frame
	// was cut off, for readers; so it ends with a page from here on.
	odd := last.size%frame.PageSize != 0 && e.offset < last.size
	if odd {
		last.size += frame.PageSize - last.size%frame.PageSize
		if err := last.file.Truncate(last.size); err != nil {
			return e, fmt.Errorf("wal: %w", err)
		}
	}
	if space != nil {
		last.size = min(last.size, frame.ToPage(e.offset)) // what follows has to be reserved
	}
	if o.NoSync && !odd {
		return e, nil
	}
	if err := last.file.SyncData(); err != nil {
		return e, fmt.Errorf("wal: %w", err)
	}
	if err := fileutil.SyncDir(k.fsys, k.dir); err != nil {
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
	var page frame.Pages
	page.Append(make([]byte, frame.PageSize))
	kept, at := page.Bytes[:from%frame.PageSize], from/frame.PageSize*frame.PageSize
	if _, err := f.ReadAt(kept, at); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for ; at < to; at += frame.PageSize {
		if _, err := f.WriteAt(page.Bytes, at); err != nil {
			return err
		}
		clear(kept)
	}
	return nil
}
