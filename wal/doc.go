// Package wal is a write-ahead log for consensus systems. On disk it is an etcd log: it reads what
// any etcd 3 wrote, and etcd reads what it writes.
//
// A log is a directory of segments. A [Writer] appends entries and hard states to it, and makes
// them durable before [Writer.Save] returns. [Records] reads what is on disk, and [Replay] works
// out what that means: the entries from a snapshot on, and the last hard state. Snapshots
// themselves are files of their own, see package snap; the log only records that they are there.
//
// A program that starts again goes through these four steps:
//
//	w, err := wal.Open(dir, nil)                                    // lock the log, remove what a crash left half done
//	snaps, err := wal.Snapshots(wal.Records(dir, 0, nil))           // from which snapshots can it go on?
//	...                                                             // load the newest of them that it has a file for
//	log, err := wal.Replay(wal.Records(dir, s.Index, nil), s)       // and what comes after it
//
// # What is promised
//
// Once Save has returned nil, its entries are there after any crash, in order; or Open says that
// the log is corrupt, and where. Nothing is ever there that was not saved. After a mere crash, of
// the process or of the machine, Open succeeds without help. What a crash leaves half done at the
// end of a log, its torn tail, is removed; damage to what was durable is never taken for it,
// because later records bear witness of what was durable before them. See FORMAT.md for the bytes,
// and for what is assumed of disks.
//
// # Reading the source
//
// format.go and encode.go put records into frames. scan.go reads them back, and verdict.go decides
// what the end of a log is, from what search.go finds behind it. history.go knows what records mean
// together; replay.go and open.go ask it. writer.go is the life of a Save.
package wal
