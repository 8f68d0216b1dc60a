package wal

import (
	"log/slog"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal/internal/frame"
)

// Options are what a caller may choose. A nil *Options and every zero field mean the default.
// Options are read when they are passed and never written to.
type Options struct {
	// SegmentSize is the size in bytes at which a segment is full and the log is cut. It is rounded
	// up to a multiple of 4096. The default is DefaultSegmentSize. A segment may become larger, by
	// the last Save in it and by what is saved until the next one is prepared. A log takes at least
	// twice this on disk, for the last segment and the spare. It may differ from one Open to the
	// next.
	SegmentSize int64

	// MaxRecord is the size in bytes of the largest record that the Writer writes: an entry's data
	// and some 60 bytes. The default, DefaultMaxRecord, is what every etcd since 3.4 can read.
	// Readers have no such limit.
	MaxRecord int

	// NoSync leaves out every sync. What Save wrote survives the end of the process, but no crash
	// of the machine.
	NoSync bool

	// PlainEtcd writes etcd's bytes and nothing else: records without witnesses. Then a torn tail
	// often cannot be distinguished from damage to what was durable; see FORMAT.md, chapter 11. A
	// log without witnesses is judged by how etcd syncs, so Saves do not share a sync.
	PlainEtcd bool

	// Logger logs what no caller is told: a torn tail that was trimmed, a next segment that could
	// not be made, a sync that took longer than a second. The default logs nothing.
	Logger *slog.Logger

	// Observer is called as the log works, for metrics.
	Observer Observer

	// FS is the file system. The default is the operating system's.
	FS fileutil.FS

	// Background runs what the Writer does in the background: preparing the next segment. The
	// default starts a goroutine for each task. A program that wants the same order of operations
	// in every run queues the tasks, and runs them between its calls.
	//
	//   - It must return without having run the task, which would wait for a lock that the Writer
	//     holds.
	//   - A task is to be run once, at any later time, in any goroutine, also while methods of the
	//     Writer are being called. There is never a second one before the first has ended.
	//   - Until a task has run there is no next segment, and appends go on in the last one.
	//   - Close waits for a task that has started. One that starts after that does nothing.
	//   - The goroutine that calls the callbacks of Append is no such task: it lives as long as the
	//     Writer does, and callers wait for it.
	Background func(task func())
}

// An Observer is a set of functions that a log calls as it works. Each may be nil.
//
//   - They are called in the goroutine that does the work, and hold up the log while they run.
//   - Of one Writer no two are called at once, but for Spare.
//   - They must not call the log. One that panics ends the Writer; see [Writer].
type Observer struct {
	// Wrote is called after each write to a segment, with its size in bytes.
	Wrote func(n int, took time.Duration)
	// Synced is called after each sync of a segment's data.
	Synced func(took time.Duration)
	// Cut is called when a new segment has its name, with that name. took is how long the cut held
	// up the batch that needed the segment, without the batch's own write and sync.
	Cut func(segment string, took time.Duration)
	// Trimmed is called when Open or Plan.Apply has trimmed a torn tail or set aside an unborn
	// segment, and synced that: where it began, how many bytes were removed, and which file in the
	// log's directory holds them now. copied is empty if there were only zeros, or no space for a
	// copy.
	Trimmed func(segment string, offset, n int64, copied string)
	// Spare is called when a spare segment has been made in the background, or could not be.
	Spare func(err error)
}

// withDefaults returns a copy in which every field that has a default is set.
func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.SegmentSize <= 0 {
		c.SegmentSize = DefaultSegmentSize
	}
	// Writes are of whole pages, so a segment is reserved in whole pages.
	c.SegmentSize = frame.ToPage(c.SegmentSize)
	if c.MaxRecord <= 0 {
		c.MaxRecord = DefaultMaxRecord
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.FS == nil {
		c.FS = fileutil.OS{}
	}
	return c
}
