// Package testlogs hands real and damaged logs to tests: what etcd servers wrote, what an
// independent reader found in it, and small logs that were damaged on purpose.
//
// It is for tests only; no package that ships imports it. The logs are part of the package, so
// it works from any directory and from any module of this repository. The README in the
// directory above says where each log came from.
//
// Every function fails the test that calls it instead of returning an error, and may be called
// by several tests at once: each caller gets his own copies, below his own t.TempDir.
package testlogs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

//go:embed etcd/*.tar.gz
var etcdArchives embed.FS

//go:embed defects.tar.gz
var defectsArchive []byte

//go:embed writers.tar.gz
var writersArchive []byte

// Behaviour is what etcd 3.7.3 did with each of the logs that Defects returns, as text: a line
// "## " with the log's name, then what each of etcd's functions returned.
//
//go:embed etcd-3.7.3-behaviour.txt
var Behaviour string

// Etcd unpacks data directories that etcd servers wrote and returns, for each, where it is. The
// names are an etcd version and what was done with it: "3.4/cut", "3.4/small", "3.5/small",
// "3.7/kill9", "3.7/small". With no names it unpacks all of them, which takes a fraction of a
// second and 72 MB of disk, nearly all of it for 3.4/cut; the others take a few pages each. A name
// that does not exist fails the test.
//
// The log is in member/wal below the directory, the snapshot files are in member/snap, and Rows
// returns the records of the log. The segments are sparse: 64 MB long, with holes after the last
// record. etcd's key-value database is left out, so an etcd server will not start from it.
func Etcd(t testing.TB, names ...string) map[string]string {
	t.Helper()
	archives, err := fs.Glob(etcdArchives, "etcd/*.tar.gz")
	if err != nil {
		t.Fatalf("testlogs: %v", err)
	}
	byName := map[string]string{} // "3.7/small" is packed in etcd/3.7-small.tar.gz
	for _, a := range archives {
		name := strings.TrimSuffix(path.Base(a), ".tar.gz")
		byName[strings.Replace(name, "-", "/", 1)] = a
	}

	into := t.TempDir()
	dirs := map[string]string{}
	for _, name := range choose(t, byName, names) {
		packed, err := etcdArchives.ReadFile(byName[name])
		if err != nil {
			t.Fatalf("testlogs: %v", err)
		}
		unpack(t, packed, into, []string{name})
		dirs[name] = filepath.Join(into, filepath.FromSlash(name))
	}
	return dirs
}

// Defects unpacks the small logs that were made and damaged by hand and returns, for each, the
// directory that holds its segments. A name is a number and what is wrong, such as
// "20-zero-length-word-midlog"; the two that begin with 0 are undamaged. With no names it unpacks
// all of them. A name that does not exist fails the test.
func Defects(t testing.TB, names ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(Behaviour) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			name, _, _ := strings.Cut(title, " ")
			all[name] = name
		}
	}
	into := t.TempDir()
	names = choose(t, all, names)
	unpack(t, defectsArchive, into, names)
	dirs := map[string]string{}
	for _, name := range names {
		dirs[name] = filepath.Join(into, name)
	}
	return dirs
}

// Writers unpacks whole logs, one of each program that writes the format and of each of its tools,
// and returns, for each, the directory that holds its segments. A name says who wrote it and what
// happened, such as "etcd/3.3.20/lagged"; the README in the directory above says what each is. With
// no names it unpacks all of them, which takes some 2 MB of disk. A name that does not exist fails
// the test.
//
// Nothing is wrong with any of them, though etcd up to 3.4.7, raftexample and fabric record a
// snapshot after they commit it.
func Writers(t testing.TB, names ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for header := range files(t, writersArchive) {
		if path.Ext(header.Name) == ".wal" {
			all[path.Dir(header.Name)] = ""
		}
	}
	into := t.TempDir()
	names = choose(t, all, names)
	unpack(t, writersArchive, into, names)
	dirs := map[string]string{}
	for _, name := range names {
		dirs[name] = filepath.Join(into, filepath.FromSlash(name))
	}
	return dirs
}

