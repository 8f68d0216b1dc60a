package crashfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"pgregory.net/rapid"
)

// The model is a map of names to bytes: what a reader must see. A history is compared with it after
// each step, and the crashes with the history: when everything is synced, every crash leaves it
// all.
func TestAnyHistory(t *testing.T) {
	names := []string{"a", "b", "d/a", "d/b"}
	rapid.Check(t, func(t *rapid.T) {
		f := crashfs.New()
		if err := errors.Join(f.Mkdir("d", 0o700), fileutil.SyncDir(f, "."), fileutil.SyncDir(f, "d")); err != nil {
			t.Fatal(err)
		}
		model := map[string][]byte{}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		name := func() string { return rapid.SampledFrom(names).Draw(t, "name") }
		with := func(flag int, do func(name string, h fileutil.File) error) {
			n := name()
			h, err := f.OpenFile(n, flag, 0o600)
			if model[n] == nil && flag&os.O_CREATE == 0 {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("open %s: %v, want ErrNotExist", n, err)
				}
				return
			}
			if model[n] == nil {
				model[n] = []byte{}
			}
			if err = errors.Join(err, do(n, h), h.Close()); err != nil {
				t.Fatal(err)
			}
		}
		resize := func(n string, size int) {
			model[n] = slices.Clone(model[n])
			for len(model[n]) < size {
				model[n] = append(model[n], 0)
			}
			model[n] = model[n][:size]
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				off := rapid.IntRange(0, 3000).Draw(t, "off")
				data := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, rapid.IntRange(0, 2000).Draw(t, "len"))
				with(os.O_RDWR|os.O_CREATE, func(n string, h fileutil.File) error {
					if len(data) > 0 {
						resize(n, max(len(model[n]), off+len(data)))
						copy(model[n][off:], data)
					}
					_, err := h.WriteAt(data, int64(off))
					return err
				})
			},
			"truncate": func(t *rapid.T) {
				size := rapid.IntRange(0, 5000).Draw(t, "size")
				with(os.O_RDWR, func(n string, h fileutil.File) error {
					resize(n, size)
					return h.Truncate(int64(size))
				})
			},
			"preallocate": func(t *rapid.T) {
				size := rapid.IntRange(0, 5000).Draw(t, "size")
				with(os.O_RDWR|os.O_CREATE, func(n string, h fileutil.File) error {
					resize(n, max(size, len(model[n])))
					return h.Preallocate(int64(size))
				})
			},
			"sync": func(t *rapid.T) {
				with(os.O_RDONLY, func(_ string, h fileutil.File) error { return h.SyncData() })
			},
			"sync directory": func(t *rapid.T) {
				if err := fileutil.SyncDir(f, path.Dir(name())); err != nil {
					t.Fatal(err)
				}
			},
			"remove": func(t *rapid.T) {
				n := name()
				if err := f.Remove(n); (err == nil) != (model[n] != nil) {
					t.Fatal(err)
				}
				delete(model, n)
			},
			"rename": func(t *rapid.T) {
				from, to := name(), name()
				if err := f.Rename(from, to); (err == nil) != (model[from] != nil) {
					t.Fatal(err)
				}
				if model[from] != nil && from != to {
					model[to] = model[from]
					delete(model, from)
				}
			},
			"go on with a clone": func(*rapid.T) { f = f.Clone() },
			"crash and go on": func(*rapid.T) {
				f = f.Crash(crashfs.Random(rng))
				// A crash can leave one file under two names, which the model does not know.
				for n, data := range f.Tree() {
					if !strings.HasSuffix(n, "/") {
						f.WriteFile(n+".copy", data)
						if err := f.Rename(n+".copy", n); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := errors.Join(fileutil.SyncDir(f, "."), fileutil.SyncDir(f, "d")); err != nil {
					t.Fatal(err)
				}
				model = files(f)
			},
			"sync everything": func(t *rapid.T) {
				for n := range model {
					h, err := f.OpenFile(n, os.O_RDONLY, 0)
					if err := errors.Join(err, h.SyncData(), h.Close()); err != nil {
						t.Fatal(err)
					}
				}
				if err := errors.Join(fileutil.SyncDir(f, "."), fileutil.SyncDir(f, "d")); err != nil {
					t.Fatal(err)
				}
				if p := f.Pending(); len(p) != 0 {
					t.Fatalf("still pending: %v", p)
				}
				for range 3 {
					if got := files(f.Crash(crashfs.Random(rng))); !same(got, model) {
						t.Fatal("a crash lost what was synced")
					}
				}
			},
			"": func(t *rapid.T) {
				if got := files(f); !same(got, model) {
					t.Fatal("a reader does not see the model")
				}
				if got := files(f.Crash(crashfs.KeepAll)); !same(got, model) {
					t.Fatal("KeepAll lost something")
				}
				if !same(files(f.Crash(crashfs.DropAll)), files(f.Crash(crashfs.Prefix(0)))) {
					t.Fatal("DropAll is not Prefix(0)")
				}
				if !same(files(f.Crash(crashfs.Prefix(f.Changes()))), model) {
					t.Fatal("Prefix of all is not all")
				}
				f.Crash(crashfs.Random(rng))
				if got := files(f); !same(got, model) {
					t.Fatal("a crash changed the original")
				}
			},
		})
	})
}

