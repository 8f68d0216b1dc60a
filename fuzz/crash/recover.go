package crash

import (
	"errors"
	"io/fs"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
)

// A Recover opens what a crash has left of a log, in the way of another program, and says what the
// log comes to. With Config.Recover a campaign judges that program in the place of [wal.Open], on
// the same states: those of logs that package wal has written, so with Config.PlainEtcd they have
// etcd's bytes.
//
// The log is in the directory dir of disk, which is the Recover's own to read and to change; its
// Tree is every file in it. The result is what [wal.Replay] would return: the entries that follow
// Snapshot, which must be a snapshot that the log records and its commit covers, or the zero
// one. It is judged by what it means: it must be what the records that were attempted came to at
// some point that is not before the last that was acknowledged. If it is not, it counts as invented
// if any of it was never attempted, or was not there at an earlier Open, and else as lost.
//
// An error means that the program refuses the log, and a crash alone is no reason to. If there is
// no log the error must be an fs.ErrNotExist: before Create has returned that is as it should be. A
// panic is not caught.
//
// It is called from Config.Workers goroutines at once.
type Recover func(disk *crashfs.FS, dir string) (*wal.Log, error)

// examineWith judges another program's recovery. The history goes on whatever comes of it.
func (h *history) examineWith(open Recover, disk *crashfs.FS, what string) {
	log, err := open(disk, harness.Dir)
	switch {
	case err == nil:
		err = h.model.JudgeLog(log)
	case errors.Is(err, fs.ErrNotExist) && !h.model.Created:
		return
	default:
		err = oracle.Failf(oracle.Refused, "%v", err)
	}
	var f *oracle.Failure
	if errors.As(err, &f) {
		h.count(f.Verdict, what+": "+f.Detail)
	}
}
