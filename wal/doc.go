// Package wal is a write-ahead log for consensus systems. On disk it is an etcd log: it reads what
// any etcd wrote, and etcd reads what it writes.
//
// A log is a directory of segments. A [Writer] appends entries and hard states to it, and makes
// them durable before [Writer.Save] returns. [Records] reads what is on disk, and [Replay] works
// out what that means: the entries from a snapshot on, and the last hard state. Snapshots
// themselves are files of their own, see package snap; the log only records that they are there.
//
// A program that starts again calls [Recover]. It locks the log, removes what a crash left half
// done, lets the program choose one of the snapshots that the log records, and returns what comes
// after that, with a Writer.
//
// A program without raft saves entries of term 1, and a hard state of term 1 without a vote that
// commits the last index it has applied.
//
// # What is promised
//
// Once Save has returned nil, its entries are there after any crash, in order; or Open says that
// the log is corrupt, and where. Nothing is ever there that was not saved. After a crash alone, of
// the process or of the machine, Open succeeds with no manual step.
//
// A crash may leave the last batch half written: a torn tail. That is removed. Damage to what was
// durable is never taken for it, because later records are witnesses: they say which bytes were
// durable when they were written. FORMAT.md has the bytes, and what is assumed of disks.
//
// # Reading the source
//
// internal/frame puts records into frames. segment_scan.go reads those of one segment, and scan.go
// those of a log. verdict.go decides what the end of a log is, from what search.go and unlike.go
// find after it. internal/history knows what records mean together; reading.go asks it, for
// replay.go, check.go and open.go. writer.go and flush.go are the life of a Save.
package wal
