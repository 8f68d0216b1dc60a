package fileutil_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
)

func TestADirectoryThatWasMadeSurvivesAPowerCutWithItsParents(t *testing.T) {
	// What is there was made by a process that did not sync it.
	for _, there := range []string{"", "/a", "/a/b", "/a/b/c"} {
		fsys := crashfs.New()
		for at := range strings.Count(there, "/") {
			if err := fsys.Mkdir(strings.Join(strings.Split(there, "/")[:at+2], "/"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := fileutil.MkdirAll(fsys, "/a/b/c"); err != nil {
			t.Fatal(err)
		}
		after := fsys.Crash(crashfs.DropAll)
		if info, err := after.Stat("/a/b/c"); err != nil || !info.IsDir() {
			t.Errorf("with %q before: %v", there, err)
		}
		if err := fileutil.MkdirAll(after, "/a/b/c/"); err != nil {
			t.Errorf("once more: %v", err)
		}
	}
}

// Every sync that fails is an error: what a crash may undo is not called durable.
func TestADirectoryWhoseNameCannotBeSyncedIsAnError(t *testing.T) {
	syncs := 0
	for fail := 0; ; fail++ {
		fsys := crashfs.New()
		syncs = 0
		fsys.SetFault(func(op crashfs.Op) error {
			if op.Kind == crashfs.OpSyncDir {
				if syncs++; syncs == fail+1 {
					return syscall.EIO
				}
			}
			return nil
		})
		err := fileutil.MkdirAll(fsys, "/a/b/c")
		if syncs <= fail {
			if err != nil || fail != 3 {
				t.Errorf("without a failure, after %d syncs: %v", syncs, err)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("sync %d fails: %v", fail+1, err)
		}
	}
}

// unsynced is a file system in which one directory cannot be synced.
type unsynced struct {
	fileutil.FS
	dir string
	err error
}

func (u unsynced) OpenDir(name string) (fileutil.Dir, error) {
	d, err := u.FS.OpenDir(name)
	if err == nil && name == u.dir {
		d = unsyncedDir{d, &fs.PathError{Op: "sync", Path: name, Err: u.err}}
	}
	return d, err
}

type unsyncedDir struct {
	fileutil.Dir
	err error
}

func (u unsyncedDir) Sync() error { return u.err }

func TestADirectoryThatCannotBeSyncedIsPassedThroughUnlessOneIsMadeInIt(t *testing.T) {
	for err, passed := range map[error]bool{
		fs.ErrPermission: true, syscall.EACCES: true, syscall.EROFS: true, syscall.EINVAL: true, errors.ErrUnsupported: true,
		syscall.EIO: false, syscall.ENOSPC: false,
	} {
		fsys := crashfs.New()
		if err := errors.Join(fsys.Mkdir("/a", 0o700), fsys.Mkdir("/a/b", 0o700)); err != nil {
			t.Fatal(err)
		}
		if got := fileutil.MkdirAll(unsynced{fsys, "/a", err}, "/a/b/c"); (got == nil) != passed || !passed && !errors.Is(got, err) {
			t.Errorf("%v, and nothing was to be made there: %v", err, got)
		}
		if got := fileutil.MkdirAll(unsynced{fsys, "/a", err}, "/a/x"); !errors.Is(got, err) {
			t.Errorf("it may not last: %v", got)
		}
	}
}

func TestADirectoryIsForItsOwnerAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("SKIPPED: Windows has no such modes")
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := fileutil.MkdirAll(fileutil.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", d, info.Mode(), err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fileutil.MkdirAll(fileutil.OS{}, filepath.Join(file, "c")); err == nil {
		t.Error("a directory in a file")
	}
}

func TestANumberInANameIsReadAsItWasWritten(t *testing.T) {
	for _, n := range []uint64{0, 1, 0xabcdef, 0x123456789, math.MaxUint64} {
		if got, ok := fileutil.ParseHex(fmt.Sprintf("%016x", n)); !ok || got != n {
			t.Errorf("%x came back as %x, %v", n, got, ok)
		}
	}
	for _, s := range []string{"", "0", "000000000000000", "00000000000000000", "000000000000000A", "000000000000000g", " 00000000000000a", "0x0000000000000a", "-00000000000000a", "00000000_000000a"} {
		if n, ok := fileutil.ParseHex(s); ok {
			t.Errorf("%q is %x", s, n)
		}
	}
}
