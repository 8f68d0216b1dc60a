package main

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/testdata/testlogs"
)

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
				if test.name == "a stray copy" && !strings.Contains(errs, "next: if the file is a copy, move it") {
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

// brokenFS fails operations on names with a suffix.
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
