package walpb_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stele-wal/stele/walpb"
)

// The two dialects of one log, frame by frame, as etcd 3.6 (gogo) and etcd 3.7 (google) wrote it:
// created with metadata "meta", then hard state {1 1 0} with entry 1/1 "x", then a snapshot record
// 1/1 of voters 1, 2, 3.
const (
	goldenStart = `
		04000000 00000084 0804 1000 00000000
		0e000000 00000082 0801 1095a19cd801 1a04 6d657461 0000
		0e000000 00000082 0805 10f2c4f7fa01 1a04 08001000 0000`
	goldenGogo = goldenStart + `
		13000000 00000085 0802 10cbbd89830f 1a09 080010011801220178 0000000000
		10000000 00000000 0803 10d6bab1a205 1a06 080110011800
		18000000 00000000 0805 10859285ed08 1a0e 080110011a080801080208032800`
	goldenGoogle = goldenStart + `
		11000000 00000087 0802 10e781e3e90f 1a07 10011801220178 00000000000000
		10000000 00000000 0803 10d9b890ff0b 1a06 080110011800
		16000000 00000082 0805 10eeca88e705 1a0c 080110011a06080108020803 0000`
)

// unhex decodes hex digits, between which there may be spaces.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// goldenRecords returns the encoded records of a golden log without their frames.
func goldenRecords(log string) [][]byte {
	var records [][]byte
	for b := unhex(log); len(b) > 0; {
		word := binary.LittleEndian.Uint64(b)
		size, pad := int(word&(1<<56-1)), 0
		if word>>63 == 1 {
			pad = int(word >> 56 & 7)
		}
		records = append(records, b[8:8+size])
		b = b[8+size+pad:]
	}
	return records
}

