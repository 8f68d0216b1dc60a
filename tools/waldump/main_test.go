package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// defects is what each of the damaged logs is, by the table of verdicts: the exit code of every
// command.
var defects = map[string]int{
	"00-good-small":                     exitClean,
	"01-good-multiseg":                  exitClean,
	"10-resurrect-local-snapshot-22442": exitClean,
	"12-snapshot-never-recorded":        exitClean,
	"20-zero-length-word-midlog":        exitCorrupt,
	"23-payload-bitflip-midlog":         exitCorrupt,
	"25-zeroed-sector-midlog":           exitCorrupt,
	"30-type-entry-to-state":            exitCorrupt,
	"34-type-entry-to-7":                exitCorrupt,
	"50-torn-tail-short-file":           exitTorn,
	"51-torn-tail-zero-sector":          exitTorn,
	"60-stale-tmp-first-crash":          exitClean,
	"61-stale-tmp-second-crash":         exitTorn,
}

func call(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, &out, &errs)
	return code, out.String(), errs.String()
}

// line is what dump -o ndjson prints, as somebody else would decode it.
type line struct {
	Segment   string
	Offset    int64
	Size      int
	Type      string
	CRC       string
	Term      uint64
	Index     uint64
	Kind      string
	Vote      string
	Commit    uint64
	Data      *[]byte
	ConfState *[]byte `json:"conf_state"`
	HeaderCRC string  `json:"header_crc"`
	SyncedTo  uint64  `json:"synced_to"`
	Error     string
}

func lines(t *testing.T, text string) (all []line) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	for {
		var l line
		err := d.Decode(&l)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("after %d lines: %v", len(all), err)
		}
		all = append(all, l)
	}
}

func TestDumpFindsWhatTheIndependentReaderFound(t *testing.T) {
	kinds := []string{"normal", "confchange", "confchangev2"}
	for name, dir := range testlogs.Etcd(t) {
		t.Run(name, func(t *testing.T) {
			code, out, errs := call("dump", "-o", "ndjson", dir)
			if code != exitClean || errs != "" {
				t.Fatalf("exit %d: %s", code, errs)
			}
			got, rows := lines(t, out), testlogs.Rows(t, dir)
			if len(got) != len(rows) {
				t.Fatalf("%d records, the reader found %d", len(got), len(rows))
			}
			for i, row := range rows {
				l := got[i]
				want := line{Segment: row.Segment, Offset: row.Offset, Size: 8 + row.Len + row.Pad, Type: row.Type, CRC: fmt.Sprintf("%08x", row.CRC),
					Term: row.Term, Index: row.Index, Commit: row.Commit, Data: l.Data, ConfState: l.ConfState}
				switch row.Type {
				case "state":
					want.Vote = fmt.Sprintf("%x", row.Vote)
				case "entry":
					want.Kind = kinds[row.EntryType]
					if (l.Data != nil) != row.HasData || l.Data != nil && (len(*l.Data) != row.DataLen || !bytes.HasPrefix(*l.Data, row.DataPrefix)) {
						t.Errorf("row %d: data %v, want %d bytes from %x", i, l.Data, row.DataLen, row.DataPrefix)
					}
				case "snapshot":
					if (l.ConfState != nil) != (row.ConfState != nil) || l.ConfState != nil && !bytes.Equal(*l.ConfState, row.ConfState) {
						t.Errorf("row %d: conf_state %v, want %x", i, l.ConfState, row.ConfState)
					}
				case "metadata":
					if node, cluster, ok := etcdMember(*l.Data); !ok || node != row.NodeID || cluster != row.ClusterID {
						t.Errorf("row %d: member %d, cluster %d, want %d, %d", i, node, cluster, row.NodeID, row.ClusterID)
					}
				}
				if l != want {
					t.Errorf("row %d: got %+v, want %+v", i, l, want)
				}
			}
		})
	}
}

func TestRealLogsAreClean(t *testing.T) {
	for name, dir := range testlogs.Etcd(t) {
		archive := filepath.Join(repository(t), "testdata", "testlogs", "etcd", strings.ReplaceAll(name, "/", "-")+".tar.gz")
		segment := filepath.Join(dir, "member", "wal", "0000000000000000-0000000000000000.wal")
		for _, path := range []string{dir, filepath.Join(dir, "member"), filepath.Join(dir, "member", "wal"), segment, archive} {
			for _, command := range []string{"verify", "info", "dump"} {
				if code, _, errs := call(command, path); code != exitClean || errs != "" {
					t.Errorf("%s %s: exit %d: %s", command, path, code, errs)
				}
			}
		}
	}
}

