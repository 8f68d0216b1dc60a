package walpb_test

import (
	"bytes"
	stdcrc32 "hash/crc32"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/stele-wal/stele/walpb"
)

// Numbers of every length of varint, not mostly of the longest.
var number = rapid.Custom(func(t *rapid.T) uint64 {
	n := rapid.Uint64().Draw(t, "n")
	return n >> rapid.IntRange(0, 63).Draw(t, "shift")
})

// Data: nil, empty, or up to where its length takes two bytes.
var data = rapid.OneOf(
	rapid.Just([]byte(nil)),
	rapid.SliceOfN(rapid.Byte(), 0, 20),
	rapid.SliceOfN(rapid.Byte(), 100, 300),
)

var records = rapid.Custom(func(t *rapid.T) walpb.Record {
	r := walpb.Record{
		Type: walpb.Type(rapid.Uint8().Draw(t, "type")),
		CRC:  uint32(number.Draw(t, "crc")),
		Data: data.Draw(t, "data"),
	}
	if r.HasHeaderCRC = rapid.Bool().Draw(t, "has header_crc"); r.HasHeaderCRC {
		r.SyncedTo = rapid.OneOf(rapid.Just(uint64(0)), number).Draw(t, "synced_to")
		r.HeaderCRC = rapid.Uint32().Draw(t, "header_crc")
	}
	return r
})

var entries = rapid.Custom(func(t *rapid.T) walpb.Entry {
	return walpb.Entry{
		Type:  walpb.EntryType(rapid.IntRange(0, 2).Draw(t, "type")),
		Term:  number.Draw(t, "term"),
		Index: number.Draw(t, "index"),
		Data:  data.Draw(t, "data"),
	}
})

var states = rapid.Custom(func(t *rapid.T) walpb.HardState {
	return walpb.HardState{Term: number.Draw(t, "term"), Vote: number.Draw(t, "vote"), Commit: number.Draw(t, "commit")}
})

var snapshots = rapid.Custom(func(t *rapid.T) walpb.Snapshot {
	return walpb.Snapshot{Index: number.Draw(t, "index"), Term: number.Draw(t, "term"), ConfState: data.Draw(t, "conf_state")}
})

func TestDecodingUndoesEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, e, s, p := records.Draw(t, "r"), entries.Draw(t, "e"), states.Draw(t, "s"), snapshots.Draw(t, "p")
		for _, m := range []message{&r, &e, &s, &p} {
			b := m.Append(nil)
			if len(b) != m.Size() {
				t.Fatalf("Size = %d, but % x", m.Size(), b)
			}
			got := fresh(m)
			if err := got.Unmarshal(b); err != nil {
				t.Fatalf("%+v: % x: %v", m, b, err)
			}
			if diff := cmp.Diff(m, got); diff != "" {
				t.Fatalf("% x:\n%s", b, diff)
			}
			if v, ok := got.(lenientMessage); ok {
				if err := v.UnmarshalLenient(b); err != nil || !cmp.Equal(m, got) {
					t.Fatalf("UnmarshalLenient % x: %+v, %v", b, got, err)
				}
			}
		}
		checkHead(t, r.Append(nil))
		if b := append(r.AppendHead(nil, len(r.Data)), r.Data...); r.Data != nil && !bytes.Equal(b, r.Append(nil)) {
			t.Fatalf("head and data: % x", b)
		}
		if b := append(e.AppendHead(nil), e.Data...); len(b)-len(e.Data) != e.HeadSize() || !bytes.Equal(b, e.Append(nil)) {
			t.Fatalf("head and data: % x", b)
		}
		if n := rapid.IntRange(-1, 1<<40).Draw(t, "dataLen"); len(r.AppendHead(nil, n)) != r.HeadSize(n) {
			t.Fatalf("HeadSize(%d) = %d, but % x", n, r.HeadSize(n), r.AppendHead(nil, n))
		}
	})
}

func TestEntriesOfAnyTypeSurviveWhereAHeaderCRCCoversThem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := entries.Draw(t, "e")
		e.Type = walpb.EntryType(rapid.Int32().Draw(t, "type"))
		b := e.Append(nil)
		var got walpb.Entry
		if err := got.UnmarshalLenient(b); err != nil || !cmp.Equal(e, got) || e.Size() != len(b) {
			t.Fatalf("% x: %+v, %v, size %d", b, got, err, e.Size())
		}
	})
}

// The old dialect writes the type of every entry.
func TestBothDialectsDecodeEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := entries.Draw(t, "e")
		want.Type = walpb.EntryNormal
		var got walpb.Entry
		if err := got.Unmarshal(append([]byte{0x08, 0x00}, want.Append(nil)...)); err != nil || !cmp.Equal(want, got) {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

// The head sum by the book: all bytes but the four of header_crc and the content of data, in one
// piece and with the standard library.
func headSumByTheBook(seed uint32, r walpb.Record, unknown []byte) uint32 {
	dataLen := -1
	if r.Data != nil {
		dataLen = len(r.Data)
	}
	b := r.AppendHead(nil, dataLen)
	if r.HasHeaderCRC {
		bare := r
		bare.HasHeaderCRC = false
		i := bare.HeadSize(-1) + 1
		b = append(b[:i:i], b[i+4:]...)
	}
	return stdcrc32.Update(seed, stdcrc32.MakeTable(stdcrc32.Castagnoli), append(b, unknown...))
}

func TestHeadSumCoversAllButItselfAndData(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records.Draw(t, "r")
		seed := rapid.Uint32().Draw(t, "seed")
		want := headSumByTheBook(seed, r, nil)
		dataLen := -1
		if r.Data != nil {
			dataLen = len(r.Data)
		}
		if got := r.HeadSum(seed, dataLen); got != want {
			t.Fatalf("Record.HeadSum = %08x, want %08x", got, want)
		}
		b := r.Append(nil)
		if got, err := walpb.HeadSum(seed, b); err != nil || got != want {
			t.Fatalf("HeadSum(% x) = %08x, %v, want %08x", b, got, err, want)
		}
		// After data, unknown fields of any length are covered as well.
		unknown := append([]byte{0x32, 100}, rapid.SliceOfN(rapid.Byte(), 100, 100).Draw(t, "unknown")...)
		b = append(b, unknown...)
		if got, err := walpb.HeadSum(seed, b); err != nil || got != headSumByTheBook(seed, r, unknown) {
			t.Fatalf("HeadSum(% x) = %08x, %v, want %08x", b, got, err, headSumByTheBook(seed, r, unknown))
		}
	})
}

func TestChecksumIsCastagnoliContinued(t *testing.T) {
	table := stdcrc32.MakeTable(stdcrc32.Castagnoli)
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint32().Draw(t, "seed")
		b := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "b")
		if got, want := walpb.Checksum(seed, b), stdcrc32.Update(seed, table, b); got != want {
			t.Fatalf("Checksum = %08x, want %08x", got, want)
		}
		e := entries.Draw(t, "e")
		if got, want := e.Checksum(seed), stdcrc32.Update(seed, table, e.Append(nil)); got != want {
			t.Fatalf("Entry.Checksum = %08x, want %08x", got, want)
		}
	})
}

func TestDataAliasesWhatWasDecodedAndCannotGrowIntoIt(t *testing.T) {
	e := walpb.Entry{Term: 1, Index: 1, Data: []byte("abc")}
	// Spare room follows, as in the log's buffer, where the next record stands.
	b := append(e.Append(nil), "next"...)
	b, next := b[:len(b)-4], b[len(b)-4:]
	if err := e.Unmarshal(b); err != nil {
		t.Fatal(err)
	}
	if &e.Data[0] != &b[len(b)-3] {
		t.Error("Data was copied")
	}
	if _ = append(e.Data, "XXXX"...); string(next) != "next" {
		t.Errorf("appending to Data wrote %q after it", next)
	}
}

func TestNothingAllocates(t *testing.T) {
	e := walpb.Entry{Type: 1, Term: 300, Index: 1 << 40, Data: make([]byte, 128)}
	s := walpb.HardState{Term: 300, Vote: 1 << 60, Commit: 1 << 40}
	p := walpb.Snapshot{Index: 1 << 40, Term: 300, ConfState: make([]byte, 20)}
	page := make([]byte, 0, 4096)
	entryBytes, stateBytes, snapshotBytes := e.Append(nil), s.Append(nil), p.Append(nil)
	r := walpb.Record{Type: walpb.TypeEntry, CRC: e.Checksum(7), SyncedTo: 1 << 20, HasHeaderCRC: true, Data: entryBytes}
	r.HeaderCRC = r.HeadSum(7, len(r.Data))
	recordBytes := r.Append(nil)
	later := append(recordBytes[:len(recordBytes):len(recordBytes)], 0x30, 0x07)

	var sink uint32
	for name, f := range map[string]func() error{
		"Record.Append": func() error { r.Append(page); return nil },
		"Record.AppendHead, HeadSum": func() error {
			r := walpb.Record{Type: walpb.TypeEntry, CRC: e.Checksum(7), SyncedTo: 1 << 20, HasHeaderCRC: true}
			r.HeaderCRC = r.HeadSum(7, e.Size())
			e.Append(r.AppendHead(page, e.Size()))
			return nil
		},
		"Record.Unmarshal":           func() error { var r walpb.Record; return r.Unmarshal(recordBytes) },
		"Record.Unmarshal, unknown":  func() error { var r walpb.Record; return r.Unmarshal(later) },
		"HeadSum":                    func() (err error) { sink, err = walpb.HeadSum(7, recordBytes); return err },
		"HeadSum, unknown":           func() (err error) { sink, err = walpb.HeadSum(7, later); return err },
		"Entry.Unmarshal":            func() error { var e walpb.Entry; return e.Unmarshal(entryBytes) },
		"Entry.UnmarshalLenient":     func() error { var e walpb.Entry; return e.UnmarshalLenient(entryBytes) },
		"HardState.Append":           func() error { s.Append(page); return nil },
		"HardState.Unmarshal":        func() error { var s walpb.HardState; return s.Unmarshal(stateBytes) },
		"HardState.UnmarshalLenient": func() error { var s walpb.HardState; return s.UnmarshalLenient(stateBytes) },
		"Snapshot.Append":            func() error { p.Append(page); return nil },
		"Snapshot.Unmarshal":         func() error { var p walpb.Snapshot; return p.Unmarshal(snapshotBytes) },
	} {
		var err error
		if n := testing.AllocsPerRun(100, func() { err = f() }); n != 0 || err != nil {
			t.Errorf("%s allocates %v times (%v)", name, n, err)
		}
	}
	_ = sink
}
