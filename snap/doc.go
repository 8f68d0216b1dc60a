// Package snap keeps snapshots: the state of a consensus system at an index, in files, so that the log before it can be
// released. It knows no log. The order in which the two are written is the caller's, and it matters:
//
//	err = store.Save(s)             // 1. the snapshot, durable on return
//	err = log.SaveSnapshot(...)     // 2. its record in the log, which says that there is one
//	err = log.Release(s.Index)      // 3. what the snapshot stands for is no longer needed
//	err = store.Keep(2, s.Record()) // 4. nor are the snapshots before it
//
// A crash after any of these steps leaves a log and a snapshot that fit: a file without a record is not looked at, and
// a record is never written without its file.
//
// # Two kinds of files
//
// A [Snapshot] is a value, and its file is etcd's: [Store.Save] writes what etcd 3.7 writes, byte for byte, and [Store.Newest]
// reads what any etcd 3 wrote. All of it is in memory at once.
//
// A [Body] is a snapshot that need not fit into memory. It is streamed, through a [Writer] and a [Reader], into a file of
// a format of our own, described in FORMAT.md: blocks of 64 KiB, each with a checksum that is verified whenever it is read and
// that knows the block's place. A transfer that was interrupted goes on from the last whole block, see [Store.Resume], and a [Limiter]
// keeps it from taking the disk and the network from the log. etcd has files of the same name that are databases; these
// are told apart, and never removed.
//
// A program uses either or both: small state as a Snapshot; large state as a Body; or a Snapshot with little Data that says that
// the rest is in the Body of the same index, which is then written first.
//
// # What is promised
//
// Once [Store.Save] or [Writer.Commit] returned nil the snapshot survives any crash. Until then a crash leaves what was there before, whole.
// Nothing is read that was not written: of a file that was damaged an older one is found or a *[CorruptError] says so. Only a file
// whose bytes are wrong is set aside; one that cannot be read is left alone, and the error is returned. A good file is never truncated, nor written in place.
//
// One Store at a time may write to a directory: the lock of the log beside it sees to that. Any number may read.
package snap
