package wal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const (
	segment0 = "0000000000000000-0000000000000000.wal"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// entries returns entries of one term, with the indexes from..to. Each has n bytes of data that
// differ from those of the others.
func entries(term, from, to uint64, n int) []walpb.Entry {
	var list []walpb.Entry
	for i := from; i <= to; i++ {
		data := bytes.Repeat([]byte{byte('a' + i%26)}, n)
		copy(data, fmt.Sprintf("%d/%d", term, i))
		list = append(list, walpb.Entry{Term: term, Index: i, Data: data})
	}
	return list
}

// text returns entries as terms and indexes, like "1/1 1/2".
func text(list []walpb.Entry) string {
	var b []string
	for _, e := range list {
		b = append(b, fmt.Sprintf("%d/%d", e.Term, e.Index))
	}
	return strings.Join(b, " ")
}

// state returns a hard state of a term with a commit.
func state(term, commit uint64) walpb.HardState {
	return walpb.HardState{Term: term, Vote: 1, Commit: commit}
}

// create makes a log in a new lab.
func create(t *testing.T, change ...func(*wal.Options)) (*lab, *wal.Writer) {
	t.Helper()
	l := newLab(crashfs.New())
	o := l.options()
	for _, c := range change {
		c(o)
	}
	w, err := wal.Create(labDir, []byte("meta"), o)
	must(t, err)
	t.Cleanup(func() { w.Close() })
	must(t, l.settle())
	return l, w
}

func plain(o *wal.Options) { o.PlainEtcd = true }

// save saves, and makes the spare if one is wanted.
func (l *lab) save(t *testing.T, w *wal.Writer, s walpb.HardState, list []walpb.Entry) {
	t.Helper()
	must(t, w.Save(s, list))
	if n := len(list); n > 0 {
		l.last = list[n-1].Index
	}
	must(t, l.settle())
}

// fill saves entries of 1000 bytes, and commits each of them at once, until the log has n segments.
// It goes on after what the lab saved before, and returns the index of the last entry.
func (l *lab) fill(t *testing.T, w *wal.Writer, n int) (last uint64) {
	t.Helper()
	for len(l.segments()) < n {
		next := l.last + 1
		l.save(t, w, state(1, next), entries(1, next, next, 1000))
	}
	return l.last
}

// threeSegments returns the files of a log with three segments, entries 1 to last, and a snapshot
// record in the last one.
func threeSegments(t *testing.T, change ...func(*wal.Options)) (files map[string][]byte, segments []string, last uint64) {
	t.Helper()
	l, w := create(t, change...)
	last = l.fill(t, w, 3)
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: last - 1, Term: 1}))
	last++
	l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
	must(t, w.Close())
	return l.Tree(), l.segments(), last
}

// replay replays the log of a file system from a snapshot.
func replay(f fileutil.FS, from walpb.Snapshot) (*wal.Log, error) {
	o := &wal.Options{FS: f}
	return wal.Replay(wal.Records(labDir, from.Index, o), from)
}

// check runs Check on the log of a file system.
func check(t *testing.T, f fileutil.FS) *wal.Report {
	t.Helper()
	r, err := wal.Check(labDir, &wal.Options{FS: f})
	must(t, err)
	return r
}

// records returns the records of an undamaged log.
func records(t *testing.T, f fileutil.FS) []wal.Record {
	t.Helper()
	var list []wal.Record
	for r, err := range wal.Records(labDir, 0, &wal.Options{FS: f}) {
		must(t, err)
		r.Data = bytes.Clone(r.Data)
		list = append(list, r)
	}
	return list
}

// names returns the names in a crashfs below labDir, sorted.
func names(f *crashfs.FS) []string {
	var list []string
	for name := range f.Tree() {
		if base, ok := strings.CutPrefix(name, labDir+"/"); ok && base != "" {
			list = append(list, base)
		}
	}
	slices.Sort(list)
	return list
}

// onlyDiffer lists the names at which two trees differ.
func onlyDiffer(a, b map[string][]byte) []string {
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if other, ok := b[name]; !ok || !bytes.Equal(a[name], other) {
			differ = append(differ, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[name]; !ok {
			differ = append(differ, name)
		}
	}
	return differ
}

// tree returns what a directory of the operating system holds: for each name its mode, and of a
// file its size and sum.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		got[name] = info.Mode().String()
		if !e.IsDir() {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			got[name] += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// damage returns a file system in which one file of the log is what edit makes of it.
func damage(f *crashfs.FS, name string, edit func([]byte) []byte) *crashfs.FS {
	all := f.Tree()
	all[labDir+"/"+name] = edit(bytes.Clone(all[labDir+"/"+name]))
	return crashfs.Load(all)
}

// refused fails unless Open says that the log is corrupt, at a place of that segment, naming it,
// and leaves everything as it was.
func refused(t *testing.T, f *crashfs.FS, segment string, offset int64, kinds ...wal.Kind) *wal.CorruptError {
	t.Helper()
	before := f.Tree()
	l := newLab(f)
	w, err := wal.Open(labDir, l.options())
	if err == nil {
		w.Close()
	}
	var corrupt *wal.CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("Open: %v, want a CorruptError in %s at %d", err, segment, offset)
		return nil
	}
	if corrupt.Segment != segment || corrupt.Offset != offset {
		t.Errorf("Open: %v, want %s at %d", err, segment, offset)
	}
	if len(kinds) > 0 && !slices.Contains(kinds, corrupt.Kind) {
		t.Errorf("Open: kind %v, want one of %v", corrupt.Kind, kinds)
	}
	if s := err.Error(); !strings.Contains(s, segment) || !strings.Contains(s, corrupt.Kind.String()) {
		t.Errorf("the text does not name the segment and the reason: %q", s)
	}
	if d := onlyDiffer(before, f.Tree()); len(d) > 0 {
		t.Errorf("Open refused the log and yet changed %v", d)
	}
	l.nothingLeft(t)
	if r := check(t, f); r.Verdict < wal.Corrupt {
		t.Errorf("Check: %v", r.Verdict)
	}
	if _, err := replay(f, walpb.Snapshot{}); !errors.As(err, &corrupt) {
		t.Errorf("Replay: %v, want a CorruptError", err)
	}
	return corrupt
}

// forge returns a segment as an etcd would have written it, with sound checksums around whatever
// the records hold. A record of type CRC keeps the CRC that it has.
func forge(seed uint32, list ...walpb.Record) []byte {
	var b []byte
	chain := seed
	for _, r := range list {
		if r.Type == walpb.TypeCRC {
			chain = r.CRC
		}
		chain = walpb.Checksum(chain, r.Data)
		r.CRC = chain
		body := r.Append(nil)
		word := uint64(len(body))
		pad := -len(body) & 7
		if pad > 0 {
			word |= 1<<63 | uint64(pad)<<56
		}
		b = binary.LittleEndian.AppendUint64(b, word)
		b = append(append(b, body...), make([]byte, pad)...)
	}
	return b
}

// head is what forge needs for the beginning of a log's first segment.
func head() []walpb.Record {
	return []walpb.Record{{Type: walpb.TypeCRC}, {Type: walpb.TypeMetadata, Data: []byte("meta")}, {Type: walpb.TypeSnapshot, Data: (&walpb.Snapshot{}).Append(nil)}}
}