// A Row is one record as an independent reader, which shares no code with this repository, found
// it in a log that etcd wrote. Fields that its type does not have are zero.
type Row struct {
	Segment string // file name of the segment
	Offset  int64  // of the frame in the segment, in bytes
	Len     int    // of the record, in bytes, without the length word before it
	Pad     int    // bytes of padding after the record
	Type    string // "crc", "metadata", "entry", "state" or "snapshot"
	CRC     uint32 // the checksum that the record states; the reader found it right

	Term   uint64 // of an entry, a state or a snapshot
	Index  uint64 // of an entry or a snapshot
	Vote   uint64 // of a state
	Commit uint64 // of a state

	EntryType    uint64 // 0 normal, 1 and 2 configuration changes
	HasEntryType bool   // the field is in the file, as etcd before 3.7 wrote it even when 0
	HasData      bool   // an entry has data, of DataLen bytes
	DataLen      int    // bytes
	DataPrefix   []byte // the first bytes of the data; all of them if DataLen is at most 24

	ConfState []byte // of a snapshot, encoded; nil before etcd 3.5 and in a log's first snapshot

	NodeID, ClusterID uint64 // of the metadata, as etcd fills it
}

// A Segment is what the independent reader found about one file of a log.
type Segment struct {
	Name string
	Size int64 // length of the file, in bytes
	End  int64 // offset after the last frame; from there to Size there are only zeros
}

// Rows returns the records of a log that Etcd unpacked, in order. The argument is what Etcd
// returned for it, not the directory of its segments.
func Rows(t testing.TB, dir string) []Row {
	t.Helper()
	rows, _ := readDump(t, dir)
	return rows
}

// Segments returns the segments of a log that Etcd unpacked, in order. The argument is what Etcd
// returned for it.
func Segments(t testing.TB, dir string) []Segment {
	t.Helper()
	_, segments := readDump(t, dir)
	return segments
}

// choose returns the names that were asked for, or all that there are.
func choose(t testing.TB, all map[string]string, names []string) []string {
	t.Helper()
	known := slices.Sorted(maps.Keys(all))
	if len(names) == 0 {
		return known
	}
	for _, name := range names {
		if _, ok := all[name]; !ok {
			t.Fatalf("testlogs: no log is named %q; there are %q", name, known)
		}
	}
	return names
}

// unpack writes those files of an archive that lie below one of the directories names.
func unpack(t testing.TB, packed []byte, into string, names []string) {
	t.Helper()
	root, err := os.OpenRoot(into) // nothing in the archive reaches outside
	if err != nil {
		t.Fatalf("testlogs: %v", err)
	}
	defer root.Close()
	for header, content := range files(t, packed) {
		if !slices.ContainsFunc(names, func(name string) bool {
			return strings.HasPrefix(header.Name, name+"/")
		}) {
			continue
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(path.Clean(header.Name), 0o700)
		case tar.TypeReg, tar.TypeGNUSparse:
			err = unpackFile(root, header.Name, header.Size, content)
		default:
			err = fmt.Errorf("%s: unexpected type %q", header.Name, header.Typeflag)
		}
		if err != nil {
			t.Fatalf("testlogs: %v", err)
		}
	}
}

// files yields what an archive holds, in its order.
func files(t testing.TB, packed []byte) iter.Seq2[*tar.Header, io.Reader] {
	return func(yield func(*tar.Header, io.Reader) bool) {
		unzipped, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatalf("testlogs: %v", err)
		}
		archive := tar.NewReader(unzipped)
		for {
			header, err := archive.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("testlogs: %v", err)
			}
			if !yield(header, archive) {
				return
			}
		}
	}
}

// unpackFile makes holes of the blocks that are all zero, as etcd's preallocated segments would
// otherwise take 64 MB of disk each. Whether they come as holes or zeros out of the archive makes
// no difference here.
func unpackFile(root *os.Root, name string, size int64, from io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = writeSparse(f, size, from)
	return errors.Join(err, f.Close())
}

func writeSparse(f *os.File, size int64, from io.Reader) error {
	const block = 4096 // what file systems allocate at least
	zeros := make([]byte, block)
	buf := make([]byte, 64*block)
	for off := int64(0); off < size; {
		n, err := io.ReadFull(from, buf[:min(int64(len(buf)), size-off)])
		if err != nil {
			return err
		}
		for at := 0; at < n; at += block {
			b := buf[at:min(at+block, n)]
			if bytes.Equal(b, zeros[:len(b)]) {
				continue
			}
			if _, err := f.WriteAt(b, off+int64(at)); err != nil {
				return err
			}
		}
		off += int64(n)
	}
	return f.Truncate(size) // a hole at the end has no block that would make the file as long
}