func TestGoldenLogsOfBothDialectsMeanTheSame(t *testing.T) {
	gogoVoters := unhex("0801 0802 0803 2800")
	googleVoters := unhex("0801 0802 0803")
	for _, c := range []struct {
		name, log string
		voters    []byte
	}{
		{"gogo", goldenGogo, gogoVoters},
		{"google", goldenGoogle, googleVoters},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := []string{
				"crc", `metadata "meta"`, "snapshot 0/0 ", "entry normal 1/1 \"x\"", "state 1 1 0",
				fmt.Sprintf("snapshot 1/1 %x", c.voters),
			}
			var got []string
			var chain uint32
			for _, raw := range goldenRecords(c.log) {
				var r walpb.Record
				if err := r.Unmarshal(raw); err != nil {
					t.Fatalf("% x: %v", raw, err)
				}
				if chain = walpb.Checksum(chain, r.Data); chain != r.CRC {
					t.Errorf("%v: crc %08x, chain %08x", r.Type, r.CRC, chain)
				}
				if again := r.Append(nil); !cmp.Equal(again, raw) {
					t.Errorf("%v: encoded again: % x, want % x", r.Type, again, raw)
				}
				got = append(got, strings.TrimRight(describe(t, r), "\n"))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func describe(t *testing.T, r walpb.Record) string {
	var err error
	var s string
	switch r.Type {
	case walpb.TypeMetadata:
		s = fmt.Sprintf("%v %q", r.Type, r.Data)
	case walpb.TypeEntry:
		var e walpb.Entry
		err = e.Unmarshal(r.Data)
		s = fmt.Sprintf("%v %v %d/%d %q", r.Type, e.Type, e.Term, e.Index, e.Data)
	case walpb.TypeState:
		var h walpb.HardState
		err = h.Unmarshal(r.Data)
		s = fmt.Sprintf("%v %d %d %d", r.Type, h.Term, h.Vote, h.Commit)
	case walpb.TypeSnapshot:
		var p walpb.Snapshot
		err = p.Unmarshal(r.Data)
		s = fmt.Sprintf("%v %d/%d %x", r.Type, p.Term, p.Index, p.ConfState)
	default:
		s = r.Type.String()
	}
	if err != nil {
		t.Errorf("%v: %v", r.Type, err)
	}
	return s
}

// A message is what the four have in common.
type message interface {
	Size() int
	Append([]byte) []byte
	Unmarshal([]byte) error
}

// A lenientMessage can also be read leniently: all but the record itself.
type lenientMessage interface {
	message
	UnmarshalLenient([]byte) error
}

var goldenMessages = []struct {
	name  string
	value message
	bytes string // what we write: the google dialect
	gogo  string // what etcd before 3.7 wrote for the same value, if that was something else
}{
	{"zero entry", &walpb.Entry{}, "1000 1800", "0800 1000 1800"},
	{"entry without data", &walpb.Entry{Term: 1, Index: 1}, "1001 1801", "0800 1001 1801"},
	{"entry with empty data", &walpb.Entry{Term: 1, Index: 2, Data: []byte{}}, "1001 1802 2200", "0800 1001 1802 2200"},
	{"entry", &walpb.Entry{Term: 1, Index: 1, Data: []byte("x")}, "1001 1801 220178", "0800 1001 1801 220178"},
	{"entry of type 2", &walpb.Entry{Type: 2, Term: 300, Index: 2, Data: []byte("abc")}, "0802 10ac02 1802 2203616263", ""},
	{"conf change", &walpb.Entry{Type: 1, Term: 1, Index: 3, Data: []byte{}}, "0801 1001 1803 2200", ""},
	{"longest numbers", &walpb.Entry{Type: 2, Term: 1<<64 - 1, Index: 1 << 63}, "0802 10ffffffffffffffffff01 1880808080808080808001", ""},
	{"hard state", &walpb.HardState{Term: 1, Vote: 1}, "0801 1001 1800", ""},
	{"hard state without vote", &walpb.HardState{Term: 1}, "0801 1000 1800", ""},
	{"zero hard state", &walpb.HardState{}, "0800 1000 1800", ""},
	{"full hard state", &walpb.HardState{Term: 300, Vote: 1 << 56, Commit: 1<<56 - 1}, "08ac02 10808080808080808001 18ffffffffffffff7f", ""},
	{"zero snapshot", &walpb.Snapshot{}, "0800 1000", ""},
	{"snapshot", &walpb.Snapshot{Index: 1, Term: 1, ConfState: unhex("080108020803")}, "0801 1001 1a06080108020803", ""},
	{"snapshot of a full conf state", &walpb.Snapshot{Index: 5, Term: 2, ConfState: unhex("080108ac021004180520062801")}, "0805 1002 1a0d 080108ac021004180520062801", ""},
	{"snapshot of an empty conf state", &walpb.Snapshot{Index: 5, Term: 2, ConfState: []byte{}}, "0805 1002 1a00", ""},
	{"record without data", &walpb.Record{Type: 4}, "0804 1000", ""},
	{"seed of a later segment", &walpb.Record{Type: 4, CRC: 0x4d1e4cf6}, "0804 10f699f9e804", ""},
	{"record of nil metadata", &walpb.Record{Type: 1}, "0801 1000", ""},
	{"record with empty data", &walpb.Record{Type: 1, Data: []byte{}}, "0801 1000 1a00", ""},
	{"record of type 0", &walpb.Record{}, "0800 1000", ""},
	{"record of type 255", &walpb.Record{Type: 255, CRC: 1<<32 - 1}, "08ff01 10ffffffff0f", ""},
	{"record with a witness", &walpb.Record{Type: 2, CRC: 5, SyncedTo: 4096, HeaderCRC: 0x01020304, HasHeaderCRC: true, Data: []byte("abc")},
		"0802 1005 208020 2d04030201 1a03616263", ""},
	{"record with header_crc that claims nothing", &walpb.Record{Type: 4, CRC: 5, HasHeaderCRC: true}, "0804 1005 2d00000000", ""},
}

func TestGoldenMessages(t *testing.T) {
	for _, c := range goldenMessages {
		t.Run(c.name, func(t *testing.T) {
			want := unhex(c.bytes)
			if got := c.value.Append([]byte("before")); !cmp.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("Append = % x, want % x", got[6:], want)
			}
			if got := c.value.Size(); got != len(want) {
				t.Errorf("Size = %d, want %d", got, len(want))
			}
			for _, b := range [][]byte{want, unhex(c.gogo)} {
				if len(b) == 0 {
					continue
				}
				got := fresh(c.value)
				if err := got.Unmarshal(b); err != nil {
					t.Fatalf("Unmarshal(% x): %v", b, err)
				}
				if diff := cmp.Diff(c.value, got); diff != "" {
					t.Errorf("Unmarshal(% x):\n%s", b, diff)
				}
			}
		})
	}
}

// fresh returns a message of the type of m, full of what decoding must replace.
func fresh(m message) message {
	switch m.(type) {
	case *walpb.Record:
		return &walpb.Record{Type: 9, CRC: 9, SyncedTo: 9, HeaderCRC: 9, HasHeaderCRC: true, Data: []byte("old")}
	case *walpb.Entry:
		return &walpb.Entry{Type: 9, Term: 9, Index: 9, Data: []byte("old")}
	case *walpb.HardState:
		return &walpb.HardState{Term: 9, Vote: 9, Commit: 9}
	default:
		return &walpb.Snapshot{Index: 9, Term: 9, ConfState: []byte("old")}
	}
}

// Users of etcd's 3.7 log may leave fields of an entry nil.
func TestEntryMayLackAnyField(t *testing.T) {
	for raw, want := range map[string]walpb.Entry{
		"":            {},
		"1001":        {Term: 1},
		"1801":        {Index: 1},
		"220178":      {Data: []byte("x")},
		"0801 220178": {Type: 1, Data: []byte("x")},
	} {
		e := walpb.Entry{Term: 9}
		if err := e.Unmarshal(unhex(raw)); err != nil {
			t.Errorf("Unmarshal(%s): %v", raw, err)
		}
		if diff := cmp.Diff(want, e); diff != "" {
			t.Errorf("Unmarshal(%s):\n%s", raw, diff)
		}
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"metadata": walpb.TypeMetadata, "entry": walpb.TypeEntry, "state": walpb.TypeState, "crc": walpb.TypeCRC,
		"snapshot": walpb.TypeSnapshot, "type(0)": walpb.Type(0), "type(9)": walpb.Type(9),
		"normal": walpb.EntryNormal, "confchange": walpb.EntryConfChange, "confchangev2": walpb.EntryConfChangeV2,
		"entrytype(7)": walpb.EntryType(7), "entrytype(-1)": walpb.EntryType(-1),
	} {
		if got.String() != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}

func TestOnlyTheZeroHardStateIsZero(t *testing.T) {
	for _, s := range []walpb.HardState{{Term: 1}, {Vote: 1}, {Commit: 1}} {
		if s.IsZero() {
			t.Errorf("%+v is zero", s)
		}
	}
	if s := (walpb.HardState{}); !s.IsZero() {
		t.Error("the zero hard state is not")
	}
}