// TestDropAllIsTheLastSync does anything after everything was synced, but sync.
func TestDropAllIsTheLastSync(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := crashfs.Load(map[string][]byte{
			"a": bytes.Repeat([]byte("a"), 1500), "b": bytes.Repeat([]byte("b"), 700), "d/a": {}, "d/b": []byte("b"),
		})
		want := f.Tree()
		names := []string{"a", "b", "c", "d/a", "d/b", "d/c"}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if got := f.Crash(crashfs.DropAll).Tree(); !same(got, want) {
					t.Fatalf("DropAll leaves %v", slices.Sorted(maps.Keys(got)))
				}
			},
			"write": func(t *rapid.T) {
				h, err := f.OpenFile(rapid.SampledFrom(names).Draw(t, "name"), os.O_RDWR|os.O_CREATE, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				_, err = h.WriteAt(make([]byte, rapid.IntRange(0, 1000).Draw(t, "len")), rapid.Int64Range(0, 2000).Draw(t, "off"))
				if err = errors.Join(err, h.Truncate(rapid.Int64Range(0, 3000).Draw(t, "size")), h.Close()); err != nil {
					t.Fatal(err)
				}
			},
			// Errors are for names that are not there.
			"remove": func(t *rapid.T) { _ = f.Remove(rapid.SampledFrom(names).Draw(t, "name")) },
			"rename": func(t *rapid.T) {
				_ = f.Rename(rapid.SampledFrom(names).Draw(t, "from"), rapid.SampledFrom(names).Draw(t, "to"))
			},
			"clone": func(*rapid.T) { f = f.Clone() },
		})
	})
}

// TestRenamesNeverLoseAFile renames at will, and syncs directories at will, and counts the contents
// that are left.
func TestRenamesNeverLoseAFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := map[string][]byte{"a": []byte("1"), "b": []byte("2"), "d/a": []byte("3"), "e/": nil}
		f := crashfs.Load(start)
		names := []string{"a", "b", "c", "d/a", "d/b", "e/a", "e/b"}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				for _, choose := range []crashfs.Chooser{crashfs.DropAll, crashfs.Random(rng), crashfs.Random(rng), crashfs.Prefix(rng.IntN(f.Changes() + 1))} {
					contents := map[string]bool{}
					for _, data := range files(f.Crash(choose)) {
						contents[string(data)] = true
					}
					for _, want := range []string{"1", "2", "3"} {
						if !contents[want] {
							t.Fatalf("file %s is lost", want)
						}
					}
				}
			},
			"rename": func(t *rapid.T) {
				from, to := rapid.SampledFrom(names).Draw(t, "from"), rapid.SampledFrom(names).Draw(t, "to")
				if _, err := f.Stat(to); err == nil {
					return // what is renamed over may be lost
				}
				_ = f.Rename(from, to)
			},
			"sync": func(t *rapid.T) {
				if err := fileutil.SyncDir(f, rapid.SampledFrom([]string{".", "d", "e"}).Draw(t, "dir")); err != nil {
					t.Fatal(err)
				}
			},
			"clone": func(*rapid.T) { f = f.Clone() },
		})
	})
}

// files is the tree without directories.
func files(f *crashfs.FS) map[string][]byte {
	tree := f.Tree()
	maps.DeleteFunc(tree, func(name string, _ []byte) bool { return strings.HasSuffix(name, "/") })
	return tree
}

func same(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }
