package crashfs_test

import (
	"bytes"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

func TestSumsDifferAsTreesDo(t *testing.T) {
	seed := maphash.MakeSeed()
	trees := []map[string][]byte{
		{},
		{"a": nil},
		{"b": nil},
		{"a/": nil},
		{"a": {0}},
		{"a": {1}},
		{"a": {1, 0}},
		{"a": bytes.Repeat([]byte{1}, 512)},
		{"a": bytes.Repeat([]byte{1}, 1024)},
		{"a": append(make([]byte, 512), 1)},
		{"a": append(make([]byte, 1024), 1)},
		{"a": {1}, "b": {1}},
		{"a/b": {1}},
		{"a/": nil, "b": {1}},
		{"a/b": {1}, "c": {2}},
		{"a/b": {1}, "a/c": {2}},
		{"a": {1}, "ab": nil},
	}
	for i, a := range trees {
		for j, b := range trees {
			if same := crashfs.Load(a).Sum(seed) == crashfs.Load(b).Sum(seed); same != (i == j) {
				t.Errorf("%q and %q: the same sum %v", a, b, same)
			}
		}
	}
}

// Also of states that come about in other ways, with zeros that were written, torn or never there.
func TestSumsOfCrashesAreThoseOfTheirTrees(t *testing.T) {
	seed := maphash.MakeSeed()
	rng := rand.New(rand.NewPCG(1, 2))
	f := crashfs.Load(map[string][]byte{"d/1": bytes.Repeat([]byte("stele"), 300), "d/2": nil})
	h := open(t, f, "d/1", 2)
	write(t, h, string(make([]byte, 1000)), 200)
	must(t, h.Truncate(5000))
	must(t, f.Rename("d/2", "d/3"))
	found := map[uint64]map[string][]byte{}
	for range 2000 {
		c := f.Crash(crashfs.Random(rng))
		tree, sum := c.Tree(), c.Sum(seed)
		if again := crashfs.Load(tree).Sum(seed); again != sum {
			t.Fatalf("%x, and of a copy %x", sum, again)
		}
		if other, ok := found[sum]; ok && !maps.EqualFunc(tree, other, bytes.Equal) {
			t.Fatal("two trees have the same sum")
		}
		found[sum] = tree
	}
	if len(found) < 50 {
		t.Errorf("only %d states", len(found))
	}
}