func TestEveryCommandHasTheExitCodeOfTheVerdict(t *testing.T) {
	for name, dir := range testlogs.Defects(t) {
		want, ok := defects[name]
		if !ok {
			t.Errorf("%s: no exit code is stated for it", name)
			continue
		}
		before := digest(t, dir)
		for _, args := range [][]string{{"verify"}, {"verify", "-o", "json"}, {"dump"}, {"dump", "-o", "ndjson"}, {"info"}, {"info", "-o", "json"}, {"repair"}} {
			code, out, errs := call(append(args, dir)...)
			if code != want {
				t.Errorf("%s %v: exit %d, want %d: %s", name, args, code, want, errs)
			}
			if args[0] == "verify" && len(args) == 1 && want != exitClean && !strings.Contains(out, "\n  next: ") {
				t.Errorf("%s: verify does not say what to do next: %s", name, out)
			}
			if args[0] == "dump" && want != exitClean && (!strings.Contains(errs, "offset ") || !strings.Contains(errs, "\nnext: ")) {
				t.Errorf("%s %v: no place or no next step: %s", name, args, errs)
			}
		}
		if digest(t, dir) != before {
			t.Errorf("%s: something was written", name)
		}
	}
}

func TestDumpGoesOnBehindDamage(t *testing.T) {
	dir := testlogs.Defects(t, "23-payload-bitflip-midlog")["23-payload-bitflip-midlog"]
	code, out, errs := call("dump", dir)
	if code != exitCorrupt {
		t.Errorf("exit %d: %s", code, errs)
	}
	finding := strings.Index(out, "!!    1376  corrupt: checksum mismatch")
	before, behind := strings.Index(out, "\n      1352  "), strings.Index(out, "\n      2008  ")
	if before < 0 || finding < before || behind < finding {
		t.Errorf("the finding is at %d, the records around it at %d and %d:\n%s", finding, before, behind, out)
	}
	_, out, errs = call("dump", "-o", "ndjson", dir)
	if all := lines(t, out); len(all) != 14 || all[13].Index != 0 || all[13].Commit != 5 {
		t.Errorf("ndjson: %d records, want 14: %+v", len(all), all)
	}
	if !strings.Contains(errs, "offset 1376: corrupt: checksum mismatch") {
		t.Errorf("ndjson does not tell of the finding: %s", errs)
	}
}

var update = flag.Bool("update", false, "write what dump, verify and info print to testdata/golden")

