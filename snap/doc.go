// Package snap keeps snapshots: the state of a consensus system at an index, in files, so that the
// log before it can be released. It knows no log. The order in which the two are written is the
// caller's, and it matters:
//
//	err = store.Save(s)                          // 1. the snapshot, durable on return
//	err = log.SaveSnapshot(s.Record())           // 2. its record in the log: now it counts
//	err = store.Keep(2, s.Record())              // 3. older snapshots than these two are no longer needed
//	oldest, err := store.Oldest(2, s.Record())   // 4. the older of the two
//	err = log.Release(oldest)                    // 5. nor is what it stands for
//
// A crash after any of these steps leaves a log and a snapshot that fit: a file without a record is
// ignored, and a record is never written before its file.
//
// The log is released up to the oldest snapshot that is kept, not up to the newest. A restart that
// finds the newest damaged goes on from an older one, and needs every entry after that. With a log
// that goes back no further than the newest, the older files would be of no use. A restart also
// calls [Store.Prune], so that no file without a record counts among those that are kept.
//
// # Two kinds of files
//
// A [Snapshot] is a value, and its file is etcd's: [Store.Save] writes what etcd 3.7 writes, byte
// for byte, and [Store.Newest] reads what any etcd 3 wrote. All of it is in memory at once.
//
// A [Body] is a snapshot that need not fit into memory. It is streamed, through a [Writer] and a
// [Reader], into a file of a format of our own, described in FORMAT.md: blocks of 64 KiB, each with
// a checksum that is verified whenever it is read and that knows the block's place. A transfer that
// was interrupted goes on from the last whole block, see [Store.Resume], and a [Limiter] keeps it
// from taking the disk and the network from the log. etcd has files of the same name that are
// databases; these are recognized, and never removed.
//
// A program uses either or both: small state as a Snapshot; large state as a Body; or a Snapshot
// with little Data that says that the rest is in the Body of the same index, which is then written
// first.
//
// # What is promised
//
// Once [Store.Save] or [Writer.Commit] returned nil the snapshot survives any crash. Until then a
// crash leaves what was there before, whole. Nothing is read that was not written: instead of a
// damaged file an older one is found, or a *[CorruptError] says so. Only a file whose bytes are
// wrong is set aside; one that cannot be read is left alone, and the error is returned. A good file
// is never truncated, nor written in place.
//
// One Store at a time may write to a directory: the lock of the log beside it ensures that. Any
// number may read, each through a [Dir], whose methods change nothing in it.
package snap