// readDump parses the text that lies beside each of etcd's logs:
//
//	FILE 0000000000000000-0000000000000000.wal size=64000000
//	  @80        rec=110     pad=2 ENTRY    crc=40421100 ok Type(1)=1 Term(2)=1 Index(3)=1 Data(4)=[92]08001000..
//	  END @5216, tail=63994784 bytes, nonzero in tail=0
//	BAD 0
//
// It is strict: a line that it does not understand in full fails the test.
func readDump(t testing.TB, dir string) (rows []Row, segments []Segment) {
	t.Helper()
	const file = "waldump.txt"
	f, err := os.Open(filepath.Join(dir, file))
	if err != nil {
		t.Fatalf("testlogs: %v", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "FILE "):
			var s Segment
			_, err = fmt.Sscanf(line, "FILE %s size=%d", &s.Name, &s.Size)
			segments = append(segments, s)
		case line == "BAD 0":
			return rows, segments
		case len(segments) == 0:
			err = errors.New("a record before the first segment")
		case strings.HasPrefix(line, "  END "):
			s := &segments[len(segments)-1]
			var tail, nonzero int64
			_, err = fmt.Sscanf(line, "  END @%d, tail=%d bytes, nonzero in tail=%d", &s.End, &tail, &nonzero)
			if err == nil && (s.End+tail != s.Size || nonzero != 0) {
				err = errors.New("the end does not fit the size")
			}
		default:
			var r Row
			r, err = parseRow(line)
			r.Segment = segments[len(segments)-1].Name
			rows = append(rows, r)
		}
		if err != nil {
			t.Fatalf("testlogs: %s: line %d: %v: %q", file, n, err, line)
		}
	}
	t.Fatalf("testlogs: %s: ends without its last line: %v", file, lines.Err())
	return nil, nil
}

func parseRow(line string) (r Row, err error) {
	words := strings.Fields(line)
	if len(words) < 6 || words[5] != "ok" {
		return r, errors.New("not a good record")
	}
	_, err = fmt.Sscanf(strings.Join(words[:5], " "), "@%d rec=%d pad=%d %s crc=%x", &r.Offset, &r.Len, &r.Pad, &r.Type, &r.CRC)
	if err != nil {
		return r, err
	}
	r.Type = strings.ToLower(r.Type)
	for _, word := range words[6:] {
		name, value, _ := strings.Cut(word, "=")
		if err := r.set(r.Type+" "+name, value); err != nil {
			return r, fmt.Errorf("%s: %w", word, err)
		}
	}
	return r, nil
}

// set takes one field of a message, named as the dump names it: name(number).
func (r *Row) set(field, value string) (err error) {
	number := func() (n uint64) {
		n, err = strconv.ParseUint(value, 10, 64)
		return n
	}
	switch field {
	case "metadata NodeID(1)":
		r.NodeID = number()
	case "metadata ClusterID(2)":
		r.ClusterID = number()
	case "entry Type(1)":
		r.EntryType, r.HasEntryType = number(), true
	case "entry Term(2)", "state term(1)", "snapshot term(2)":
		r.Term = number()
	case "entry Index(3)", "snapshot index(1)":
		r.Index = number()
	case "entry Data(4)":
		r.HasData = true
		r.DataLen, r.DataPrefix, err = parseBytes(value)
	case "state vote(2)":
		r.Vote = number()
	case "state commit(3)":
		r.Commit = number()
	case "snapshot conf_state(3)":
		_, r.ConfState, err = parseBytes(value)
	default:
		return errors.New("unknown field")
	}
	return err
}

// parseBytes takes "[12]08c0..", a length and the first bytes; two dots say that there are more.
func parseBytes(value string) (length int, prefix []byte, err error) {
	count, digits, ok := strings.Cut(strings.TrimPrefix(value, "["), "]")
	if !ok {
		return 0, nil, errors.New("no length")
	}
	if length, err = strconv.Atoi(count); err != nil {
		return 0, nil, err
	}
	digits, cut := strings.CutSuffix(digits, "..")
	if prefix, err = hex.DecodeString(digits); err != nil {
		return 0, nil, err
	}
	if cut != (len(prefix) < length) {
		return 0, nil, errors.New("the bytes do not fit the length")
	}
	return length, prefix, nil
}
