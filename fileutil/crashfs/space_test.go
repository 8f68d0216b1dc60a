package crashfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
)

// A disk of 64 KiB is filled, and what is reserved, truncated and removed on it makes room or does
// not.
func fill(t *testing.T, fsys fileutil.FS, dir string) (said []string) {
	say := func(what string, n int, err error) {
		switch {
		case errors.Is(err, syscall.ENOSPC):
			what, n = what+": full", 0 // how much is written before differs between systems
		case err != nil:
			t.Fatalf("%s: %v", what, err)
		}
		said = append(said, fmt.Sprintf("%s, %d", what, n))
	}
	file := func(name string) fileutil.File {
		f, err := fsys.OpenFile(dir+"/"+name, os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		return f
	}
	put := func(what string, f fileutil.File, blocks, off int) {
		n, err := f.WriteAt([]byte(strings.Repeat("x", blocks*4096)), int64(off))
		say(what, n, err)
	}
	size := func(what string, f fileutil.File) {
		n, err := f.Size()
		say("size of "+what, int(n), err)
	}
	a, b, c := file("a"), file("b"), file("c")
	say("a reserves 8 blocks", 0, a.Preallocate(8*4096))
	say("and the same again", 0, a.Preallocate(5*4096))
	put("b writes 5 blocks", b, 5, 0)
	say("c reserves 4 blocks", 0, c.Preallocate(4*4096))
	size("c", c)
	put("c writes 2 blocks at an odd place, far after its end", c, 2, 1<<20+100)
	put("and another", c, 1, 0)
	put("a writes what it has reserved", a, 8, 0)
	put("and one more", a, 9, 0)
	size("a", a)
	put("b writes the same again", b, 5, 0)
	say("a is cut to a block and a half", 0, a.Truncate(6144))
	put("c writes 9", c, 9, 0)
	say("c is cut to 3 blocks", 0, c.Truncate(3*4096))
	put("c writes 9", c, 9, 0)
	say("b is removed", 0, fsys.Remove(dir+"/b"))
	put("and is open", c, 1, 9*4096)
	must(t, b.Close())
	put("and is closed", c, 1, 9*4096)
	say("a reserves 7 blocks", 0, a.Preallocate(7*4096))
	say("a reserves 6 blocks", 0, a.Preallocate(6*4096))
	must(t, a.Close(), c.Close())
	return said
}

func TestAFullDiskIsThatOfTheOperatingSystem(t *testing.T) {
	disk := crashfs.New()
	disk.SetSize(64 << 10)
	must(t, disk.Mkdir("d", 0o700))
	got := fill(t, disk, "d")
	full := 0
	for _, s := range got {
		if strings.Contains(s, "full") {
			full++
		}
	}
	if full < 6 {
		t.Errorf("the disk was full only %d times: %q", full, got)
	}
	m := t.TempDir()
	if err := mountSmall(m); err != nil {
		t.Skip("SKIPPED: to mount a small tmpfs needs root: ", err)
	}
	defer unmountSmall(m)
	want := fill(t, fileutil.OS{}, m)
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%q, and on tmpfs %q", got[i], want[i])
		}
	}
}

func TestAFullDiskIsFullAfterARestart(t *testing.T) {
	f := crashfs.New()
	h := open(t, f, "a", os.O_RDWR|os.O_CREATE)
	must(t, h.Preallocate(4*4096), h.SyncData(), fileutil.SyncDir(f, "."))
	write(t, open(t, f, "b", os.O_RDWR|os.O_CREATE), strings.Repeat("b", 4096), 0)
	f.SetSize(f.Used())
	if f.Used() != 5*4096 {
		t.Fatalf("%d bytes are used", f.Used())
	}
	for name, f := range map[string]*crashfs.FS{"killed": f.Clone(), "without power": f.Crash(crashfs.KeepAll), "with all lost": f.Crash(crashfs.DropAll)} {
		c := open(t, f, "c", os.O_RDWR|os.O_CREATE)
		_, err := c.WriteAt(make([]byte, 4097), 0)
		if lost := name == "with all lost"; !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: a write beyond the size: %v", name, err)
		} else if n, _ := c.Size(); lost != (n > 0) {
			t.Errorf("%s: %d bytes were written before", name, n)
		}
		write(t, open(t, f, "a", os.O_RDWR), strings.Repeat("a", 4*4096), 0)
		if err := f.Rename("a", "d"); err != nil {
			t.Errorf("%s: a rename: %v", name, err)
		}
		must(t, f.Remove("d"))
		if names, err := f.ReadDir("."); err != nil || slices.ContainsFunc(names, func(e fs.DirEntry) bool { return e.Name() == "d" }) {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
}
