package fileutil_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
)

const lockedFile = "STELE_TEST_LOCKED_FILE"

// TestMain is also the other process of TestLockExcludesAnotherProcess.
func TestMain(m *testing.M) {
	if name := os.Getenv(lockedFile); name != "" {
		f, err := fileutil.OS{}.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		held, err := f.Locked()
		fmt.Println(held, err, errors.Is(f.Lock(), fileutil.ErrLocked))
		os.Exit(0)
	}
	m.Run()
}

func open(t *testing.T, name string, flag int) fileutil.File {
	t.Helper()
	f, err := fileutil.OS{}.OpenFile(name, flag, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestLockExcludesAnotherProcess(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := open(t, name, os.O_RDWR|os.O_CREATE)
	other := func() string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), lockedFile+"="+name)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	knows := runtime.GOOS == "linux"

	if got, want := other(), "false <nil> false\n"; got != want {
		t.Errorf("no lock: other process sees %q, want %q", got, want)
	}
	if err := f.Lock(); err != nil {
		t.Fatal(err)
	}
	if got, want := other(), fmt.Sprintln(knows, nil, true); got != want {
		t.Errorf("locked: other process sees %q, want %q", got, want)
	}
	// Closing another handle of the file must not drop the lock, as a POSIX lock would be.
	if err := open(t, name, os.O_RDWR).Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := other(), fmt.Sprintln(knows, nil, true); got != want {
		t.Errorf("locked, another handle closed: other process sees %q, want %q", got, want)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := other(), "false <nil> false\n"; got != want {
		t.Errorf("closed: other process sees %q, want %q", got, want)
	}
}

func TestReplaceFileLeavesOldOrNewAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	check := func(want string) {
		t.Helper()
		got, err := os.ReadFile(name)
		if err != nil || string(got) != want {
			t.Errorf("content %q, %v; want %q", got, err, want)
		}
		if list, _ := os.ReadDir(dir); len(list) != 1 {
			t.Errorf("left over: %v", list)
		}
	}
	if err := fileutil.WriteFile(fileutil.OS{}, name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("old")
	if info, _ := os.Stat(name); runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	mine := errors.New("mine")
	err := fileutil.ReplaceFile(fileutil.OS{}, name, 0o600, func(w io.Writer) error {
		if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
			return err
		}
		check2, _ := os.ReadFile(name)
		if string(check2) != "old" {
			t.Errorf("during the call the content is %.10q, want old", check2)
		}
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("error %v, want mine", err)
	}
	check("old")
	// What another crash left is in the way of nothing, and stays.
	if err := os.WriteFile(name+".0.tmp", []byte("stale, and longer than new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fileutil.WriteFile(fileutil.OS{}, name, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name + ".0.tmp"); err != nil {
		t.Error(err)
	}
	check("new")

	if err := fileutil.WriteFile(fileutil.OS{}, filepath.Join(dir, "no", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a missing directory: %v, want ErrNotExist", err)
	}
	// The rename fails: a directory has the name.
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := fileutil.WriteFile(fileutil.OS{}, filepath.Join(dir, "d"), nil, 0o600); err == nil {
		t.Error("replaced a directory")
	}
	if err := os.Remove(filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	check("new")
}

func TestReplaceFileConcurrently(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := fileutil.WriteFile(fileutil.OS{}, name, bytes.Repeat([]byte{byte(i)}, 100_000), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(name)
	if err != nil || len(b) != 100_000 || bytes.Count(b, b[:1]) != len(b) {
		t.Errorf("a mixture of %d bytes, %v", len(b), err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("left over: %v", list)
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := open(t, name, os.O_RDWR|os.O_CREATE)
	f.Close()
	_, locked := f.Locked()
	_, next := f.NextData(0)
	_, size := f.Size()
	_, read := f.ReadAt(make([]byte, 1), 0)
	for what, err := range map[string]error{
		"Close": f.Close(), "SyncData": f.SyncData(), "Lock": f.Lock(), "Locked": locked, "NextData": next, "Size": size,
		"ReadAt": read, "Truncate": f.Truncate(1), "Preallocate": f.Preallocate(1), "DropCache": f.DropCache(),
	} {
		var p *fs.PathError
		if !errors.As(err, &p) || p.Path != name || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v, want a PathError of ErrClosed that names the file", what, err)
		}
	}
}

func TestReplaceFileLeavesNothingAfterAPanicOfWrite(t *testing.T) {
	for way, leave := range map[string]func(){"panic": func() { panic("the caller's own") }, "Goexit": runtime.Goexit} {
		disk := crashfs.New()
		name := "f"
		if err := fileutil.WriteFile(disk, name, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		done := make(chan any)
		go func() {
			defer close(done)
			defer func() { recover() }()
			fileutil.ReplaceFile(disk, name, 0o600, func(w io.Writer) error {
				w.Write([]byte("new"))
				leave()
				return nil
			})
		}()
		<-done
		if tree := disk.Tree(); len(tree) != 1 || string(tree[name]) != "old" || disk.Handles() > 0 {
			t.Errorf("after a %s: %q, %d files open", way, tree, disk.Handles())
		}
	}
}
