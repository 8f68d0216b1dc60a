package wal_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A directFS opens the files of segments for direct writes.
type directFS struct{ fileutil.FS }

func (f directFS) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	if ext := filepath.Ext(name); ext == ".tmp" || ext == ".wal" {
		flag |= unix.O_DIRECT
	}
	return f.FS.OpenFile(name, flag, perm)
}

func TestAWriterCanWriteDirectly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	tasks := make(chan func(), 10)
	w, err := wal.Create(dir, []byte("meta"), &wal.Options{
		FS: directFS{fileutil.OS{}}, SegmentSize: 40_000, Background: func(task func()) { tasks <- task }})
	if errors.Is(err, unix.EINVAL) {
		t.Skip("SKIPPED: the file system has no direct writes: ", err)
	}
	must(t, err)
	const last = 200
	for i := uint64(1); i <= last; i++ {
		must(t, w.Save(state(1, i-1), entries(1, i, i, int(i*7%5000))))
		for len(tasks) > 0 {
			(<-tasks)()
		}
	}
	must(t, w.Close())
	log, err := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{})
	if err != nil || len(log.Entries) != last {
		t.Errorf("%v, %v", log, err)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*.wal")); len(names) < 3 {
		t.Error(fmt.Sprint("the log was not cut: ", names, err))
	}
}
