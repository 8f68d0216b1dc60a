package stele_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
)

// TestEtcdLogsAreWhatTheirRowsSay reads the length word of every frame and checks that it is where
// the rows say it is, so that a repacked or hand-edited log cannot disagree with its rows.
func TestEtcdLogsAreWhatTheirRowsSay(t *testing.T) {
	type count struct{ CRC, Metadata, Entry, State, Snapshot int }
	// Counted in the text with grep.
	want := map[string]count{
		"3.4/cut":   {2, 2, 66, 67, 3},
		"3.4/small": {1, 1, 52, 50, 3},
		"3.5/small": {1, 1, 52, 50, 3},
		"3.7/kill9": {1, 1, 52, 53, 3},
		"3.7/small": {1, 1, 52, 54, 3},
	}
	dirs := testlogs.Etcd(t)
	got := map[string]count{}
	for name, dir := range dirs {
		var n count
		segments := map[string][]byte{}
		next := map[string]int64{} // where the frame after the last one begins
		for _, s := range testlogs.Segments(t, dir) {
			b, err := os.ReadFile(filepath.Join(dir, "member/wal", s.Name))
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(b)) != s.Size {
				t.Errorf("%s: %s has %d bytes, the rows say %d", name, s.Name, len(b), s.Size)
			}
			if tail := b[s.End:]; bytes.Count(tail, []byte{0}) != len(tail) {
				t.Errorf("%s: %s is not all zero after its end at %d", name, s.Name, s.End)
			}
			segments[s.Name] = b
		}
		var chain uint32
		for _, r := range testlogs.Rows(t, dir) {
			if r.Offset != next[r.Segment] {
				t.Fatalf("%s: %s: a row at %d, the frame before it ends at %d", name, r.Segment, r.Offset, next[r.Segment])
			}
			b := segments[r.Segment][r.Offset:]
			length := uint64(r.Len)
			if r.Pad > 0 {
				length |= uint64(0x80|r.Pad) << 56
			}
			if word := binary.LittleEndian.Uint64(b); word != length {
				t.Errorf("%s: %s: length word at %d is %#x, the row says %#x", name, r.Segment, r.Offset, word, length)
			}
			next[r.Segment] += int64(8 + r.Len + r.Pad)

			switch r.Type {
			case "crc":
				n.CRC++
			case "metadata":
				n.Metadata++
			case "entry":
				n.Entry++
			case "state":
				n.State++
			case "snapshot":
				n.Snapshot++
			}
			chain = crc32.Update(chain, crc32.MakeTable(crc32.Castagnoli), dataOf(b[8:8+r.Len]))
			if chain != r.CRC {
				t.Errorf("%s: %s: the chain at %d is %08x, the row says %08x", name, r.Segment, r.Offset, chain, r.CRC)
			}
		}
		for _, s := range testlogs.Segments(t, dir) {
			if next[s.Name] != s.End {
				t.Errorf("%s: %s: the last row ends at %d, the end is at %d", name, s.Name, next[s.Name], s.End)
			}
		}
		got[name] = n
	}
	if !maps.Equal(got, want) {
		t.Errorf("records of each type:\n got %+v\nwant %+v", got, want)
	}
}

// dataOf finds the data of a record that etcd wrote: type and checksum as varints, then the data,
// each after its key.
func dataOf(record []byte) []byte {
	for len(record) > 0 && record[0] != 0x1a {
		_, n := binary.Uvarint(record[1:])
		record = record[1+n:]
	}
	if len(record) == 0 {
		return nil
	}
	_, n := binary.Uvarint(record[1:])
	return record[1+n:]
}

