package crashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
)

const sectorSize = 512

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, f *crashfs.FS, name string, flag int) fileutil.File {
	t.Helper()
	h, err := f.OpenFile(name, flag, 0o600)
	must(t, err)
	return h
}

func write(t testing.TB, h fileutil.File, data string, off int64) {
	t.Helper()
	_, err := h.WriteAt([]byte(data), off)
	must(t, err)
}

// sectors returns one sector full of each letter.
func sectors(letters string) string {
	var b strings.Builder
	for i := range letters {
		b.WriteString(strings.Repeat(letters[i:i+1], sectorSize))
	}
	return b.String()
}

// show describes a tree in one line: runs of a letter that fill sectors as the letter, zeros as a
// dot.
func show(f *crashfs.FS) string {
	var parts []string
	tree := f.Tree()
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		b := tree[name]
		if strings.HasSuffix(name, "/") {
			parts = append(parts, name)
			continue
		}
		var s strings.Builder
		for len(b) > 0 {
			n := min(sectorSize, len(b))
			switch c := b[0]; {
			case bytes.Count(b[:n], b[:1]) != n:
				s.WriteByte('?')
			case c == 0:
				s.WriteByte('.')
			default:
				s.WriteByte(c)
			}
			b = b[n:]
		}
		parts = append(parts, name+"="+s.String())
	}
	return strings.Join(parts, " ")
}

