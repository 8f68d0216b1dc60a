package wal_test

import (
	"bytes"
	"errors"
	"os"
	"path"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const deep = "base/member/wal"

// unsyncedLog is a log of several segments of which nothing is durable, not even its directory.
func unsyncedLog(t *testing.T) *crashfs.FS {
	t.Helper()
	disk := crashfs.New()
	w, err := wal.Create(deep, nil, &wal.Options{FS: disk, SegmentSize: 4096, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(40) {
		if err := w.Save(walpb.HardState{Term: 1, Commit: i}, []walpb.Entry{{Index: i + 1, Term: 1, Data: make([]byte, 300)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

// lasts fails the test unless a log has all of its 40 entries after a power cut.
func lasts(t *testing.T, disk *crashfs.FS) {
	t.Helper()
	after := disk.Crash(crashfs.DropAll)
	w, err := wal.Open(deep, &wal.Options{FS: after, SegmentSize: 4096})
	if err != nil {
		t.Fatalf("after a power cut: %v", err)
	}
	defer w.Close()
	log, err := wal.Replay(wal.Records(deep, 0, &wal.Options{FS: after}), walpb.Snapshot{})
	if err != nil || len(log.Entries) != 40 {
		t.Errorf("after a power cut: %v, %v", log, err)
	}
}

func TestOpenMakesDurableWhatNobodyHasSynced(t *testing.T) {
	disk := unsyncedLog(t)
	w, err := wal.Open(deep, &wal.Options{FS: disk, SegmentSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	lasts(t, disk)
}

func TestRepairMakesDurableWhatNobodyHasSynced(t *testing.T) {
	disk := unsyncedLog(t)
	beginFrame(t, disk)
	plan, err := wal.PlanRepair(deep, &wal.Options{FS: disk})
	if err != nil || plan.Verdict == wal.Clean {
		t.Fatalf("%+v, %v", plan, err)
	}
	if err := plan.Apply(); err != nil {
		t.Fatal(err)
	}
	lasts(t, disk)
}

// beginFrame writes the beginning of a frame behind the end of a log.
func beginFrame(t *testing.T, disk *crashfs.FS) {
	t.Helper()
	names, err := disk.ReadDir(deep)
	if err != nil {
		t.Fatal(err)
	}
	name := path.Join(deep, names[len(names)-1].Name())
	b, err := disk.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(len(bytes.TrimRight(b, "\x00"))+7) / 8 * 8
	f, err := disk.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{100, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}, end); err != nil {
		t.Fatal(err)
	}
}

// What a failed sync could not write can be read until the cache is dropped.
func TestOpenReadsWhatTheDiskHasAlsoWithoutSync(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		disk := crashfs.New()
		w, err := wal.Create(deep, nil, &wal.Options{FS: disk})
		must(t, err)
		must(t, w.Save(state(1, 0), entries(1, 1, 5, 100)))
		disk.SetFault(func(op crashfs.Op) error {
			if op.Kind == crashfs.OpSyncData {
				return syscall.EIO
			}
			return nil
		})
		if err := w.Save(state(1, 0), entries(1, 6, 9, 2000)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		w.Close()
		disk.SetFault(nil)
		o := &wal.Options{FS: disk, NoSync: noSync}
		before, err := wal.Replay(wal.Records(deep, 0, o), walpb.Snapshot{})
		if err != nil || len(before.Entries) != 9 {
			t.Fatalf("what was not written can be read until the cache is dropped: %v, %v", before, err)
		}
		w, err = wal.Open(deep, o)
		must(t, err)
		after, err := wal.Replay(wal.Records(deep, 0, o), walpb.Snapshot{})
		if err != nil || len(after.Entries) != 5 {
			t.Errorf("NoSync %v: %v, %v", noSync, after, err)
		}
		must(t, w.Close())
	}
}
