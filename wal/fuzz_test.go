package wal

import (
	"strings"
	"testing"

	"github.com/stele-wal/stele/wal/internal/frame"
)

// FuzzNames takes any name for one in a log's directory. A name is of one kind at most, and a
// segment's is the only one of its segment.
func FuzzNames(f *testing.F) {
	for _, name := range []string{
		frame.SegmentName(0, 0), frame.SegmentName(1<<64-1, 1), copyName(frame.SegmentName(2, 3), 4096, nil), spareName(0), spareName(17),
		copyName(frame.SegmentName(2, 3), 8, nil) + ".0.tmp", markName, "x.wal", "0000000000000000-0000000000000000.wal.broken", "1.wal.tmp", ".tmp", ".torn",
		"0000000000000000-000000000000000G.wal", "0000000000000000-0000000000000000.WAL", "",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		seq, index, segment := frame.ParseSegmentName(name)
		if segment && frame.SegmentName(seq, index) != name {
			t.Errorf("%q is segment %d, %d, which is called %q", name, seq, index, frame.SegmentName(seq, index))
		}
		kinds := 0
		for _, is := range []bool{segment, isSpareName(name), isCopyName(name), name == markName} {
			if is {
				kinds++
			}
		}
		if kinds > 1 {
			t.Errorf("%q is of %d kinds", name, kinds)
		}
		// What is made of a segment's name is not taken for a segment, by us or by etcd.
		for _, made := range []string{copyName(name, 8, nil), copyName(name, 8, nil) + ".0.tmp"} {
			if strings.HasSuffix(made, frame.SegmentSuffix) {
				t.Errorf("%q looks like a segment", made)
			}
			if segment && !isCopyName(made) && !isSpareName(made) {
				t.Errorf("%q is not known", made)
			}
		}
	})
}

// FuzzMark takes any bytes for a mark. One that is accepted can only be written in one way.
func FuzzMark(f *testing.F) {
	var b [markSize]byte
	for _, m := range []mark{{}, {1, 4096, 7, 9}, {1<<64 - 1, 1<<63 - 1, 1<<32 - 1, 1<<32 - 1}} {
		m.put(&b)
		f.Add(b[:])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		var b, again [markSize]byte
		copy(b[:], in)
		m := parseMark(&b)
		if m.put(&again); m != (mark{}) && again != b {
			t.Errorf("%x is taken for %+v, which is written as %x", b, m, again)
		}
		// The fuzzer cannot guess the checksum. Whatever the fields are, what is written is read.
		if m := (mark{uint64(b[0])<<56 | uint64(b[1]), int64(b[2]) << 55, uint32(b[3]) << 24, uint32(b[4])}); true {
			if m.put(&again); parseMark(&again) != m {
				t.Errorf("%+v is read as %+v", m, parseMark(&again))
			}
		}
	})
}