// states returns every state that a crash can leave, without tears and garbage.
func states(t testing.TB, f *crashfs.FS) []string {
	t.Helper()
	places := f.Pending()
	total := 1
	for _, p := range places {
		if total *= p.Versions + 1; total > 1<<16 {
			t.Fatalf("too many states: %v", places)
		}
	}
	seen := map[string]bool{}
	for n := range total {
		seen[show(f.Crash(func(places []crashfs.Place, choices []crashfs.Choice) {
			rest := n
			for i, p := range places {
				choices[i].Version = rest % (p.Versions + 1)
				rest /= p.Versions + 1
			}
		}))] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// Each row is what is done after a durable start, and all that a crash may then leave.
var crashes = []struct {
	name  string
	start map[string]string
	do    func(t *testing.T, f *crashfs.FS)
	want  []string
}{
	{"a synced file is lost if its name is not synced", nil, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR|os.O_CREATE)
		write(t, h, sectors("x"), 0)
		must(t, h.SyncData())
	}, []string{"", "a=x"}},

	{"a synced name is no synced file", nil, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR|os.O_CREATE)
		write(t, h, sectors("x"), 0)
		must(t, fileutil.SyncDir(f, "."))
	}, []string{"a=", "a=.", "a=x"}},

	{"both synced", nil, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR|os.O_CREATE)
		write(t, h, sectors("x"), 0)
		must(t, h.SyncData(), fileutil.SyncDir(f, "/"))
	}, []string{"a=x"}},

	{"sectors are apart from each other", map[string]string{"a": sectors("abc")}, func(t *testing.T, f *crashfs.FS) {
		write(t, open(t, f, "a", os.O_RDWR), sectors("xz"), sectorSize)
	}, []string{"a=abc", "a=abz", "a=axc", "a=axz"}},

	{"a sector may be in any state since the sync", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR)
		write(t, h, sectors("b"), 0)
		must(t, h.SyncData())
		write(t, h, sectors("c"), 0)
		write(t, h, sectors("d"), 0)
	}, []string{"a=b", "a=c", "a=d"}},

	{"a write through another handle is synced too", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		write(t, open(t, f, "a", os.O_RDWR), sectors("b"), 0)
		must(t, open(t, f, "a", os.O_RDONLY).SyncData())
	}, []string{"a=b"}},

	{"the same bytes again change nothing", map[string]string{"a": sectors("ab.")}, func(t *testing.T, f *crashfs.FS) {
		write(t, open(t, f, "a", os.O_RDWR), sectors("ab"), 0)
		if n := f.Changes(); n != 0 {
			t.Errorf("%d changes pending", n)
		}
	}, []string{"a=ab."}},

	{"the size is apart from the data", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		write(t, open(t, f, "a", os.O_RDWR), sectors("bc"), sectorSize)
	}, []string{"a=a", "a=a..", "a=a.c", "a=ab.", "a=abc"}},

	{"every size since the sync", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR)
		must(t, h.Preallocate(3*sectorSize), h.Truncate(2*sectorSize))
	}, []string{"a=a", "a=a.", "a=a.."}},

	{"preallocated space reads as zeros", nil, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR|os.O_CREATE)
		must(t, h.Preallocate(2*sectorSize), h.SyncData(), fileutil.SyncDir(f, ""))
		write(t, h, sectors("a"), sectorSize)
	}, []string{"a=..", "a=.a"}},

	{"shrinking and growing leaves the old bytes or zeros", map[string]string{"a": sectors("ab")}, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR)
		must(t, h.Truncate(sectorSize), h.Truncate(2*sectorSize))
	}, []string{"a=a", "a=a.", "a=ab"}},

	{"a new name", nil, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Mkdir("d", 0o700))
		open(t, f, "d/a", os.O_RDWR|os.O_CREATE)
	}, []string{"", "d/", "d/ d/a="}},

	{"a synced directory without a synced name", nil, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Mkdir("d", 0o700))
		open(t, f, "d/a", os.O_RDWR|os.O_CREATE)
		must(t, fileutil.SyncDir(f, "d"))
	}, []string{"", "d/ d/a="}},

	{"a removed file comes back", map[string]string{"a": sectors("a"), "b": sectors("b")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Remove("a"))
	}, []string{"a=a b=b", "b=b"}},

	{"a removed file stays away once synced", map[string]string{"a": sectors("a"), "b": sectors("b")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Remove("a"), fileutil.SyncDir(f, "."))
	}, []string{"b=b"}},

	{"a removed file comes back with what was pending in it", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		write(t, open(t, f, "a", os.O_RDWR), sectors("b"), 0)
		must(t, f.Remove("a"))
	}, []string{"", "a=a", "a=b"}},

	{"a file made anew", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Remove("a"))
		h := open(t, f, "a", os.O_RDWR|os.O_CREATE|os.O_EXCL)
		write(t, h, sectors("b"), 0)
		must(t, h.SyncData())
	}, []string{"", "a=a", "a=b"}},

	{"a rename never loses the file, nor the name", map[string]string{"new": sectors("n"), "old": sectors("o")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("new", "old"))
	}, []string{"new=n old=n", "new=n old=o", "old=n"}},

	{"a rename never loses the file: to a free name", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("a", "b"))
	}, []string{"a=a", "a=a b=a", "b=a"}},

	{"a rename of what has no durable name can be lost", nil, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "a", os.O_RDWR|os.O_CREATE)
		write(t, h, sectors("a"), 0)
		must(t, h.SyncData(), f.Rename("a", "b"))
	}, []string{"", "a=a", "a=a b=a", "b=a"}},

	{"a renamed file that was not synced is empty", map[string]string{"old": sectors("o")}, func(t *testing.T, f *crashfs.FS) {
		h := open(t, f, "tmp", os.O_RDWR|os.O_CREATE)
		write(t, h, sectors("n"), 0)
		must(t, f.Rename("tmp", "old"), fileutil.SyncDir(f, "."))
	}, []string{"old=", "old=.", "old=n"}},

	{"a file that was renamed and removed is lost", map[string]string{"a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("a", "b"), f.Remove("b"))
	}, []string{"", "a=a", "a=a b=a", "b=a"}},

	{"two renames in a row", map[string]string{"a": sectors("a"), "c": sectors("c")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("a", "b"), f.Rename("b", "c"))
	}, []string{"a=a b=a c=a", "a=a b=a c=c", "a=a c=a", "a=a c=c", "b=a c=a", "b=a c=c", "c=a"}},

	{"names passed along", map[string]string{"a": sectors("a"), "b": sectors("b")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("b", "c"), f.Rename("a", "b"))
	}, []string{"a=a b=a c=b", "a=a b=b", "a=a b=b c=b", "a=a c=b", "b=a c=b"}},

	{"a rename between directories, the old one synced", map[string]string{"d/a": sectors("a"), "e/x": sectors("x")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("d/a", "e/a"), fileutil.SyncDir(f, "d"))
	}, []string{"d/ e/ e/a=a e/x=x"}},

	{"a rename into a new directory, the old one synced", map[string]string{"d/a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Mkdir("e", 0o700), f.Rename("d/a", "e/a"), fileutil.SyncDir(f, "d"))
	}, []string{"d/ e/ e/a=a"}},

	{"a rename into a new directory", map[string]string{"d/a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Mkdir("e", 0o700), f.Rename("d/a", "e/a"))
	}, []string{"d/ d/a=a", "d/ d/a=a e/", "d/ d/a=a e/ e/a=a", "d/ e/ e/a=a"}},

	{"a rename between directories, the new one synced", map[string]string{"d/a": sectors("a"), "e/x": sectors("x")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("d/a", "e/a"), fileutil.SyncDir(f, "e"))
	}, []string{"d/ d/a=a e/ e/a=a e/x=x", "d/ e/ e/a=a e/x=x"}},

	{"a directory keeps one name", map[string]string{"d/a": sectors("a")}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("d", "e"))
	}, []string{"d/ d/a=a", "e/ e/a=a"}},

	{"directories into each other", map[string]string{"d/": "", "e/": ""}, func(t *testing.T, f *crashfs.FS) {
		must(t, f.Rename("d", "e/d"), f.Rename("e/d", "d"), f.Rename("e", "d/e"))
	}, []string{"d/ d/e/", "d/ e/", "e/ e/d/"}},
}

