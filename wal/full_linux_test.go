package wal_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// fullDisk mounts a file system of 8 MiB for a log. fill takes what is left of it.
func fullDisk(t *testing.T) (dir string, fill func()) {
	m := t.TempDir()
	if err := unix.Mount("none", m, "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("SKIPPED: to mount a small file system needs root: ", err)
	}
	t.Cleanup(func() { unix.Unmount(m, unix.MNT_DETACH) })
	return filepath.Join(m, "wal"), func() {
		f, err := os.OpenFile(filepath.Join(m, "ballast"), os.O_CREATE|os.O_WRONLY, 0o600)
		must(t, err)
		for off := int64(0); err == nil; off += 4096 {
			_, err = f.WriteAt(make([]byte, 4096), off)
		}
		must(t, f.Close())
	}
}

// What tmpfs reserves is there for the log when everything else is gone, and after a restart it is
// still a log.
func TestOnARealFullDiskTheSpareIsFilled(t *testing.T) {
	dir, fill := fullDisk(t)
	spare := make(chan error, 100)
	o := &wal.Options{SegmentSize: 1 << 20, Observer: wal.Observer{Spare: func(err error) { spare <- err }}}
	w, err := wal.Create(dir, nil, o)
	must(t, err)
	must(t, <-spare)
	fill()
	last := uint64(0)
	save := func() error {
		err := w.Save(state(1, last), entries(1, last+1, last+1, 3000))
		if err == nil {
			last++
		}
		return err
	}
	for err == nil {
		err = save()
	}
	if !errors.Is(err, wal.ErrNoSpace) || last < 650 {
		t.Errorf("%d entries of 3000 bytes fitted into two reserved segments of 1 MiB, then: %v", last, err)
	}
	must(t, w.Close())
	w, err = wal.Open(dir, o)
	must(t, err)
	if err := save(); !errors.Is(err, wal.ErrNoSpace) {
		t.Errorf("after a restart: %v", err)
	}
	must(t, os.Remove(filepath.Join(filepath.Dir(dir), "ballast")))
	for range 400 {
		must(t, save())
	}
	must(t, w.Close())
	log, err := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{})
	if err != nil || uint64(len(log.Entries)) != last {
		t.Errorf("%v", err)
	}
}