// TestRowsOfBothDialects compares single rows with what the text shows, read by eye.
func TestRowsOfBothDialects(t *testing.T) {
	dirs := testlogs.Etcd(t, "3.4/cut", "3.7/small")
	first := "0000000000000000-0000000000000000.wal"
	const member, cluster = 3319814642761637952, 324952591200643719
	tests := map[string][]testlogs.Row{
		"3.4/cut": {
			{
				Segment: first, Offset: 16, Len: 29, Pad: 3, Type: "metadata", CRC: 0x02de4e0d,
				NodeID: member, ClusterID: cluster,
			},
			{
				Segment: first, Offset: 224, Len: 16, Type: "entry", CRC: 0x21039cba,
				Term: 2, Index: 2, HasEntryType: true,
			},
			{
				Segment: first, Offset: 600, Len: 1400050, Pad: 6, Type: "entry", CRC: 0xab1faff0,
				Term: 2, Index: 5, HasEntryType: true, HasData: true, DataLen: 1400028,
				DataPrefix: []byte("\x22\xca\xb9\x55\x0a\x04big1\x12\xc0\xb9\x55xxxxxxxxxx"),
			},
		},
		"3.7/small": {
			{Segment: first, Offset: 56, Len: 14, Pad: 2, Type: "snapshot", CRC: 0xd1b14607},
			{
				Segment: first, Offset: 80, Len: 108, Pad: 4, Type: "entry", CRC: 0xb339fe5f,
				Term: 1, Index: 1, EntryType: 1, HasEntryType: true, HasData: true, DataLen: 90,
				DataPrefix: []byte("\x10\x00\x18\xc0\xc0\xca\xaf\xc1\xba\x96\x89.\"L{\"id\":3319"),
			},
			{
				Segment: first, Offset: 224, Len: 24, Type: "state", CRC: 0xf800c158,
				Term: 2, Vote: member, Commit: 1,
			},
			{Segment: first, Offset: 256, Len: 14, Pad: 2, Type: "entry", CRC: 0x89b4355b, Term: 2, Index: 2},
			{
				Segment: first, Offset: 400, Len: 40, Type: "entry", CRC: 0xe9da3330,
				Term: 2, Index: 4, HasData: true, DataLen: 24,
				DataPrefix: []byte("\xa2\x06\x0b\x08\x82\xce\xa7\xff\xb8\xc0\xa8\xa0\xa0\x01\xa2Q\x07\x0a\x053.7.0"),
			},
			{
				Segment: first, Offset: 2064, Len: 28, Pad: 4, Type: "snapshot", CRC: 0x8593532f,
				Term: 2, Index: 21, ConfState: []byte("\x08\xc0\xc0\xca\xaf\xc1\xba\x96\x89.(\x00"),
			},
		},
	}
	for name, wants := range tests {
		rows := testlogs.Rows(t, dirs[name])
		for _, want := range wants {
			i := slices.IndexFunc(rows, func(r testlogs.Row) bool { return r.Segment == want.Segment && r.Offset == want.Offset })
			if i < 0 {
				t.Errorf("%s: no row at %d", name, want.Offset)
			} else if !reflect.DeepEqual(rows[i], want) {
				t.Errorf("%s: at %d:\n got %+v\nwant %+v", name, want.Offset, rows[i], want)
			}
		}
	}
}

// TestDefectsAreAllThere also makes sure that a test may write to what it was given.
func TestDefectsAreAllThere(t *testing.T) {
	dirs := testlogs.Defects(t)
	if len(dirs) != 13 {
		t.Errorf("%d damaged logs, want 13: %v", len(dirs), slices.Sorted(maps.Keys(dirs)))
	}
	for name, dir := range dirs {
		segments, err := filepath.Glob(filepath.Join(dir, "*-*.wal"))
		if err != nil {
			t.Fatal(err)
		}
		if len(segments) == 0 {
			t.Errorf("%s has no segment", name)
		}
		for _, s := range segments {
			info, err := os.Stat(s)
			if err != nil {
				t.Error(err)
			} else if info.Mode().Perm()&0o200 == 0 {
				t.Errorf("%s: %s is read-only", name, filepath.Base(s))
			}
		}
		if !strings.Contains(testlogs.Behaviour, "## "+name+" ") {
			t.Errorf("%s: nothing says what etcd did with it", name)
		}
	}
}