func TestEveryStateThatACrashCanLeave(t *testing.T) {
	for _, c := range crashes {
		t.Run(c.name, func(t *testing.T) {
			files := map[string][]byte{}
			for name, data := range c.start {
				files[name] = []byte(data)
			}
			f := crashfs.Load(files)
			if p := f.Pending(); len(p) != 0 {
				t.Fatalf("pending at the start: %v", p)
			}
			c.do(t, f)
			live := show(f)
			got := states(t, f)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if after := show(f); after != live {
				t.Errorf("the crashes changed the original: %q, was %q", after, live)
			}
			if kept := show(f.Crash(crashfs.KeepAll)); kept != live {
				t.Errorf("KeepAll %q, live %q", kept, live)
			}
			if p := f.Crash(crashfs.KeepAll).Pending(); len(p) != 0 {
				t.Errorf("pending after a crash: %v", p)
			}
		})
	}
}

func TestChoosers(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("abc"))})
	h := open(t, f, "a", os.O_RDWR)
	write(t, h, sectors("z"), 2*sectorSize)
	write(t, h, sectors("x"), 0)
	write(t, h, sectors("y"), 0)
	must(t, f.Remove("a"))
	if n := f.Changes(); n != 4 {
		t.Errorf("%d changes, want 4", n)
	}
	places := f.Pending()
	var kinds []string
	for _, p := range places {
		kinds = append(kinds, p.String())
	}
	if want := []string{"name a: 1 versions", "sector a at 0: 2 versions", "sector a at 1024: 1 versions"}; !slices.Equal(kinds, want) {
		t.Fatalf("places %q, want %q", kinds, want)
	}
	for _, c := range []struct {
		name   string
		choose crashfs.Chooser
		want   string
	}{
		{"KeepAll", crashfs.KeepAll, ""},
		{"DropAll", crashfs.DropAll, "a=abc"},
		{"DropOne 0", crashfs.DropOne(0), "a=ybz"},
		{"DropOne 1", crashfs.DropOne(1), ""},
		{"DropOne 3", crashfs.DropOne(3), ""},
		{"KeepOne 0", crashfs.KeepOne(0), ""},
		{"KeepOne 1", crashfs.KeepOne(1), "a=ybc"},
		{"KeepOne 2", crashfs.KeepOne(2), "a=abz"},
		{"KeepOne 3", crashfs.KeepOne(3), "a=abc"},
		{"Prefix 0", crashfs.Prefix(0), "a=abc"},
		{"Prefix 1", crashfs.Prefix(1), "a=abz"},
		{"Prefix 2", crashfs.Prefix(2), "a=xbz"},
		{"Prefix 3", crashfs.Prefix(3), "a=ybz"},
		{"Prefix 4", crashfs.Prefix(4), ""},
		{"Prefix 5", crashfs.Prefix(5), ""},
	} {
		if got := show(f.Crash(c.choose)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// A crash that keeps the changes up to some point finds the file under the new name first, then not
// under the old.
func TestARenameIsTwoChanges(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("a")), "b": []byte(sectors("b"))})
	must(t, f.Rename("a", "b"))
	for n, want := range []string{"a=a b=b", "a=a b=a", "b=a"} {
		if got := show(f.Crash(crashfs.Prefix(n))); got != want {
			t.Errorf("Prefix(%d) %q, want %q", n, got, want)
		}
	}
}

