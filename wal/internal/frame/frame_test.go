package frame

import (
	"strings"
	"testing"
)

func TestSegmentNamesAreReadAsStrictlyAsTheyAreWritten(t *testing.T) {
	for _, n := range []struct{ seq, index uint64 }{{0, 0}, {1, 42}, {1<<64 - 1, 1<<63 + 5}} {
		name := SegmentName(n.seq, n.index)
		if seq, index, ok := ParseSegmentName(name); !ok || seq != n.seq || index != n.index {
			t.Errorf("%s: %d %d %v", name, seq, index, ok)
		}
	}
	good := SegmentName(10, 11)
	for _, name := range []string{
		"", ".wal", good + ".wal", good + "x.wal", strings.ToUpper(good[:33]) + ".wal", good[1:], "0" + good, strings.Replace(good, "-", "_", 1),
		good + ".orig.wal", "x" + good[1:], strings.Replace(good, "b", "B", 1), good[:33] + ".WAL",
	} {
		if _, _, ok := ParseSegmentName(name); ok {
			t.Errorf("%q passes for a segment's name", name)
		}
	}
}

func TestLengthWordsAreReadAsStrictlyAsTheyAreWritten(t *testing.T) {
	for size := 1; size < 5000; size++ {
		word := LengthWord(size)
		got, pad, ok := ParseLengthWord(word)
		if !ok || got != int64(size) || (WordSize+size+pad)%WordSize != 0 {
			t.Fatalf("%d: %d %d %v", size, got, pad, ok)
		}
		for bit := 56; bit < 64; bit++ {
			if _, _, ok := ParseLengthWord(word ^ 1<<bit); ok {
				t.Errorf("%d: bit %d may change", size, bit)
			}
		}
	}
	if _, _, ok := ParseLengthWord(0); ok {
		t.Error("a length of zero")
	}
	if size, pad, ok := ParseLengthWord(13); !ok || size != 13 || pad != 0 {
		t.Error("etcd 2 did not pad")
	}
}

// FuzzLengthWord takes any number for a length word.
func FuzzLengthWord(f *testing.F) {
	for _, size := range []int{1, 7, 8, 9, 1 << 20} {
		f.Add(LengthWord(size))
	}
	f.Add(uint64(0))
	f.Add(^uint64(0))
	f.Fuzz(func(t *testing.T, word uint64) {
		size, pad, ok := ParseLengthWord(word)
		if !ok {
			return
		}
		if size <= 0 || size >= 1<<56 || pad < 0 || pad >= WordSize || pad > 0 && (size+int64(pad))%WordSize != 0 {
			t.Errorf("%#x: size %d, padding %d", word, size, pad)
		}
		if written := LengthWord(int(size)); word != written && word != uint64(size) {
			t.Errorf("%#x is read as %d bytes, which are written as %#x", word, size, written)
		}
	})
}
