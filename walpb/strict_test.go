package walpb_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stele-wal/stele/walpb"
)

var (
	record   = func() message { return fresh(&walpb.Record{}) }
	entry    = func() message { return fresh(&walpb.Entry{}) }
	state    = func() message { return fresh(&walpb.HardState{}) }
	snapshot = func() message { return fresh(&walpb.Snapshot{}) }
)

// What a lenient reader of protocol buffers would take, and what no reader should.
var refused = []struct {
	name string
	new  func() message
	hex  string
	why  string // part of the error
	also bool   // refused in a record with header_crc, too
}{
	{"nothing", record, "", "offset 0: type or crc is missing", true},
	{"no crc", record, "0802", "offset 2: type or crc is missing", true},
	{"no type", record, "1005", "offset 0: field repeated, out of order", true},
	{"crc before type", record, "1005 0802", "offset 0: field repeated, out of order", true},
	{"type twice", record, "0802 0802 1005", "offset 2: field repeated", true},
	{"crc twice", record, "0802 1005 1005", "offset 4: field repeated", true},
	{"data twice", record, "0802 1005 1a00 1a00", "offset 6: field repeated", true},
	{"synced_to twice", record, "0802 1005 2001 2001 2d00000000", "offset 6: field repeated", true},
	{"header_crc twice", record, "0802 1005 2d00000000 2d00000000", "offset 9: field repeated", true},
	{"synced_to after header_crc", record, "0802 1005 2d00000000 2001", "offset 9: field repeated, out of order", true},
	{"header_crc after data", record, "0802 1005 1a00 2d00000000", "offset 6: field repeated, out of order", true},
	{"synced_to after data", record, "0802 1005 1a00 2001", "offset 6: field repeated, out of order", true},
	{"synced_to without header_crc", record, "0802 1005 2001", "synced_to in a record without a header_crc", true},
	{"synced_to 0", record, "0802 1005 2000 2d00000000", "offset 4: synced_to is 0", true},
	{"type above 8 bits", record, "088002 1005", "offset 0: type does not fit 8 bits", true},
	{"type -1", record, "08ffffffffffffffffff01 1005", "offset 0: type does not fit 8 bits", true},
	{"crc above 32 bits", record, "0802 108080808010", "offset 2: crc does not fit 32 bits", true},
	{"crc longer than it needs", record, "0802 108500", "offset 2: varint is longer than its value needs", true},
	{"crc longer than it needs, far from the end", record, "0802 108500 1a0a00000000000000000000", "offset 2: varint is longer than its value needs", true},
	{"tag longer than it needs", record, "888000 02 1005", "offset 0: varint is longer than its value needs", true},
	{"type as bytes", record, "0a00 1005", "offset 0: field repeated, out of order or of the wrong wire type", true},
	{"crc as fixed32", record, "0802 1500000000", "wrong wire type", true},
	{"data as varint", record, "0802 1005 1800", "wrong wire type", true},
	{"synced_to as fixed64", record, "0802 1005 210100000000000000 2d00000000", "wrong wire type", true},
	{"header_crc as varint", record, "0802 1005 2800", "wrong wire type", true},
	{"data longer than the record", record, "0802 1005 1a01", "offset 4: field is longer than the message", true},
	{"data of 2^63 bytes", record, "0802 1005 1a80808080808080808001", "offset 4: field is longer than the message", true},
	{"data of 2^64-1 bytes", record, "0802 1005 1affffffffffffffffff01", "offset 4: field is longer than the message", true},
	{"header_crc cut short", record, "0802 1005 2d000000", "offset 4: field is longer than the message", true},
	{"group", record, "0802 1005 33 34", "offset 4: no such wire type", true},
	{"wire type 7", record, "0802 1005 37", "offset 4: no such wire type", true},
	{"field 0", record, "0802 1005 0000", "offset 4: no such field number", true},
	{"field 2^29", record, "0802 1005 8080808010 00", "offset 4: no such field number", true},
	{"unknown field", record, "0802 1005 3000", "unknown field in a record without a header_crc", true},
	{"unknown field before all", record, "3000 0802 1005", "unknown field in a record without a header_crc", true},
	{"unknown field cut short", record, "0802 1005 2d00000000 31000000", "offset 9: field is longer than the message", true},
	{"unknown field misspelt", record, "0802 1005 2d00000000 308000", "offset 9: varint is longer than its value needs", true},
	{"varint above 64 bits", record, "0802 1005 20ffffffffffffffffff02 2d00000000", "offset 4: varint does not fit 64 bits", true},
	{"varint of eleven bytes", record, "0802 1005 208080808080808080808001 2d00000000", "offset 4: varint does not fit 64 bits", true},
	{"endless varint", record, "0802 10ff", "offset 2: message ends within a varint", true},

	{"entry type 3", entry, "0803 1001 1801", "offset 0: no such type", false},
	{"entry type 2^31", entry, "088080808008 1001 1801", "offset 0: no such type", true},
	{"entry type -1", entry, "08ffffffffffffffffff01 1001 1801", "offset 0: no such type", false},
	{"entry index before term", entry, "1801 1001", "offset 2: field repeated, out of order", true},
	{"entry type last", entry, "1001 0801", "offset 2: field repeated, out of order", true},
	{"entry index twice", entry, "1001 1801 1801", "offset 4: field repeated", true},
	{"entry data twice", entry, "1001 1801 2200 2200", "offset 6: field repeated", true},
	{"entry data as varint", entry, "1001 1801 2001", "wrong wire type", true},
	{"entry data too long", entry, "1001 1801 220261", "offset 4: field is longer than the message", true},
	{"entry unknown field", entry, "1001 1801 2800", "offset 4: unknown field", false},
	{"entry term cut short", entry, "1080", "offset 0: message ends within a varint", true},
	{"entry term misspelt", entry, "10808080808000 1801", "offset 0: varint is longer than its value needs", true},

	{"empty hard state", state, "", "offset 0: field missing", false},
	{"hard state without term", state, "1001 1800", "offset 4: field missing", false},
	{"hard state without vote", state, "0801 1800", "offset 4: field missing", false},
	{"hard state without commit", state, "0801 1001", "offset 4: field missing", false},
	{"hard state out of order", state, "0801 1801 1001", "offset 4: field repeated, out of order", true},
	{"hard state with a field twice", state, "0801 1001 1001 1801", "offset 4: field repeated", true},
	{"hard state with an unknown field", state, "0801 1001 1801 2001", "offset 6: unknown field", false},
	{"hard state's vote as bytes", state, "0801 1200 1801", "wrong wire type", true},
	{"hard state's commit misspelt", state, "0801 1001 188000", "offset 4: varint is longer than its value needs", true},

	{"empty snapshot", snapshot, "", "offset 0: index or term is missing", false},
	{"snapshot without index", snapshot, "1001", "offset 2: index or term is missing", false},
	{"snapshot without term", snapshot, "0801 1a00", "offset 4: index or term is missing", false},
	{"snapshot out of order", snapshot, "1001 0801", "offset 2: field repeated, out of order", true},
	{"snapshot with two conf states", snapshot, "0801 1001 1a00 1a00", "offset 6: field repeated", true},
	{"snapshot with an unknown field", snapshot, "0801 1001 2001", "offset 4: unknown field", false},
	{"snapshot's conf state too long", snapshot, "0801 1001 1a01", "offset 4: field is longer than the message", true},
	{"snapshot's conf state as varint", snapshot, "0801 1001 1801", "wrong wire type", true},

	// What a flipped bit in a record's type makes of its data.
	{"entry read as hard state", state, "1001 1801 220178", "offset 4: unknown field", false},
	{"entry without data read as hard state", state, "1001 1801", "field missing", false},
	{"old entry without data read as snapshot", snapshot, "0800 1001 1801", "wrong wire type", true},
	{"hard state read as snapshot", snapshot, "0801 1001 1801", "wrong wire type", true},
	{"snapshot read as hard state", state, "0801 1001 1a00", "wrong wire type", true},
	{"snapshot read as entry", entry, "0801 1001 1a00", "wrong wire type", true},
}

func TestWhatNobodyWritesIsRefused(t *testing.T) {
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(c.hex)
			m := c.new()
			err := m.Unmarshal(b)
			if !errors.Is(err, walpb.ErrMalformed) || !strings.HasPrefix(err.Error(), "walpb: malformed ") || !strings.Contains(err.Error(), c.why) {
				t.Errorf("Unmarshal: %v, want ErrMalformed, because %s", err, c.why)
			}
			if diff := cmp.Diff(c.new(), m); diff != "" {
				t.Errorf("Unmarshal failed and changed its receiver:\n%s", diff)
			}
			v, ok := m.(lenientMessage)
			if !ok {
				return
			}
			if err := v.UnmarshalLenient(b); errors.Is(err, walpb.ErrMalformed) != c.also {
				t.Errorf("UnmarshalLenient: %v, want refused: %v", err, c.also)
			} else if diff := cmp.Diff(c.new(), m); c.also && diff != "" {
				t.Errorf("UnmarshalLenient failed and changed its receiver:\n%s", diff)
			}
		})
	}
}

// unknownFields are of numbers that no message has, one for each wire type, and one of a tag of two
// bytes.
var unknownFields = []string{"3007", "3901020304 05060708", "32 03 616263", "3d 01020304", "aa01 00", "30ffffffffffffffffff01"}

// fields of messages, each apart, in their order.
var (
	witnessFields  = []string{"0802", "10f2c4f7fa01", "208020", "2d00000000", "1a03616263"}
	entryFields    = []string{"0801", "10ac02", "1802", "2203616263"}
	stateFields    = []string{"0801", "10ac02", "1802"}
	snapshotFields = []string{"0801", "10ac02", "1a06080108020803"}
)

// everyInsertion calls f with the fields and one unknown field, at every place, of every kind.
func everyInsertion(fields []string, f func(b []byte)) {
	for at := 0; at <= len(fields); at++ {
		for _, unknown := range unknownFields {
			f(unhex(strings.Join(fields[:at], "") + unknown + strings.Join(fields[at:], "")))
		}
	}
}

func TestUnknownFieldsAreSkippedOnlyWhereAHeaderCRCCoversThem(t *testing.T) {
	join := func(fields []string) []byte { return unhex(strings.Join(fields, "")) }

	var plain, want, got walpb.Record
	if err := want.Unmarshal(join(witnessFields)); err != nil {
		t.Fatal(err)
	}
	everyInsertion(witnessFields, func(b []byte) {
		if err := got.Unmarshal(b); err != nil {
			t.Errorf("record % x: %v", b, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("record % x:\n%s", b, diff)
		}
	})
	everyInsertion([]string{"0802", "10f2c4f7fa01", "1a03616263"}, func(b []byte) {
		if err := plain.Unmarshal(b); !errors.Is(err, walpb.ErrMalformed) {
			t.Errorf("plain record % x: %v, want ErrMalformed", b, err)
		}
	})

	for _, c := range []struct {
		fields []string
		new    func() message
	}{{entryFields, entry}, {stateFields, state}, {snapshotFields, snapshot}} {
		want, got := c.new(), c.new().(lenientMessage)
		if err := want.Unmarshal(join(c.fields)); err != nil {
			t.Fatal(err)
		}
		everyInsertion(c.fields, func(b []byte) {
			if err := got.UnmarshalLenient(b); err != nil {
				t.Errorf("UnmarshalLenient % x: %v", b, err)
			} else if diff := cmp.Diff(want, message(got)); diff != "" {
				t.Errorf("UnmarshalLenient % x:\n%s", b, diff)
			}
			if err := got.Unmarshal(b); !errors.Is(err, walpb.ErrMalformed) {
				t.Errorf("Unmarshal % x: %v, want ErrMalformed", b, err)
			}
		})
	}
}

// After an unknown field the known ones are as strict as before.
func TestNoFieldComesTwiceOrLateAfterAnUnknownOne(t *testing.T) {
	for _, c := range []struct {
		fields []string
		new    func() message
	}{{witnessFields, record}, {entryFields, entry}, {stateFields, state}, {snapshotFields, snapshot}} {
		for last := range c.fields {
			for again := range last + 1 {
				b := unhex(strings.Join(c.fields[:last+1], "") + "3007" + c.fields[again] + strings.Join(c.fields[last+1:], ""))
				m := c.new()
				read := m.Unmarshal
				if v, ok := m.(lenientMessage); ok {
					read = v.UnmarshalLenient
				}
				if err := read(b); !errors.Is(err, walpb.ErrMalformed) {
					t.Errorf("%T % x: %v, want ErrMalformed", m, b, err)
				}
			}
		}
	}
}

func TestMessagesReadLenientlyMayLackFields(t *testing.T) {
	var s walpb.HardState
	if err := s.UnmarshalLenient(unhex("1005")); err != nil || s != (walpb.HardState{Vote: 5}) {
		t.Errorf("hard state %+v, %v", s, err)
	}
	var p walpb.Snapshot
	if err := p.UnmarshalLenient(unhex("0805")); err != nil || p.Index != 5 || p.Term != 0 || p.ConfState != nil {
		t.Errorf("snapshot %+v, %v", p, err)
	}
	var e walpb.Entry
	if err := e.UnmarshalLenient(unhex("0807 1005")); err != nil || e.Type != 7 || e.Term != 5 {
		t.Errorf("entry %+v, %v", e, err)
	}
}