func TestATornSectorIsNewThenOld(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("ab"))})
	h := open(t, f, "a", os.O_RDWR)
	write(t, h, sectors("xy"), 0)
	c := f.Crash(func(places []crashfs.Place, choices []crashfs.Choice) {
		crashfs.KeepAll(places, choices)
		choices[1].Tear = 100
	})
	got, err := c.ReadFile("a")
	must(t, err)
	if want := sectors("x") + sectors("y")[:100] + sectors("b")[100:]; string(got) != want {
		t.Errorf("got %q", got)
	}
}

// The bytes beyond the size are gone, also when the file is made longer again.
func TestWhatIsBeyondTheSizeIsGone(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("abc"))})
	must(t, open(t, f, "a", os.O_RDWR).Truncate(700))
	c := f.Crash(func(places []crashfs.Place, choices []crashfs.Choice) {
		if places[0].Kind != crashfs.Size || len(places) != 3 {
			t.Fatalf("places %v", places)
		}
		choices[0].Version = 1 // and not the zeros after it
	})
	must(t, open(t, c, "a", os.O_RDWR).Truncate(3*sectorSize))
	got, err := c.ReadFile("a")
	must(t, err)
	if want := (sectors("ab")[:700] + string(make([]byte, 3*sectorSize-700))); string(got) != want {
		t.Errorf("what was cut off came back: %s", show(c))
	}
}

func TestGarbageKeepsWhatTheWriteLeft(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("ab"))})
	h := open(t, f, "a", os.O_RDWR)
	write(t, h, strings.Repeat("a", 100)+"x"+strings.Repeat("a", 50)+"x"+strings.Repeat("a", 360), 0)
	seen := map[string]bool{}
	for seed := range uint64(20) {
		c := f.Crash(func(_ []crashfs.Place, choices []crashfs.Choice) { choices[0].Garbage = seed + 1 })
		got, err := c.ReadFile("a")
		must(t, err)
		if s := string(got); s[:100] != sectors("a")[:100] || s[152:] != sectors("ab")[152:] {
			t.Fatalf("seed %d: changed outside of [100,152): %q", seed, s)
		}
		seen[string(got[100:152])] = true
	}
	if len(seen) != 20 {
		t.Errorf("20 seeds give %d kinds of garbage", len(seen))
	}
}

// The random choosers must reach what they promise, and nothing that is not allowed.
func TestRandomChoosersReachEverything(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("ab"))})
	h := open(t, f, "a", os.O_RDWR)
	write(t, h, sectors("xyz"), 0)
	must(t, f.Rename("a", "b"))
	allowed := states(t, f)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name   string
		choose crashfs.Chooser
		whole  bool // whether it must reach every state without spoilt sectors
	}{{"Random", crashfs.Random(rng), true}, {"Garbage", crashfs.Garbage(rng), false}, {"Tear", crashfs.Tear(rng), false}} {
		seen := map[string]bool{}
		for range 20000 {
			seen[show(f.Crash(c.choose))] = true
		}
		spoilt := 0
		for s := range seen {
			if strings.Contains(s, "?") {
				spoilt++
			} else if !slices.Contains(allowed, s) {
				t.Errorf("%s: %q is not allowed", c.name, s)
			}
		}
		if spoilt == 0 {
			t.Errorf("%s: never a spoilt sector", c.name)
		}
		if whole := len(seen) - spoilt; c.whole && whole != len(allowed) {
			t.Errorf("%s: reached %d states of %d", c.name, whole, len(allowed))
		}
	}
}

// What Linux does, and what databases learnt of in 2018 as fsyncgate.
func TestAFailedSyncIsNotMadeGoodByTheNext(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("abc"))})
	h := open(t, f, "a", os.O_RDWR)
	fail := true
	f.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData && fail {
			return syscall.EIO
		}
		return nil
	})
	write(t, h, sectors("xy"), 0)
	if err := h.SyncData(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("error %v, want EIO", err)
	}
	fail = false
	must(t, h.SyncData())
	if got := show(f); got != "a=xyc" {
		t.Errorf("a reader sees %q, want what was written", got)
	}
	if got, want := states(t, f), []string{"a=abc", "a=ayc", "a=xbc", "a=xyc"}; !slices.Equal(got, want) {
		t.Errorf("after a later sync, a crash leaves %q, want %q", got, want)
	}

	again := f.Clone()
	h2 := open(t, again, "a", os.O_RDWR)
	write(t, h2, sectors("x"), 0) // the same bytes, but written again
	must(t, h2.SyncData())
	if got, want := states(t, again), []string{"a=xbc", "a=xyc"}; !slices.Equal(got, want) {
		t.Errorf("after writing one sector again, a crash leaves %q, want %q", got, want)
	}

	write(t, h, sectors("z"), 2*sectorSize) // dirty: the cache must keep it
	must(t, h.DropCache())
	if got := show(f); got != "a=abz" {
		t.Errorf("without the cache a reader sees %q", got)
	}
	must(t, h.SyncData())
	if got, want := states(t, f), []string{"a=abz"}; !slices.Equal(got, want) {
		t.Errorf("without the cache a crash leaves %q, want %q", got, want)
	}
}

func TestAFailedSyncOfAFileThatShrank(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("abc"))})
	h := open(t, f, "a", os.O_RDWR)
	must(t, h.Truncate(700))
	f.SetFault(func(op crashfs.Op) error { return syscall.EIO })
	if h.SyncData() == nil {
		t.Fatal("no error")
	}
	f.SetFault(nil)
	must(t, h.SyncData(), h.DropCache(), h.Truncate(3*sectorSize))
	got, err := f.ReadFile("a")
	must(t, err)
	if want := (sectors("ab")[:700] + string(make([]byte, 3*sectorSize-700))); string(got) != want {
		t.Errorf("what was cut off came back: %s", show(f))
	}
}

