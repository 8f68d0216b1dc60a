package snap

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/walpb"
	"pgregory.net/rapid"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What etcd wrote for one snapshot, before 3.7 and since.
func TestGoldenBytesOfBothDialects(t *testing.T) {
	for _, test := range []struct {
		name, file string
		confState  string
	}{
		{"3.6 and before", "08f5e1f3e705 1216 0a0568656c6c6f 120d 0a06080108022800 10b424 1807", "080108022800"},
		{"3.7", "08aecd8d9d0f 1214 0a0568656c6c6f 120b 0a0408010802 10b424 1807", "08010802"},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := Snapshot{Index: 0x1234, Term: 7, ConfState: unhex(t, test.confState), Data: []byte("hello")}
			var got Snapshot
			if err := got.Unmarshal(unhex(t, test.file)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
			if got := want.Append([]byte("x")); !bytes.Equal(got, append([]byte("x"), unhex(t, test.file)...)) {
				t.Errorf("wrote %x", got)
			}
		})
	}
}

// The files of real members of each version are read, hold what their names say, and are written
// again byte for byte.
func TestFilesOfRealMembers(t *testing.T) {
	files := 0
	for log, dir := range testlogs.Etcd(t, "3.4/small", "3.5/small", "3.7/small", "3.7/kill9") {
		store, err := Open(filepath.Join(dir, "member", "snap"), nil)
		if err != nil {
			t.Fatal(err)
		}
		list, err := store.List()
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Snapshots) != 2 || len(list.Strays) != 0 {
			t.Errorf("%s: %+v", log, list)
		}
		for _, r := range list.Snapshots {
			s, err := store.Load(r.Index, r.Term)
			if err != nil {
				t.Fatalf("%s: %v", log, err)
			}
			if s.Index != r.Index || s.Term != r.Term || len(s.ConfState) == 0 || len(s.Data) < 1000 {
				t.Errorf("%s: %d/%d: read %d/%d, conf state %x, %d bytes", log, r.Term, r.Index, s.Term, s.Index, s.ConfState, len(s.Data))
			}
			onDisk, err := os.ReadFile(filepath.Join(dir, "member", "snap", snapshotName(r.Index, r.Term)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.Append(nil), onDisk) {
				t.Errorf("%s: %d/%d is not written as it was read", log, r.Term, r.Index)
			}
			files++
		}
		// Of those that the log records, as an independent reader found, the newest is found.
		var recorded []walpb.Snapshot
		for _, row := range testlogs.Rows(t, dir) {
			if row.Type == "snapshot" {
				recorded = append(recorded, walpb.Snapshot{Index: row.Index, Term: row.Term, ConfState: row.ConfState})
			}
		}
		newest := recorded[len(recorded)-1]
		s, err := store.Newest(recorded)
		if err != nil {
			t.Fatalf("%s: %v", log, err)
		}
		if s.Index != newest.Index || s.Term != newest.Term || newest.ConfState != nil && !bytes.Equal(s.ConfState, newest.ConfState) {
			t.Errorf("%s: found %d/%d %x, recorded %+v", log, s.Term, s.Index, s.ConfState, newest)
		}
	}
	if files != 8 {
		t.Errorf("read %d files", files)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		content := rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{}), rapid.SliceOf(rapid.Byte()))
		want := Snapshot{
			Index:     rapid.Uint64().Draw(t, "index"),
			Term:      rapid.Uint64().Draw(t, "term"),
			ConfState: content.Draw(t, "conf state"),
			Data:      content.Draw(t, "data"),
		}
		var got Snapshot
		if err := got.Unmarshal(want.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" { // nil is not empty
			t.Fatal(diff)
		}
	})
}

func TestUnmarshalRefuses(t *testing.T) {
	// file puts a content under the right checksum.
	file := func(content string) string {
		b := unhex(t, content)
		s := []byte{8}
		sum := walpb.Checksum(0, b)
		for ; sum >= 0x80; sum >>= 7 {
			s = append(s, byte(sum)|0x80)
		}
		return hex.EncodeToString(append(append(s, byte(sum), 0x12, byte(len(b))), b...))
	}
	for _, test := range []struct{ name, file, want string }{
		{"nothing", "", "offset 0: the file is empty"},
		{"no checksum", "1200", "offset 0: no checksum"},
		{"no content", "0800", "offset 2: no content"},
		{"a checksum of more than 32 bits", "08ffffffff7f1200", "offset 1: malformed checksum"},
		{"a checksum longer than its value needs", "0880001200", "offset 1: malformed checksum"},
		{"a length longer than its value needs", "0800128000", "offset 3: malformed length"},
		{"an endless varint", "08ffffffffffffffffffff", "offset 1: malformed checksum"},
		{"a content that is longer than the file", "080012ffffffffffffffff7f00", "offset 12: the content has 1 bytes and the file says 9223372036854775807"},
		{"something after the content", file("120410011801") + "00", "the content has 7 bytes and the file says 6"},
		{"a checksum of 0 that is not right", "0800120410011801", "offset 4: checksum mismatch"},
		{"another checksum", "0801120410011801", "offset 4: checksum mismatch"},
		{"a field twice", file("1204100118011204 10011801"), "malformed field"},
		{"fields out of order", file("12041001180 10a00"), "malformed field"},
		{"an index of the wrong type", file("1202 1200"), "unexpected field"},
		{"data of the wrong type", file("0801"), "unexpected field"},
		{"a message that is longer than the one around it", file("12051001"), "a field is longer than its message"},
		{"a group", file("1b"), "malformed field"},
		{"field number 0", file("0200"), "malformed field"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Snapshot{Index: 1}
			err := s.Unmarshal(unhex(t, test.file))
			var c *CorruptError
			if !errors.As(err, &c) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if s.Index != 1 {
				t.Errorf("it was changed: %+v", s)
			}
		})
	}
	t.Run("but not what a later version may add", func(t *testing.T) {
		var s Snapshot
		if err := s.Unmarshal(unhex(t, file("0a0178 120a 1005 1802 220161 2d01020304"+"1a00"))); err == nil {
			t.Error("a field that goes beyond its message was accepted")
		}
		if err := s.Unmarshal(unhex(t, file("0a0178 120c 1005 1802 220161 2d01020304"+"1a00 3901020304050607 08"))); err != nil {
			t.Fatal(err)
		}
		if s.Index != 5 || s.Term != 2 || string(s.Data) != "x" {
			t.Errorf("got %+v", s)
		}
	})
}