func TestTextIsAsItWas(t *testing.T) {
	root := filepath.Join(repository(t), "testdata", "testlogs")
	logs := map[string]string{
		"etcd-3.7-small": filepath.Join(root, "etcd", "3.7-small.tar.gz"),
		"etcd-3.4-small": filepath.Join(root, "etcd", "3.4-small.tar.gz"),
	}
	for name := range defects {
		logs[name] = filepath.Join(root, "defects.tar.gz", name)
	}
	for name, path := range logs {
		for _, command := range []string{"dump", "verify", "info", "repair"} {
			_, out, errs := call(command, path)
			got := strings.ReplaceAll(out+errs, root, "TESTLOGS")
			golden := filepath.Join("testdata", "golden", name+"."+command+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != strings.ReplaceAll(string(want), "\r\n", "\n") {
				t.Errorf("%s differs from %s (run with -update if it should):\n%s", command, golden, got)
			}
		}
	}
}

func TestFilters(t *testing.T) {
	dir := testlogs.Defects(t, "10-resurrect-local-snapshot-22442")["10-resurrect-local-snapshot-22442"]
	tests := []struct {
		args []string
		want string // type and term/index of what remains
	}{
		{[]string{"--type", "entry", "--live"}, "entry 1/1, entry 1/2, entry 2/3, entry 2/4"},
		{[]string{"--type", "entry", "--term", "1"}, "entry 1/1, entry 1/2, entry 1/3, entry 1/4, entry 1/5"},
		{[]string{"--from", "4"}, "entry 1/4, entry 1/5, entry 2/4, snapshot 2/4"},
		{[]string{"--from", "2", "--to", "3", "--live"}, "entry 1/2, entry 2/3"},
		{[]string{"--to", "0"}, "snapshot 0/0"},
		{[]string{"--term", "2", "--type", "state,snapshot"}, "state 2/0, snapshot 2/4"},
		{[]string{"--segment", "0000000000000001"}, ""},
		{[]string{"--segment", "0000000000000000", "--type", "crc"}, "crc 0/0"},
	}
	for _, test := range tests {
		code, out, errs := call(append([]string{"dump", "-o", "ndjson", dir}, test.args...)...)
		var got []string
		for _, l := range lines(t, out) {
			got = append(got, fmt.Sprintf("%s %d/%d", l.Type, l.Term, l.Index))
		}
		if code != exitClean || strings.Join(got, ", ") != test.want {
			t.Errorf("%v: exit %d: got %s, want %s: %s", test.args, code, strings.Join(got, ", "), test.want, errs)
		}
	}
	if _, out, _ := call("dump", dir); strings.Count(out, "[overwritten]") != 3 {
		t.Errorf("the text does not mark the three entries that were overwritten:\n%s", out)
	}
}

// An entry is void if any later one has its index or a lower one, and only then.
func TestOverwritesAreThoseOfTheRule(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		dir := filepath.Join(t.TempDir(), "log")
		w, err := wal.Create(dir, nil, &wal.Options{NoSync: true, SegmentSize: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		var written []uint64
		last := uint64(0)
		for term := uint64(1); term <= 6; term++ {
			index := 1 + r.Uint64N(last+1)
			for range 1 + r.IntN(5) {
				if err := w.Save(walpb.HardState{Term: term}, []walpb.Entry{{Term: term, Index: index}}); err != nil {
					t.Fatal(err)
				}
				written, last = append(written, index), index
				index++
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var want, got []uint64
		for i, index := range written {
			if !slices.ContainsFunc(written[i+1:], func(later uint64) bool { return later <= index }) {
				want = append(want, index)
			}
		}
		code, out, errs := call("dump", "-o", "ndjson", "--live", "--type", "entry", dir)
		for _, l := range lines(t, out) {
			got = append(got, l.Index)
		}
		if code != exitClean || !slices.Equal(got, want) {
			t.Fatalf("written %v: exit %d, got %v, want %v: %s", written, code, got, want, errs)
		}
	}
}

func TestNoDataIsNotEmptyData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w, err := wal.Create(dir, nil, &wal.Options{SegmentSize: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Save(walpb.HardState{Term: 1}, []walpb.Entry{{Term: 1, Index: 1}, {Term: 1, Index: 2, Data: []byte{}}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, errs := call("dump", "-o", "ndjson", "--type", "entry", dir)
	if all := lines(t, out); code != exitClean || len(all) != 2 || all[0].Data != nil || all[1].Data == nil {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestRecordsOfSteleCarryTheirWitnesses(t *testing.T) {
	dir := ours(t, nil)
	code, out, errs := call("dump", "-o", "ndjson", dir)
	if code != exitClean {
		t.Fatalf("exit %d: %s", code, errs)
	}
	all := lines(t, out)
	var claims int
	i := 0
	for r, err := range wal.Records(dir, 0, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if l := all[i]; l.HeaderCRC != fmt.Sprintf("%08x", r.HeaderCRC) || l.SyncedTo != r.SyncedTo {
			t.Errorf("record at %d: header_crc %s, synced_to %d, want %08x, %d", r.Offset, l.HeaderCRC, l.SyncedTo, r.HeaderCRC, r.SyncedTo)
		}
		if r.SyncedTo > 0 {
			claims++
		}
		i++
	}
	if i != len(all) || claims == 0 {
		t.Errorf("%d records, dump has %d, %d claims", i, len(all), claims)
	}
	if _, out, _ := call("info", dir); !strings.Contains(out, "written by  stele\n") {
		t.Errorf("info does not say who wrote it:\n%s", out)
	}
}

// Each of these is refused or reported with a sentence that names the trouble and one that says
// what to do, and nothing on disk changes.
func TestBadInputIsNamed(t *testing.T) {
	const first = "0000000000000000-0000000000000000.wal"
	segments := func(t *testing.T, name string) string { return testlogs.Defects(t, name)[name] }
	noise := make([]byte, 5000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	tests := []struct {
		name string
		make func(t *testing.T) string
		code int
		says string
	}{
		{"no such path", func(t *testing.T) string { return filepath.Join(t.TempDir(), "nowhere") }, exitFailed, "nowhere"},
		{"an empty directory", func(t *testing.T) string { return t.TempDir() }, exitFailed, "no log here"},
		{"a directory that is no log", func(t *testing.T) string { return file(t, t.TempDir(), "readme.txt", []byte("hello")) }, exitFailed, "no log here"},
		{"a file that is no segment", func(t *testing.T) string { return filepath.Join(file(t, t.TempDir(), "notes", noise), "notes") }, exitFailed, "not a segment's name"},
		{"random bytes under a segment's name", func(t *testing.T) string { return filepath.Join(file(t, t.TempDir(), first, noise), first) }, exitCorrupt, "offset 0: corrupt"},
		{"an empty segment", func(t *testing.T) string { return file(t, t.TempDir(), first, nil) }, exitCorrupt, "offset 0: corrupt"},
		{"a length of 2^56-1 at the beginning", func(t *testing.T) string {
			return file(t, t.TempDir(), first, []byte("\xff\xff\xff\xff\xff\xff\xff\x00\x08\x04\x10\x00"))
		}, exitCorrupt, "a record of 72057594037927935 bytes, but the file ends after"},
		{"a length of 2^56-1 in the middle", func(t *testing.T) string {
			dir := segments(t, "00-good-small")
			b := read(t, filepath.Join(dir, first))
			copy(b[64:], "\xff\xff\xff\xff\xff\xff\xff\x80")
			return file(t, dir, first, b)
		}, exitCorrupt, "offset 64: corrupt"},
		{"a missing middle segment", func(t *testing.T) string {
			dir := segments(t, "01-good-multiseg")
			if err := os.Remove(filepath.Join(dir, "0000000000000001-0000000000000005.wal")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, exitCorrupt, "missing segment: 0000000000000001 to 0000000000000001"},
		{"a segment that is there twice", func(t *testing.T) string {
			dir := segments(t, "01-good-multiseg")
			return file(t, dir, "0000000000000001-0000000000000006.wal", read(t, filepath.Join(dir, "0000000000000001-0000000000000005.wal")))
		}, exitCorrupt, "segment is there twice"},
		{"a stray copy", func(t *testing.T) string {
			dir := segments(t, "00-good-small")
			return file(t, dir, "0000000000000000-0000000000000000.wal.orig.wal", read(t, filepath.Join(dir, first)))
		}, exitFailed, ".wal.orig.wal: not a segment's name"},
		{"a directory under a segment's name", func(t *testing.T) string {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, first), 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		}, exitFailed, first + ": not a segment but a directory"},
		{"an archive that is none", func(t *testing.T) string { return filepath.Join(file(t, t.TempDir(), "a.tar.gz", noise), "a.tar.gz") }, exitFailed, "gzip: invalid header"},
		{"an archive with a file twice", func(t *testing.T) string {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for range 2 {
				if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "wal/" + first, Mode: 0o600}); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			return filepath.Join(file(t, t.TempDir(), "a.tar", b.Bytes()), "a.tar")
		}, exitFailed, "a.tar: openat wal/" + first + ": file exists"},
		{"an archive of several logs", func(t *testing.T) string {
			return filepath.Join(repository(t), "testdata", "testlogs", "defects.tar.gz")
		}, exitFailed, "13 logs in one archive"},
		{"a log that is not in the archive", func(t *testing.T) string {
			return filepath.Join(repository(t), "testdata", "testlogs", "defects.tar.gz", "99")
		}, exitFailed, "no log here"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := test.make(t)
			top := path
			if info, err := os.Stat(path); err != nil || !info.IsDir() {
				top = filepath.Dir(path)
			}
			if strings.HasSuffix(top, ".tar.gz") {
				top = filepath.Dir(top)
			}
			before := digest(t, top)
			for _, args := range [][]string{{"dump"}, {"dump", "-o", "ndjson"}, {"verify"}, {"info"}} {
				code, out, errs := call(append(args, path)...)
				if code != test.code {
					t.Errorf("%v: exit %d, want %d: %s%s", args, code, test.code, out, errs)
				}
				if test.name == "a stray copy" && !strings.Contains(errs, "next: if the file is a copy that somebody made, move it") {
					t.Errorf("%v: no word about copies: %s", args, errs)
				}
				if text := out + errs; args[0] != "info" && (!strings.Contains(text, test.says) || !strings.Contains(text, "next: ")) {
					t.Errorf("%v does not say %q and what to do next: %s", args, test.says, text)
				}
			}
			for _, args := range [][]string{{"repair"}, {"repair", "--apply"}} {
				info, err := os.Stat(path)
				want := test.code
				if err == nil && !info.IsDir() {
					want = exitUsage // one segment is not repaired
				}
				if strings.Contains(path, ".tar") {
					continue
				}
				if code, out, errs := call(append(args, path)...); code != want || !strings.Contains(errs, "next: ") {
					t.Errorf("%v: exit %d, want %d: %s%s", args, code, want, out, errs)
				}
			}
			if digest(t, top) != before {
				t.Error("something was written")
			}
		})
	}
}

func TestMistakesOnTheCommandLineAreUsage(t *testing.T) {
	dir := ours(t, nil)
	for _, args := range [][]string{{"dump"}, {"dump", dir, dir}, {"delete", dir}, {"dump", "--nonsense", dir}, {"dump", "-o", "xml", dir},
		{"dump", "--type", "entries", dir}, {"dump", "--from", "-1", dir}, {"verify", "-o", "ndjson", dir}, {"info", "-o", "", dir}, {"version", "x"}} {
		if code, out, errs := call(args...); code != exitUsage || out != "" || !strings.HasPrefix(errs, "waldump: ") {
			t.Errorf("%v: exit %d: %q %q", args, code, out, errs)
		}
	}
	for _, args := range [][]string{{"--help"}, {"dump", "--help"}, {"repair", "--help"}, {"version"}, {}} {
		if code, out, errs := call(args...); code != 0 || out == "" || errs != "" {
			t.Errorf("%v: exit %d: %q %q", args, code, out, errs)
		}
	}
}

// brokenFS fails operations on names that end as told.
type brokenFS struct {
	fileutil.FS
	suffix string
	err    error
	writes bool // let reading through
}

func (b brokenFS) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	if strings.HasSuffix(name, b.suffix) && (!b.writes || flag != os.O_RDONLY) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: b.err}
	}
	return b.FS.OpenFile(name, flag, perm)
}

func TestUnreadableIsNotCorrupt(t *testing.T) {
	dir := testlogs.Defects(t, "01-good-multiseg")["01-good-multiseg"]
	for _, cause := range []error{fs.ErrPermission, syscall.EIO, syscall.EMFILE} {
		for _, command := range []string{"dump", "verify", "info", "repair"} {
			var out, errs bytes.Buffer
			a := &app{stdout: &out, stderr: &errs, fs: brokenFS{FS: fileutil.OS{}, suffix: "5.wal", err: cause}}
			if code := a.run([]string{command, dir}); code != exitFailed || !strings.Contains(errs.String(), "0005.wal") || !strings.Contains(errs.String(), "next: ") {
				t.Errorf("%v: %s: exit %d: %s", cause, command, code, errs.String())
			}
		}
	}
}

// badSector fails reads that touch one place of a file.
type badSector struct {
	fileutil.FS
	at int64
}

type badFile struct {
	fileutil.File
	at int64
}

func (b badSector) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := b.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return badFile{f, b.at}, nil
}

func (b badFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.at && b.at < off+int64(len(p)) {
		n, _ := b.File.ReadAt(p[:b.at-off], off)
		return n, &fs.PathError{Op: "read", Path: b.Name(), Err: syscall.EIO}
	}
	return b.File.ReadAt(p, off)
}

func TestABadSectorIsNotDamage(t *testing.T) {
	dir := testlogs.Defects(t, "00-good-small")["00-good-small"]
	before := digest(t, dir)
	for _, args := range [][]string{{"dump"}, {"verify"}, {"info"}, {"repair"}, {"repair", "--apply"}} {
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs, fs: badSector{fileutil.OS{}, 2048}}
		if code := a.run(append(args, dir)); code != exitFailed || !strings.Contains(errs.String(), "input/output error") {
			t.Errorf("%v: exit %d: %s%s", args, code, out.String(), errs.String())
		}
	}
	if digest(t, dir) != before {
		t.Error("something was written")
	}
}

func TestUnreadableDirectoryOfTheSystem(t *testing.T) {
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("SKIPPED: modes do not keep root from reading; run as another user. TestUnreadableIsNotCorrupt injects the same error")
	}
	dir := testlogs.Defects(t, "00-good-small")["00-good-small"]
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	if code, _, errs := call("verify", dir); code != exitFailed || !strings.Contains(errs, "permission denied") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestReadOnlyDirectoryCanBeReadAndIsNotChanged(t *testing.T) {
	const name = "50-torn-tail-short-file"
	dir := testlogs.Defects(t, name)[name]
	before := digest(t, dir)
	for _, args := range [][]string{{"dump"}, {"verify"}, {"info"}, {"repair"}, {"repair", "--apply"}} {
		want := exitTorn
		if len(args) == 2 {
			want = exitFailed
		}
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs, fs: brokenFS{FS: fileutil.OS{}, err: syscall.EROFS, writes: true}}
		if code := a.run(append(args, dir)); code != want {
			t.Errorf("%v: exit %d, want %d: %s", args, code, want, errs.String())
		}
		if len(args) == 2 && (!strings.Contains(errs.String(), "read-only") || !strings.Contains(errs.String(), "next: ")) {
			t.Errorf("%v does not say why and what next: %s", args, errs.String())
		}
	}
	if digest(t, dir) != before {
		t.Error("something was written")
	}
}

func TestRepairTrimsATornTailAndCanBeUndone(t *testing.T) {
	logs := testlogs.Defects(t, "50-torn-tail-short-file", "51-torn-tail-zero-sector", "61-stale-tmp-second-crash")
	logs["ours"] = ours(t, func(b []byte, end int64) { copy(b[end:], "half of a frame that no sync made durable") })
	for name, dir := range logs {
		t.Run(name, func(t *testing.T) {
			before := map[string][]byte{}
			for _, e := range list(t, dir) {
				before[e] = read(t, filepath.Join(dir, e))
			}
			_, dumped, _ := call("dump", "-o", "ndjson", dir)
			if code, _, errs := call("repair", "--apply", dir); code != exitClean {
				t.Fatalf("exit %d: %s", code, errs)
			}
			plan, err := filepath.Glob(filepath.Join(dir, "*.torn"))
			if err != nil || len(plan) != 1 {
				t.Fatalf("%v, %v: want one copy", plan, err)
			}
			var segment string
			var offset int64
			base := strings.TrimSuffix(filepath.Base(plan[0]), ".torn")
			if i := strings.LastIndex(base, "."); i >= 0 {
				segment = base[:i]
				fmt.Sscan(base[i+1:], &offset)
			}
			kept := read(t, plan[0])
			if !bytes.Equal(kept, before[segment][offset:offset+int64(len(kept))]) || len(bytes.Trim(before[segment][offset+int64(len(kept)):], "\x00")) > 0 {
				t.Error("the copy is not what was dropped")
			}
			if info, err := os.Stat(plan[0]); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
				t.Errorf("the copy's mode is %v, %v", info.Mode(), err)
			}
			after := read(t, filepath.Join(dir, segment))
			// It ends with a page, if it did not.
			if want := (len(before[segment]) + 4095) / 4096 * 4096; len(after) != want || !bytes.Equal(after[:offset], before[segment][:offset]) || len(bytes.Trim(after[offset:], "\x00")) > 0 {
				t.Error("the segment is not what was there before its torn tail, and then zeros to the end of a page")
			}
			if code, out, errs := call("repair", dir); code != exitClean || !strings.HasPrefix(out, "clean: ") {
				t.Errorf("a second repair: exit %d: %s%s", code, out, errs)
			}
			if _, again, _ := call("dump", "-o", "ndjson", dir); again != dumped {
				t.Errorf("the records are not those from before:\n%s\n%s", dumped, again)
			}

			// To write the copy back is to undo it.
			copy(after[offset:], kept)
			if !bytes.Equal(after[:len(before[segment])], before[segment]) {
				t.Error("the copy does not bring the segment back")
			}
			w, err := wal.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRepairSetsAnUnbornSegmentAside(t *testing.T) {
	dir := testlogs.Defects(t, "01-good-multiseg")["01-good-multiseg"]
	const last = "0000000000000002-0000000000000009.wal"
	b := read(t, filepath.Join(dir, last))
	clear(b[20:])
	b[19] = 1             // some byte behind the whole frame, so that the copy must hold both
	file(t, dir, last, b) // a crash in a cut: the metadata is not there
	if code, out, errs := call("repair", dir); code != exitTorn || !strings.Contains(out, "remove   the segment "+last) {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	code, out, errs := call("repair", "--apply", dir)
	if code != exitClean || slices.Contains(list(t, dir), last) {
		t.Errorf("exit %d, %v: %s%s", code, list(t, dir), out, errs)
	}
	if code, out, errs := call("verify", dir); code != exitClean || !strings.Contains(out, "last entry 1/8, commit 7") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	kept := read(t, filepath.Join(dir, last+".0.torn"))
	if !bytes.Equal(bytes.TrimRight(kept, "\x00"), bytes.TrimRight(b[:20], "\x00")) || !strings.Contains(out, "dd if=") {
		t.Errorf("the copy holds % x, and to undo: %s", kept, out)
	}
}

func TestRepairRefusesDamageAndChangesNothing(t *testing.T) {
	for name, dir := range testlogs.Defects(t) {
		if defects[name] != exitCorrupt {
			continue
		}
		before := digest(t, dir)
		for _, args := range [][]string{{"repair", dir}, {"repair", "--apply", dir}} {
			code, out, errs := call(args...)
			if code != exitCorrupt || out != "" || !strings.Contains(errs, "refused: 0000000000000000-0000000000000000.wal: offset ") || !strings.Contains(errs, "restore this member from a snapshot") {
				t.Errorf("%s: %v: exit %d: %s%s", name, args, code, out, errs)
			}
		}
		if digest(t, dir) != before {
			t.Errorf("%s: something was written", name)
		}
	}
}

func TestRepairRefusesALogThatIsOpen(t *testing.T) {
	dir := ours(t, func(b []byte, end int64) { copy(b[end:], "half of a frame that no sync made durable") })
	held, err := fileutil.OS{}.OpenFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := held.Lock(); err != nil {
		t.Fatal(err)
	}
	before := digest(t, dir)
	code, _, errs := call("repair", "--apply", dir)
	if code != exitFailed || !strings.Contains(errs, "locked") || !strings.Contains(errs, "next: stop the process") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if runtime.GOOS == "linux" { // elsewhere it cannot be known that it is open
		for _, command := range []string{"verify", "dump", "info", "repair"} {
			if code, _, errs := call(command, dir); code != exitClean {
				t.Errorf("%s: an unfinished batch of a running process: exit %d: %s", command, code, errs)
			}
		}
		if _, out, _ := call("repair", dir); !strings.Contains(out, "a batch that it has not finished") {
			t.Errorf("repair does not say that it is the running process's: %s", out)
		}
		if _, out, _ := call("verify", dir); !strings.Contains(out, "in the middle of writing") || !strings.Contains(out, "open in a running process") {
			t.Errorf("verify does not say that it is the running process's: %s", out)
		}
	}
	if digest(t, dir) != before {
		t.Error("something was written")
	}
}

func TestArchiveIsNotRepaired(t *testing.T) {
	path := filepath.Join(repository(t), "testdata", "testlogs", "defects.tar.gz", "50-torn-tail-short-file")
	if code, out, errs := call("repair", "--apply", path); code != exitUsage || !strings.Contains(errs, "unpack it") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

// failing is a standard output that goes away.
type failing struct {
	after int
	err   error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestOutputThatGoesAway(t *testing.T) {
	dir := testlogs.Etcd(t, "3.7/small")["3.7/small"]
	for _, args := range [][]string{{"dump", dir}, {"dump", "-o", "ndjson", dir}, {"verify", dir}, {"info", dir}, {"version"}} {
		var errs bytes.Buffer
		if code := run(args, &failing{0, &fs.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}}, &errs); code != exitClean || errs.Len() > 0 {
			t.Errorf("%v: a reader that went away: exit %d: %s", args, code, errs.String())
		}
		if code := run(args, &failing{0, syscall.ENOSPC}, &errs); code != exitFailed || !strings.Contains(errs.String(), "no space") {
			t.Errorf("%v: a full disk: exit %d: %s", args, code, errs.String())
		}
	}
}

// What is done from the command line of a fresh clone, and what only a real process can show.
func TestBinary(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "waldump")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	temp := t.TempDir()
	archive := filepath.Join(repository(t), "testdata", "testlogs", "etcd", "3.4-cut.tar.gz")
	cmd := exec.Command(bin, "dump", "-o", "ndjson", archive)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	out.Close() // as head does; there is more to come than a pipe holds
	err = cmd.Wait()
	if all := lines(t, first); err != nil || errs.Len() > 0 || len(all) != 1 || all[0].Type != "crc" {
		t.Errorf("%v: %s%s", err, first, errs.String())
	}
	if left := list(t, temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	err = exec.Command(bin, "verify", filepath.Join(repository(t), "testdata", "testlogs", "defects.tar.gz", "23-payload-bitflip-midlog")).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitCorrupt {
		t.Errorf("verify of a corrupt log: %v", err)
	}
}

// FuzzDump gives all commands a log of two segments. They may say what they like, but not panic,
// and agree about it.
func FuzzDump(f *testing.F) {
	for _, dir := range testlogs.Defects(f) {
		var files [][]byte
		for _, name := range list(f, dir) {
			if strings.HasSuffix(name, ".wal") {
				files = append(files, bytes.TrimRight(read(f, filepath.Join(dir, name)), "\x00"))
			}
		}
		files = append(files, nil)
		f.Add(files[0], files[1])
	}
	f.Fuzz(func(t *testing.T, first, second []byte) { look(t, first, second) })
}

func look(t *testing.T, first, second []byte) {
	t.Helper()
	const dir = "/log"
	files := map[string][]byte{dir + "/0000000000000000-0000000000000000.wal": first}
	if second != nil {
		files[dir+"/0000000000000001-0000000000000005.wal"] = second
	}
	disk := crashfs.Load(files)
	call := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs, fs: disk}
		return a.run(args), out.String(), errs.String()
	}
	untouched := disk.Changes()
	verdict, _, errs := call("verify", dir)
	if verdict > exitCorrupt {
		t.Fatalf("verify: exit %d: %s", verdict, errs)
	}
	for _, args := range [][]string{{"dump"}, {"dump", "-o", "ndjson", "--live"}, {"info"}, {"info", "-o", "json"}, {"repair"}} {
		code, out, errs := call(append(args, dir)...)
		if code != verdict {
			t.Fatalf("%v: exit %d, but verify: %d: %s", args, code, verdict, errs)
		}
		if slices.Contains(args, "ndjson") {
			lines(t, out)
		}
	}
	if disk.Changes() != untouched {
		t.Fatal("something was written")
	}
	if verdict != exitTorn {
		return
	}
	if code, _, errs := call("repair", "--apply", dir); code != exitClean {
		t.Fatalf("repair: exit %d: %s", code, errs)
	}
	if code, out, errs := call("verify", dir); code != exitClean {
		t.Fatalf("after the repair: exit %d: %s%s", code, out, errs)
	}
}

func TestMutatedLogsAreJudgedAndNeverPanic(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	looks := 0
	for name, dir := range testlogs.Defects(t, "00-good-small", "01-good-multiseg", "51-torn-tail-zero-sector") {
		var segments [][]byte
		for _, s := range list(t, dir) {
			segments = append(segments, read(t, filepath.Join(dir, s)))
		}
		segments = append(segments, nil)
		for range 300 {
			first, second := slices.Clone(segments[0]), slices.Clone(segments[1])
			target := first
			if second != nil && r.IntN(2) == 0 {
				target = second
			}
			for range 1 + r.IntN(3) {
				at := r.IntN(min(len(target), 4096))
				switch r.IntN(4) {
				case 0:
					target[at] ^= 1 << r.IntN(8)
				case 1:
					target[at] = byte(r.Uint32())
				case 2:
					clear(target[at:min(at+512, len(target))])
				case 3:
					copy(target[at:], target[r.IntN(len(target)):])
				}
			}
			if r.IntN(4) == 0 {
				first = first[:r.IntN(len(first))]
			}
			look(t, first, second)
			if t.Failed() {
				t.Fatalf("made from %s", name)
			}
			looks++
		}
	}
	if looks != 900 {
		t.Errorf("%d logs were looked at", looks)
	}
}

func TestRequestsOfEtcdAreNamed(t *testing.T) {
	tests := []struct{ message, want string }{
		{"0801" + "2207" + "0a016b" + "1202" + "7677", `put "k" = "vw"`},
		{"0801" + "2209" + "0a016b" + "1202" + "7677" + "1810", `put "k" = "vw" lease 10`},
		{"0801" + "2a06" + "0a0161" + "120162", `delete "a" to "b"`},
		{"0801" + "320e" + "0a00" + "120a" + "1208" + "0a016b" + "1203" + "787978", `txn compare 1 then 1: put "k" = "xyx"`},
		{"0801" + "3a02" + "0864", `compact to revision 100`},
		{"0801" + "4204" + "083c" + "1011", `lease grant 11 for 60 s`},
		{"a20602080a" + "4a02" + "080f", `lease revoke f`},
		{"0801" + "e244" + "09" + "0a0375736512027077", `user add "use"`},
		{"0801" + "ff", "no"},
		{"0801" + "2207" + "0a016b", "no"},               // a length beyond the end
		{"0801" + "22ffffffffffffffffff01" + "0a", "no"}, // and one that is no int
		{"", "no"},
		{"0801", "no"},
	}
	for _, test := range tests {
		message, err := hex.DecodeString(test.message)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := appendRequest(nil, message)
		if !ok {
			got = []byte("no")
		}
		if string(got) != test.want {
			t.Errorf("%s: got %s, want %s", test.message, got, test.want)
		}
	}
}

// ours makes a log with package wal, and has the last segment's bytes changed at the end of its
// records.
func ours(t *testing.T, change func(b []byte, end int64)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	w, err := wal.Create(dir, []byte("ours"), &wal.Options{SegmentSize: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 5; i++ {
		if err := w.Save(walpb.HardState{Term: 1, Vote: 1, Commit: i - 1}, []walpb.Entry{{Term: 1, Index: i, Data: []byte("data")}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if change == nil {
		return dir
	}
	report, err := wal.Check(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	name := report.Segments[len(report.Segments)-1].Name
	b := read(t, filepath.Join(dir, name))
	change(b, report.Segments[len(report.Segments)-1].End)
	file(t, dir, name, b)
	return dir
}

// repository returns the root of the repository.
func repository(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// file writes a file and returns its directory.
func file(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func list(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// digest sums the names, modes, times and bytes of all that is in a directory.
func digest(t testing.TB, dir string) string {
	t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %v %v %d\n", name, info.Mode(), info.ModTime(), info.Size())
		if info.Mode().IsRegular() {
			sum.Write(read(t, name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