func TestAFaultChangesNothingElse(t *testing.T) {
	ops := map[crashfs.OpKind]func(f *crashfs.FS, h fileutil.File) error{
		crashfs.OpCreate: func(f *crashfs.FS, _ fileutil.File) error {
			_, err := f.OpenFile("new", os.O_RDWR|os.O_CREATE, 0o600)
			return err
		},
		crashfs.OpOpen: func(f *crashfs.FS, _ fileutil.File) error {
			_, err := f.OpenFile("a", os.O_RDWR, 0)
			return err
		},
		crashfs.OpRead:        func(_ *crashfs.FS, h fileutil.File) error { _, err := h.ReadAt(make([]byte, 1), 0); return err },
		crashfs.OpWrite:       func(_ *crashfs.FS, h fileutil.File) error { _, err := h.WriteAt([]byte("x"), 0); return err },
		crashfs.OpTruncate:    func(_ *crashfs.FS, h fileutil.File) error { return h.Truncate(1) },
		crashfs.OpPreallocate: func(_ *crashfs.FS, h fileutil.File) error { return h.Preallocate(1 << 20) },
		crashfs.OpSyncData:    func(_ *crashfs.FS, h fileutil.File) error { return h.SyncData() },
		crashfs.OpLock:        func(_ *crashfs.FS, h fileutil.File) error { return h.Lock() },
		crashfs.OpDropCache:   func(_ *crashfs.FS, h fileutil.File) error { return h.DropCache() },
		crashfs.OpClose:       func(_ *crashfs.FS, h fileutil.File) error { return h.Close() },
		crashfs.OpStat:        func(f *crashfs.FS, _ fileutil.File) error { _, err := f.Stat("a"); return err },
		crashfs.OpReadDir:     func(f *crashfs.FS, _ fileutil.File) error { _, err := f.ReadDir("."); return err },
		crashfs.OpSyncDir:     func(f *crashfs.FS, _ fileutil.File) error { return fileutil.SyncDir(f, ".") },
		crashfs.OpRename:      func(f *crashfs.FS, _ fileutil.File) error { return f.Rename("a", "b") },
		crashfs.OpRemove:      func(f *crashfs.FS, _ fileutil.File) error { return f.Remove("a") },
		crashfs.OpMkdir:       func(f *crashfs.FS, _ fileutil.File) error { return f.Mkdir("d", 0o700) },
	}
	for kind, do := range ops {
		t.Run(string(kind), func(t *testing.T) {
			f := crashfs.Load(map[string][]byte{"a": []byte(sectors("ab"))})
			h := open(t, f, "a", os.O_RDWR)
			write(t, h, sectors("x"), 0)
			open(t, f, "pending", os.O_RDWR|os.O_CREATE)
			before := states(t, f)
			var seen []crashfs.OpKind
			var hooks []string
			f.SetHook(func(op crashfs.Op) { hooks = append(hooks, "before "+string(op.Kind)) },
				func(op crashfs.Op) { hooks = append(hooks, "after "+string(op.Kind)) })
			f.SetFault(func(op crashfs.Op) error {
				seen = append(seen, op.Kind)
				if op.Kind == kind {
					return syscall.EIO
				}
				return nil
			})
			ops := f.Ops()
			err := do(f, h)
			seen = slices.DeleteFunc(seen, func(k crashfs.OpKind) bool {
				// A sync of a directory opens and closes it.
				return kind == crashfs.OpSyncDir && (k == crashfs.OpOpen || k == crashfs.OpClose)
			})
			var p *fs.PathError
			var l *os.LinkError
			if !errors.Is(err, syscall.EIO) || !errors.As(err, &p) && !(kind == crashfs.OpRename && errors.As(err, &l)) {
				t.Errorf("error %v, want EIO that names its file", err)
			}
			if !slices.Equal(seen, []crashfs.OpKind{kind}) {
				t.Errorf("the fault saw %v", seen)
			}
			if after := states(t, f); !slices.Equal(after, before) {
				t.Errorf("a crash leaves %q, before %q", after, before)
			}
			var want []string
			if kind.Changes() {
				want = []string{"before " + string(kind), "after " + string(kind)}
			}
			if !slices.Equal(hooks, want) || f.Ops()-ops != len(want)/2 {
				t.Errorf("hooks %q, want %q; %d operations counted", hooks, want, f.Ops()-ops)
			}
			if kind == crashfs.OpClose && !errors.Is(h.Close(), fs.ErrClosed) {
				t.Error("a failed close does not close")
			}
		})
	}
}

func TestAShortWriteWritesInPart(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("ab"))})
	h := open(t, f, "a", os.O_RDWR)
	f.SetFault(func(op crashfs.Op) error {
		if op != (crashfs.Op{Kind: crashfs.OpWrite, Name: "a", Off: 0, N: 1024}) {
			t.Errorf("unexpected %v", op)
		}
		return fmt.Errorf("disk full: %w", crashfs.ShortWrite(512))
	})
	n, err := h.WriteAt([]byte(sectors("xy")), 0)
	if n != 512 || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%d, %v; want 512, ErrShortWrite", n, err)
	}
	if got := show(f); got != "a=xb" {
		t.Errorf("left %q", got)
	}
}