// etcd takes a snapshot whose checksum happens to be 0 for an empty file.
func TestChecksumOfZeroIsOne(t *testing.T) {
	sum := func(data uint32) uint32 {
		s := Snapshot{Index: 1, Term: 1, Data: binary.LittleEndian.AppendUint32(nil, data)}
		b := s.Append(nil)
		v, _ := binary.Uvarint(b[1:])
		return uint32(v)
	}
	// A checksum is linear in the bits of what it covers, except for a constant: so the data that
	// give 0 can be solved for.
	type row struct{ bit, effect uint32 }
	var rows []row
	for i := range 32 {
		rows = append(rows, row{1 << i, sum(1<<i) ^ sum(0)})
	}
	data, left := uint32(0), sum(0)
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		i := slices.IndexFunc(rows, func(r row) bool { return r.effect&bit != 0 })
		if i < 0 {
			t.Fatal("no solution")
		}
		r := rows[i]
		rows = slices.Delete(rows, i, i+1)
		for j := range rows {
			if rows[j].effect&bit != 0 {
				rows[j].bit ^= r.bit
				rows[j].effect ^= r.effect
			}
		}
		if left&bit != 0 {
			data, left = data^r.bit, left^r.effect
		}
	}
	want := Snapshot{Index: 1, Term: 1, Data: binary.LittleEndian.AppendUint32(nil, data)}
	b := want.Append(nil)
	if b[1] != 0 || b[2] != tagFileData {
		t.Fatalf("the checksum is not 0: %x", b)
	}
	var got Snapshot
	if err := got.Unmarshal(b); err != nil || !cmp.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNamesAreStrict(t *testing.T) {
	for name, want := range map[string]fileKind{
		"0000000000000002-000000000000001a.snap":        snapshotFile,
		"000000000000001a.snap.db":                      bodyFile,
		"000000000000001a.snap.db.partial":              partialFile,
		"0000000000000002-000000000000001a.snap.broken": brokenFile,
		"000000000000001a.snap.db.broken":               brokenFile,
		"0000000000000002-000000000000001a.snap.0.tmp":  temporaryFile,
		"0000000000000002-000000000000001a.snap.12.tmp": temporaryFile,
		"0000000000000002-000000000000001A.snap":        strayFile,
		"2-1a.snap":                                     strayFile,
		"0000000000000002_000000000000001a.snap":        strayFile,
		"+000000000000002-000000000000001a.snap":        strayFile,
		"0000000000000002-000000000000001a.snap.snap":   strayFile,
		"0000000000000002-000000000000001a.snap.db":     strayFile,
		"1a.snap.db": strayFile,
		".snap":      strayFile,
		"0000000000000002-000000000000001a.snap.tmp":   otherFile,
		"0000000000000002-000000000000001a.snap.x.tmp": otherFile,
		"2-1a.snap.0.tmp":  otherFile,
		"2-1a.snap.broken": otherFile,
		"0000000000000002-000000000000001a.snap.broken.0.tmp": otherFile,
		"db":         otherFile,
		"tmp1234":    otherFile,
		"db.tmp1234": otherFile,
		"":           otherFile,
	} {
		if _, _, got := parseName(name); got != want {
			t.Errorf("%q is %d, want %d", name, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		index, term := rapid.Uint64().Draw(t, "index"), rapid.Uint64().Draw(t, "term")
		if gotTerm, gotIndex, kind := parseName(snapshotName(index, term)); gotTerm != term || gotIndex != index || kind != snapshotFile {
			t.Errorf("%s: %d %d %d", snapshotName(index, term), gotIndex, gotTerm, kind)
		}
		if _, gotIndex, kind := parseName(bodyName(index)); gotIndex != index || kind != bodyFile {
			t.Errorf("%s: %d %d", bodyName(index), gotIndex, kind)
		}
	})
}
