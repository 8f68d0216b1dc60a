package interop

import (
	order "cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func TestLogsOfEveryWriterMeanWhatEtcdReads(t *testing.T) {
	dirs := testlogs.Writers(t)
	logs, replays, outdated := 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		logs++
		dir := dirs[name]
		report, err := wal.Check(dir, nil)
		if err != nil || report.Verdict != wal.Clean || len(report.Findings) > 0 {
			t.Errorf("%s: Check: %v, %v %+v", name, err, report.Verdict, report.Findings)
			continue
		}
		listed, err := wal.Snapshots(wal.Records(dir, 0, nil))
		if err != nil || len(listed) == 0 {
			t.Errorf("%s: Snapshots: %v, %d of them", name, err, len(listed))
		}
		for _, s := range listed {
			replays++
			got, _, err := ReadOurs(dir, s.Index, s, nil)
			if err != nil {
				t.Errorf("%s: Replay from %d/%d, which is listed: %v", name, s.Term, s.Index, err)
				continue
			}
			want, err := ReadEtcd(dir, s)
			if err != nil {
				t.Errorf("%s: etcd from %d/%d: %v", name, s.Term, s.Index, err)
				continue
			}
			if diff := cmp.Diff(text(want), text(got)); diff != "" {
				t.Errorf("%s: from %d/%d, -etcd +ours\n%s", name, s.Term, s.Index, diff)
			}
		}
		// Where a server of etcd can start, ours can.
		theirs, err := EtcdSnapshots(dir)
		if err != nil {
			t.Errorf("%s: etcd's ValidSnapshotEntries: %v", name, err)
		}
		for _, s := range theirs {
			same := func(l walpb.Snapshot) bool { return l.Index == s.Index && l.Term == s.Term }
			if slices.ContainsFunc(listed, same) {
				continue
			}
			outdated++
			content, err := ReadEtcd(dir, s)
			if err == nil && startable(content.log(s)) {
				t.Errorf("%s: etcd starts from %d/%d, which is not listed: %v, %d entries", name, s.Term, s.Index, err, len(content.Entries))
			}
		}
	}
	t.Logf("%d logs, %d replays; %d snapshot records that etcd lists, too, and cannot start from", logs, replays, outdated)
	if logs != 89 || replays < 300 || outdated == 0 {
		t.Errorf("%d logs, %d replays, %d records that are not listed: the archive is another", logs, replays, outdated)
	}
}

func TestLogsOfEveryWriterGoOn(t *testing.T) {
	for _, plain := range []bool{false, true} {
		dirs := testlogs.Writers(t)
		for _, name := range slices.Sorted(maps.Keys(dirs)) {
			if err := goOn(dirs[name], plain); err != nil {
				t.Errorf("%s, plain=%v: %v", name, plain, err)
			}
		}
	}
}

// goOn opens a log at its newest snapshot, appends an entry, opens it again, and compares with what
// ours and etcd read then.
func goOn(dir string, plain bool) error {
	listed, err := wal.Snapshots(wal.Records(dir, 0, nil))
	if err != nil || len(listed) == 0 {
		return fmt.Errorf("no snapshot: %w", err)
	}
	newest := slices.MaxFunc(listed, func(a, b walpb.Snapshot) int { return order.Compare(a.Index, b.Index) })
	want, _, err := ReadOurs(dir, newest.Index, newest, nil)
	if err != nil {
		return err
	}
	last := newest.Index + uint64(len(want.Entries))
	want.State = walpb.HardState{Term: want.State.Term + 1, Commit: last + 1}
	more := walpb.Entry{Term: want.State.Term, Index: last + 1, Data: []byte("by another writer")}
	want.Entries = append(want.Entries, more)

	w, err := OpenOurs(dir, wal.Options{SegmentSize: 4096, PlainEtcd: plain, FS: NoSync{}})
	if err != nil {
		return err
	}
	if err := errors.Join(w.Save(want.State, []walpb.Entry{more}), w.Reopen(), w.Close()); err != nil {
		return err
	}
	got, _, err := ReadOurs(dir, newest.Index, newest, nil)
	if diff := cmp.Diff(text(want), text(got)); err != nil || diff != "" {
		return fmt.Errorf("ours then, -want +got: %w\n%s", err, diff)
	}
	got, err = openReadAll(dir, newest)
	if diff := cmp.Diff(text(want), text(got)); err != nil || diff != "" {
		return fmt.Errorf("etcd then, -want +got: %w\n%s", err, diff)
	}
	return nil
}

// A crash leaves a log that ends with any of its calls.
func TestNoPrefixOfAWritersLogIsRefusedFromWhichEtcdStarts(t *testing.T) {
	control, err := NewControl()
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	prefixes, refused := 0, 0
	for name, dir := range testlogs.Writers(t) {
		for _, ends := range frameEnds(t, dir) {
			prefixes++
			disk := crashfs.Load(ends.files)
			report, err := wal.Check(flipDir, &wal.Options{FS: disk})
			if err == nil && report.Verdict == wal.Clean {
				continue
			}
			refused++
			if log, _, err := control.Start(disk, flipDir); err == nil && startable(log) {
				t.Errorf("%s, up to %d of %s: ours says %+v, and etcd starts from %d/%d", name, ends.offset, ends.segment, report.Findings, log.Snapshot.Term, log.Snapshot.Index)
			}
		}
	}
	t.Logf("%d prefixes, %d of them owe a snapshot record or entries", prefixes, refused)
	if prefixes < 5000 || refused == 0 || refused > prefixes/20 {
		t.Errorf("%d of %d are refused", refused, prefixes)
	}
}

// startable reports whether raft takes the log: it panics if it has not what is committed.
func startable(log *wal.Log) bool {
	return log.State.Commit <= log.Snapshot.Index+uint64(len(log.Entries))
}

// prefix is a log that ends earlier.
type prefix struct {
	segment string
	offset  int64
	files   map[string][]byte
}

// frameEnds returns the prefixes of a log that end with a record, from the head of its first
// segment on.
func frameEnds(t *testing.T, dir string) (all []prefix) {
	t.Helper()
	const head = 2 // records
	before := map[string][]byte{}
	for _, s := range mustSegments(t, dir) {
		b := make([]byte, s.End)
		f, err := os.Open(filepath.Join(dir, s.Name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = io.ReadFull(f, b); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for i, end := range s.Ends {
			if i < head {
				continue
			}
			files := maps.Clone(before)
			files[path.Join(flipDir, s.Name)] = b[:end]
			all = append(all, prefix{s.Name, end, files})
		}
		before[path.Join(flipDir, s.Name)] = b
	}
	return all
}
