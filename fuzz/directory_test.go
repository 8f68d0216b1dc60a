package fuzz_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// unpack makes a directory of any bytes: one byte for the number of segments; for each a byte for
// its sequence number, one for its index and two for its size; and then their content. The last
// segment has what is left.
func unpack(b []byte) map[string][]byte {
	if len(b) == 0 {
		return nil
	}
	n := 1 + int(b[0])%3
	if len(b) < 1+4*n {
		return nil
	}
	files, heads, content := map[string][]byte{}, b[1:1+4*n], b[1+4*n:]
	for i := range n {
		h := heads[4*i:]
		size := min(int(binary.LittleEndian.Uint16(h[2:])), len(content))
		if i == n-1 {
			size = len(content)
		}
		files[fmt.Sprintf("wal/%016x-%016x.wal", h[0], h[1])] = content[:size]
		content = content[size:]
	}
	return files
}

// pack is the inverse of unpack, for up to three segments whose numbers and sizes fit.
func pack(segments []segment) []byte {
	b := []byte{byte(len(segments) - 1)}
	for _, s := range segments {
		b = append(b, byte(s.seq), byte(s.index))
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s.content)))
	}
	for _, s := range segments {
		b = append(b, s.content...)
	}
	return b
}

type segment struct {
	seq, index uint64
	content    []byte
}

// segmentsIn returns the last segments of a directory, as much of each as a seed should have.
func segmentsIn(t testing.TB, files map[string][]byte) (segments []segment) {
	const most = 12 << 10
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var s segment
		if n, err := fmt.Sscanf(path.Base(name), "%016x-%016x.wal", &s.seq, &s.index); n != 2 || err != nil || path.Ext(name) != ".wal" {
			continue
		}
		if s.seq > 255 || s.index > 255 {
			continue
		}
		s.content = files[name][:min(most, len(files[name]))]
		end := len(bytes.TrimRight(s.content, "\x00"))
		s.content = s.content[:min(len(s.content), (end+7)/8*8+64)]
		segments = append(segments, s)
	}
	return segments[max(0, len(segments)-3):]
}

// readDir reads the files of a directory of the system, no more of each than a seed takes.
func readDir(t testing.TB, dir string) map[string][]byte {
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, n := range names {
		f, err := os.Open(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16<<10)
		k, _ := f.ReadAt(b, 0) // a short file is an io.EOF
		f.Close()
		files[n.Name()] = b[:k]
	}
	return files
}