func TestAReadThatFailsInTheMiddleGivesWhatItRead(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte("hello")})
	h := open(t, f, "a", os.O_RDONLY)
	f.SetFault(func(crashfs.Op) error { return crashfs.After(2, syscall.EIO) })
	b := make([]byte, 5)
	if n, err := h.ReadAt(b, 1); n != 2 || string(b[:n]) != "el" || !errors.Is(err, syscall.EIO) {
		t.Errorf("%q, %v; want el, EIO", b[:n], err)
	}
}

func TestHandlesCountsWhatIsOpen(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": nil, "b": nil})
	a, again, b := open(t, f, "a", os.O_RDONLY), open(t, f, "a", os.O_RDWR), open(t, f, "b", os.O_RDWR)
	for i, h := range []fileutil.File{a, again, b} {
		if got, want := f.Handles(), 3-i; got != want {
			t.Errorf("%d files are open, not %d", got, want)
		}
		must(t, h.Close())
	}
	if f.Handles() != 0 || f.Clone().Handles() != 0 {
		t.Error("closed files are open")
	}
}

func TestACloneIsApart(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"d/a": []byte(sectors("ab"))})
	h := open(t, f, "d/a", os.O_RDWR)
	must(t, h.Lock())
	write(t, h, sectors("x"), 0)
	f.SetFault(func(crashfs.Op) error { return nil })
	c := f.Clone()
	if !slices.Equal(states(t, c), states(t, f)) {
		t.Errorf("clone %q, original %q", states(t, c), states(t, f))
	}
	f.SetFault(func(crashfs.Op) error { t.Error("the clone has the fault"); return nil })
	g := open(t, c, "d/a", os.O_RDWR)
	must(t, g.Lock()) // the process that held it is gone
	f.SetFault(nil)
	write(t, h, sectors("1"), sectorSize)
	write(t, g, sectors("2"), sectorSize)
	write(t, h, sectors("3"), 0)
	write(t, g, sectors("4"), 0)
	if show(f) != "d/ d/a=31" || show(c) != "d/ d/a=42" {
		t.Errorf("original %q, clone %q", show(f), show(c))
	}
	must(t, f.Remove("d/a"), g.SyncData(), c.Rename("d/a", "d/b"))
	if got, want := states(t, c), []string{"d/ d/a=42", "d/ d/a=42 d/b=42", "d/ d/b=42"}; !slices.Equal(got, want) {
		t.Errorf("clone %q, want %q", got, want)
	}
	if got, want := states(t, f), []string{"d/", "d/ d/a=a1", "d/ d/a=ab", "d/ d/a=x1", "d/ d/a=xb", "d/ d/a=31", "d/ d/a=3b"}; !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("original %q, want %q", got, want)
	}
}

// Two clones that go on from one history must not write into each other's.
func TestClonesDoNotShareHistory(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("a"))})
	h := open(t, f, "a", os.O_RDWR)
	grow := func(h fileutil.File, f *crashfs.FS, letter string, size int64) {
		write(t, h, sectors(letter), 0)
		must(t, h.Truncate(size*sectorSize))
		open(t, f, "n", os.O_RDWR|os.O_CREATE)
		must(t, f.Remove("n"))
	}
	// An odd number leaves room at the end of a slice.
	grow(h, f, "b", 2)
	grow(h, f, "c", 3)
	grow(h, f, "d", 4)
	left := f.Clone()
	right := f.Clone()
	grow(open(t, left, "a", os.O_RDWR), left, "l", 5)
	want := states(t, left)
	grow(h, f, "o", 7)
	must(t, right.Rename("a", "n"), right.Rename("n", "a"))
	grow(open(t, right, "a", os.O_RDWR), right, "r", 6)
	if got := states(t, left); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	for _, s := range states(t, right) {
		if strings.ContainsAny(s, "lo") {
			t.Errorf("in one clone what another wrote: %q", s)
		}
	}
}

