package wal_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Something else than a file under the name of a segment stops Create and every reader, with an
// error that names it, and stays. Nothing opens a pipe, which would wait for its other end.
func TestASegmentsNameOfWhatIsNoFileIsNamed(t *testing.T) {
	for what, put := range map[string]func(name string) error{
		"a directory":                  func(name string) error { return os.MkdirAll(filepath.Join(name, "not ours"), 0o700) },
		"a pipe, a socket or a device": func(name string) error { return syscall.Mkfifo(name, 0o600) },
	} {
		dir := t.TempDir()
		name := filepath.Join(dir, segment0)
		must(t, put(name))
		_, replayed := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{})
		_, checked := wal.Check(dir, nil)
		_, planned := wal.PlanRepair(dir, nil)
		_, created := wal.Create(dir, nil, nil)
		_, opened := wal.Open(dir, nil)
		errs := map[string]error{"Replay": replayed, "Check": checked, "PlanRepair": planned, "Create": created, "Open": opened}
		if what != "a directory" { // which can have any name
			_, errs["Check of it alone"] = wal.Check(name, nil)
		}
		for how, err := range errs {
			if !errors.Is(err, wal.ErrForeign) || !strings.Contains(err.Error(), segment0+": not a segment but "+what) {
				t.Errorf("%s: %v", how, err)
			}
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
			t.Errorf("%v, %v", list, err)
		}
	}
}

func TestDirectoriesWithNamesOfTheLogsOtherFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	theirs := []string{"synced", "1.tmp", segment0 + ".100.torn"}
	for _, name := range theirs {
		must(t, os.MkdirAll(filepath.Join(dir, name, "not ours"), 0o700))
	}
	o := &wal.Options{SegmentSize: 4096}
	w, err := wal.Create(dir, nil, o)
	must(t, err)
	last := uint64(0)
	for range 3 {
		for range 10 {
			last++
			must(t, w.Save(state(1, last-1), entries(1, last, last, 1000)))
		}
		must(t, w.Close())
		w, err = wal.Open(dir, o)
		must(t, err)
	}
	must(t, w.Close())
	if report, err := wal.Check(dir, nil); err != nil || report.Verdict != wal.Clean || report.LastIndex != last || len(report.Segments) < 3 {
		t.Errorf("%+v, %v", report, err)
	}
	for _, name := range theirs {
		if _, err := os.Stat(filepath.Join(dir, name, "not ours")); errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is gone", name)
		}
	}
}

// A pipe under the mark's name is not the log's, and is not opened.
func TestAPipeUnderTheMarksNameIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	w, err := wal.Create(dir, nil, nil)
	must(t, err)
	must(t, w.Close())
	mark := filepath.Join(dir, "synced")
	must(t, os.Remove(mark))
	must(t, syscall.Mkfifo(mark, 0o600))
	r, err := wal.Check(dir, nil)
	if err != nil || r.Verdict != wal.Clean {
		t.Errorf("%+v, %v", r, err)
	}
	w, err = wal.Open(dir, nil)
	must(t, err)
	must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
	must(t, w.Close())
	if info, err := os.Lstat(mark); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		t.Errorf("%v, %v", info, err)
	}
}

// The number of a segment can be the highest there is. No reader looks for the next one for ever.
func TestTheHighestSegmentNumberIsRead(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "ffffffffffffffff-0000000000000001.wal"), nil, 0o600))
	if r, err := wal.Check(dir, nil); err != nil || r.Verdict != wal.Corrupt {
		t.Errorf("%+v, %v", r, err)
	}
}

// An etcd that listed the log and was stopped before it took its locks may hold a segment that was
// the last, when the log has gone on to others.
func TestASegmentThatAnotherProcessHoldsKeepsOpenOut(t *testing.T) {
	dir := t.TempDir()
	o := &wal.Options{SegmentSize: 4096}
	w, err := wal.Create(dir, nil, o)
	must(t, err)
	for i := uint64(1); ; i++ {
		must(t, w.Save(state(1, 0), entries(1, i, i, 1000)))
		if names, err := filepath.Glob(filepath.Join(dir, "*.wal")); err != nil || len(names) > 4 {
			break
		}
	}
	must(t, w.Close())
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	must(t, err)
	for _, name := range names {
		f, err := fileutil.OS{}.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		must(t, f.Lock())
		w, err := wal.Open(dir, o)
		if !errors.Is(err, wal.ErrLocked) {
			t.Errorf("with %s locked: %v", filepath.Base(name), err)
		}
		if err == nil {
			w.Close()
		}
		must(t, f.Close())
	}
	w, err = wal.Open(dir, o)
	must(t, err)
	must(t, w.Close())
}