// FuzzDirectory gives any bytes to everything that opens a log.
//
//   - Nothing panics, hangs, or allocates more than in proportion to the files.
//   - What Check says, the others do: what is clean or torn, Open opens; what is corrupt, Open
//     refuses and leaves as it is.
//   - Where Open succeeds the log can be appended to, and nothing that was there before is lost.
//
// Its seeds in testdata are what it found:
//
//   - headless-then-unborn: a first segment of one byte in front of an empty one was taken for a
//     clean end, and appended to.
//   - index-zero: readers began at the last segment whose name has index 0, not at the first, and
//     Open did not.
//   - gap-check-open: after a gap, the record of the empty snapshot made up for the gap, but not
//     for Check.
//   - pending-install: Check calls a snapshot that was installed and never committed the log's last
//     index.
func FuzzDirectory(f *testing.F) {
	add := func(segments []segment) {
		if len(segments) > 0 {
			f.Add(pack(segments))
		}
	}
	etcd := testlogs.Etcd(f, "3.4/small", "3.5/small", "3.7/small", "3.7/kill9")
	for _, name := range slices.Sorted(maps.Keys(etcd)) {
		add(segmentsIn(f, readDir(f, filepath.Join(etcd[name], "member", "wal"))))
	}
	defects := testlogs.Defects(f)
	for _, name := range slices.Sorted(maps.Keys(defects)) {
		add(segmentsIn(f, readDir(f, defects[name])))
	}
	for _, plain := range []bool{false, true} {
		disk := crashfs.New()
		writeSeed(f, disk, plain)
		add(segmentsIn(f, disk.Tree()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		files := unpack(b)
		if len(files) == 0 || len(b) > 1<<20 {
			t.Skip()
		}
		began, before := time.Now(), allocated()
		attack(t, files)
		if n, limit := allocated()-before, uint64(64*len(b)+64<<20); n > limit {
			t.Errorf("%d bytes allocated for %d, more than %d", n, len(b), limit)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func attack(t *testing.T, files map[string][]byte) {
	disk := crashfs.Load(files)
	o := &wal.Options{FS: disk, SegmentSize: 4096}
	before, bad := readAll(disk)
	report, err := wal.Check("wal", o)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	if plan, err := wal.PlanRepair("wal", o); err != nil != (report.Verdict >= wal.Corrupt) {
		t.Errorf("Check says %v, PlanRepair %+v, %v", report.Verdict, plan, err)
	}
	if snapshots, err := wal.Snapshots(wal.Records("wal", 0, o)); err == nil {
		// Not all: each reads the log once more.
		for _, s := range snapshots[max(0, len(snapshots)-8):] {
			_, _ = wal.Replay(wal.Records("wal", s.Index, o), s) // without a panic
		}
	}
	log, err := wal.Replay(wal.Records("wal", 0, o), walpb.Snapshot{})
	if err == nil && report.Verdict >= wal.Corrupt {
		t.Errorf("Replay takes a log of which Check says %v: %+v", report.Verdict, report.Findings)
	}
	if err == nil && bad {
		t.Errorf("Replay takes a log that Records refuses: %+v", log)
	}
	if !maps.EqualFunc(disk.Tree(), crashfs.Load(files).Tree(), bytes.Equal) {
		t.Fatal("a reader has changed the log")
	}

	w, err := wal.Open("wal", o)
	if err != nil {
		if report.Verdict < wal.Corrupt {
			t.Errorf("Check says %v, Open %v", report.Verdict, err)
		}
		if !maps.EqualFunc(disk.Tree(), crashfs.Load(files).Tree(), bytes.Equal) {
			t.Error("Open has changed a log that it refuses")
		}
		return
	}
	if report.Verdict >= wal.Corrupt {
		w.Close()
		t.Fatalf("Check says %v, but Open succeeds: %+v", report.Verdict, report.Findings)
	}
	appendOne(t, w, disk, report, before)
}

// appendOne appends an entry to a log that was opened, and opens it again.
func appendOne(t *testing.T, w *wal.Writer, disk *crashfs.FS, report *wal.Report, before [][]byte) {
	last, term := lastEntry(disk, report)
	if last == math.MaxUint64 {
		w.Close()
		return
	}
	e := walpb.Entry{Index: last + 1, Term: term, Data: []byte("one more")}
	if err := w.Save(walpb.HardState{}, []walpb.Entry{e}); err != nil {
		w.Close()
		t.Fatalf("save %d/%d: %v", e.Term, e.Index, err)
	}
	if err := w.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	w, err := wal.Open("wal", &wal.Options{FS: disk, SegmentSize: 4096})
	if err != nil {
		t.Fatalf("open again: %v", err)
	}
	w.Close()
	after, bad := readAll(disk)
	want := append(slices.Clip(before), append([]byte{byte(walpb.TypeEntry)}, e.Append(nil)...))
	if bad || !slices.EqualFunc(after, want, bytes.Equal) {
		t.Fatalf("%d records after one more was saved, not %d, corrupt %v", len(after), len(want), bad)
	}
}

// lastEntry returns the index of the last entry that stands, and a term that may follow.
func lastEntry(disk *crashfs.FS, report *wal.Report) (index, term uint64) {
	index, term = report.LastIndex, max(report.LastTerm, report.State.Term)
	o := &wal.Options{FS: disk}
	snapshots, err := wal.Snapshots(wal.Records("wal", 0, o))
	if err != nil || len(snapshots) == 0 {
		return index, term
	}
	s, _ := wal.Newest(snapshots)
	log, err := wal.Replay(wal.Records("wal", 0, o), s)
	if err != nil {
		return index, term
	}
	index, term = s.Index, max(s.Term, term)
	if n := len(log.Entries); n > 0 {
		index, term = log.Entries[n-1].Index, max(log.Entries[n-1].Term, term)
	}
	return index, term
}

// readAll returns the records of a log after its last gap, except checksums and repeated hard
// states. bad reports whether it ends in an error.
func readAll(disk *crashfs.FS) (records [][]byte, bad bool) {
	var state []byte
	for r, err := range wal.Records("wal", 0, &wal.Options{FS: disk}) {
		var c *wal.CorruptError
		if errors.As(err, &c) && c.Kind == wal.MissingSegment {
			records, state = nil, nil
			continue
		}
		if err != nil {
			return records, true
		}
		b := append([]byte{byte(r.Type)}, r.Data...)
		switch r.Type {
		case walpb.TypeCRC:
			continue
		case walpb.TypeState:
			if bytes.Equal(b, state) {
				continue
			}
			state = b
		case walpb.TypeMetadata:
			continue
		}
		records = append(records, b)
	}
	return records, false
}

// writeSeed writes a log of ours: two segments or three, with everything that a log can hold.
func writeSeed(t testing.TB, disk *crashfs.FS, plain bool) {
	var background harness.Queue
	w, err := wal.Create("wal", []byte("metadata"), &wal.Options{FS: disk, SegmentSize: 2048, PlainEtcd: plain, Background: background.Add})
	if err != nil {
		t.Fatal(err)
	}
	background.Run()
	for i := uint64(1); i <= 30; i++ {
		if err := w.Save(walpb.HardState{Term: 1 + i/10, Vote: 1, Commit: i - 1}, []walpb.Entry{{Index: i, Term: 1 + i/10, Data: make([]byte, i*7)}}); err != nil {
			t.Fatal(err)
		}
		if i%10 == 5 {
			if err := w.SaveSnapshot(walpb.Snapshot{Index: i - 1, Term: 1 + (i-1)/10, ConfState: []byte{8, 1}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.SaveSnapshot(walpb.Snapshot{Index: 40, Term: 9, ConfState: []byte{8, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Save(walpb.HardState{Term: 9, Commit: 40}, []walpb.Entry{{Index: 41, Term: 9}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
