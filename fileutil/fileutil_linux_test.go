package fileutil_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"golang.org/x/sys/unix"
)

var root = flag.Bool("root", false, "run tests that mount a file system, which needs root")

func TestPreallocateReservesSpaceAndKeepsEverything(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := open(t, name, os.O_RDWR|os.O_CREATE)
	data := bytes.Repeat([]byte("stele"), 1000)
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ ask, want int64 }{
		{0, 5000}, {1, 5000}, {4999, 5000}, {1 << 20, 1 << 20}, {5000, 1 << 20}, {0, 1 << 20},
	} {
		if err := f.Preallocate(c.ask); err != nil {
			t.Fatalf("Preallocate(%d): %v", c.ask, err)
		}
		if size, err := f.Size(); size != c.want || err != nil {
			t.Errorf("Preallocate(%d): size %d, %v; want %d", c.ask, size, err, c.want)
		}
	}
	got, err := os.ReadFile(name)
	if want := append(data, make([]byte, 1<<20-len(data))...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("content changed, %v", err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := info.Sys().(*syscall.Stat_t).Blocks * 512; n < 1<<20 {
		t.Errorf("%d bytes reserved, want 1 MiB", n)
	}
}

// tmpfs says at once that it is full.
func TestPreallocateOnAFullTmpfsKeepsTheSize(t *testing.T) {
	const dir = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Blocks == 0 {
		t.Skip("SKIPPED, NOT TESTED: no tmpfs with a limit at " + dir)
	}
	full, err := os.MkdirTemp(dir, "stele-test")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: ", err)
	}
	defer os.RemoveAll(full)
	testFull(t, full, int64(st.Blocks)*int64(st.Bsize)+1<<20)
}

// ext4 fills the disk, and only then says that it is full.
func TestPreallocateOnAFullExt4KeepsTheSize(t *testing.T) {
	if !*root {
		t.Skip("SKIPPED, NOT TESTED: needs root, run with -root")
	}
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	if err := errors.Join(os.Mkdir(mount, 0o700), os.WriteFile(image, nil, 0o600), os.Truncate(image, 32<<20)); err != nil {
		t.Fatal(err)
	}
	run("mkfs.ext4", "-q", "-F", image)
	run("mount", "-o", "loop", image, mount)
	defer run("umount", mount)
	testFull(t, mount, 64<<20)
}

func testFull(t *testing.T, dir string, tooMuch int64) {
	f, err := fileutil.OS{}.OpenFile(filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("stele"), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Preallocate(tooMuch); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want ENOSPC", err)
	}
	if size, err := f.Size(); size != 5 || err != nil {
		t.Errorf("size %d, %v; want 5", size, err)
	}
	if _, err := f.WriteAt(make([]byte, 1<<16), 5); err != nil {
		t.Errorf("the space was not given back: %v", err)
	}
}

func TestNextDataSkipsHoles(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE)
	const block = 1 << 20
	for _, off := range []int64{2 * block, 5 * block} {
		if _, err := f.WriteAt([]byte("stele"), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(8 * block); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, want int64 }{
		{0, 2 * block}, {1, 2 * block}, {2 * block, 2 * block}, {2*block + 3, 2*block + 3}, {3 * block, 5 * block},
		{6 * block, 8 * block}, {8 * block, 8 * block}, {9 * block, 9 * block},
	} {
		if got, err := f.NextData(c.off); got != c.want || err != nil {
			t.Errorf("NextData(%d) = %d, %v; want %d", c.off, got, err, c.want)
		}
	}
	// It moved the file's offset, which nothing depends on.
	b := make([]byte, 5)
	if _, err := f.ReadAt(b, 2*block); err != nil || string(b) != "stele" {
		t.Errorf("read %q, %v", b, err)
	}
}

// What one sees of another's lock must be what etcd's lock is: an open file description lock.
func TestLockIsSeenByEtcd(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := open(t, name, os.O_RDWR|os.O_CREATE)
	etcd, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	take := func() error {
		return unix.FcntlFlock(etcd.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: 0})
	}
	if err := f.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := take(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("etcd locks too: %v", err)
	}
	f.Close()
	if err := take(); err != nil {
		t.Errorf("etcd cannot lock after Close: %v", err)
	}
	if err := open(t, name, os.O_RDWR).Lock(); !errors.Is(err, fileutil.ErrLocked) {
		t.Errorf("Lock while etcd holds it: %v, want ErrLocked", err)
	}
}

func TestNothingKeepsADescriptor(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection closes forgotten files
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	before := count()
	for range 10 {
		f, err := fileutil.OS{}.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		other, err := fileutil.OS{}.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(f.Lock(), f.Preallocate(1<<16), f.SyncData(), f.DropCache(), fileutil.SyncDir(fileutil.OS{}, dir))
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(other.Lock(), fileutil.ErrLocked) {
			t.Fatal("locked twice")
		}
		if err := errors.Join(other.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if err := fileutil.WriteFile(fileutil.OS{}, name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := fileutil.WriteFile(fileutil.OS{}, dir, []byte("x"), 0o600); err == nil {
			t.Fatal("replaced a directory")
		}
		if err := fileutil.SyncDir(fileutil.OS{}, filepath.Join(dir, "no")); err == nil {
			t.Fatal("synced what is not there")
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