func TestCrashInsideReplaceFileLeavesOldOrNew(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"d/f": []byte(sectors("old"))})
	rng := rand.New(rand.NewPCG(3, 4))
	boundaries, states := 0, map[string]bool{}
	look := func(crashfs.Op) {
		boundaries++
		for range 300 {
			got, err := f.Crash(crashfs.Random(rng)).ReadFile("d/f")
			if s := string(got); err != nil || s != sectors("old") && s != sectors("new!") {
				t.Fatalf("a mixture: %v, %d bytes", err, len(got))
			}
			states[string(got)] = true
		}
	}
	f.SetHook(look, look)
	must(t, fileutil.WriteFile(f, "d/f", []byte(sectors("new!")), 0o600))
	f.SetHook(nil, nil)
	if got := show(f.Crash(crashfs.DropAll)); got != "d/ d/f=new!" {
		t.Errorf("after it returned, a crash leaves %q", got)
	}
	// create, write, sync, rename, sync the directory
	if boundaries != 10 || len(states) != 2 {
		t.Errorf("%d boundaries, %d states; want 10 and 2", boundaries, len(states))
	}
}

func TestReplaceFileWithFaults(t *testing.T) {
	count := 0
	for {
		f := crashfs.Load(map[string][]byte{"f": []byte("old")})
		n, failed := 0, crashfs.OpKind("")
		f.SetFault(func(op crashfs.Op) error {
			if n++; n-1 == count {
				failed = op.Kind
				return syscall.EIO
			}
			return nil
		})
		err := fileutil.WriteFile(f, "f", []byte("new"), 0o600)
		if failed == "" {
			must(t, err)
			break
		}
		want := "old"
		switch {
		case failed == crashfs.OpClose && err == nil: // of the directory
			want = "new"
		case failed == crashfs.OpSyncDir:
			want = "new"
			fallthrough
		default:
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%s fails: error %v", failed, err)
			}
		}
		if got := f.Tree(); len(got) != 1 || string(got["f"]) != want {
			t.Errorf("%s fails: left %q", failed, got)
		}
		count++
	}
	// Open the directory, create, write, sync, close, rename, sync the directory, close it.
	if count != 8 {
		t.Errorf("%d operations", count)
	}
}

func TestFromDir(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d", "empty"), 0o700),
		os.WriteFile(filepath.Join(dir, "d", "a"), []byte(sectors("az")), 0o600),
		os.WriteFile(filepath.Join(dir, "b"), []byte(sectors("bb")), 0o600))
	f, err := crashfs.FromDir(dir)
	must(t, err)
	if got, want := show(f.Crash(crashfs.DropAll)), "b=bb d/ d/a=az d/empty/"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := crashfs.FromDir(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	f.WriteFile("d/a", []byte(sectors("n")))
	f.WriteFile("/x/y/z", nil)
	if got, want := show(f.Crash(crashfs.DropAll)), "b=bb d/ d/a=n d/empty/ x/ x/y/ x/y/z="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// For the race detector: clones share memory.
func TestConcurrentUse(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"a": []byte(sectors("abcd"))})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			h, err := f.OpenFile("a", os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer h.Close()
			rng := rand.New(rand.NewPCG(uint64(i), 0))
			for k := range 100 {
				letter := string(rune('a' + (i+k)%20))
				if _, err := h.WriteAt([]byte(sectors(letter+letter)), int64(i)*sectorSize/2); err != nil {
					t.Error(err)
				}
				c := f.Clone()
				g, err := c.OpenFile("a", os.O_RDWR, 0)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = g.WriteAt([]byte(letter), int64(i)*100)
				err = errors.Join(err, g.SyncData(), h.SyncData())
				c.Crash(crashfs.Random(rng)).Tree()
				f.Crash(crashfs.Random(rng)).Tree()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
