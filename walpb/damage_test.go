package walpb_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/stele-wal/stele/walpb"
)

// decodeAll gives b to everything that reads bytes and checks what holds for any bytes: no panic,
// only ErrMalformed, and what is accepted is encoded again to the same or, of an entry, to what
// decodes equal.
func decodeAll(t interface {
	Helper()
	Fatalf(string, ...any)
}, b []byte) {
	t.Helper()
	for _, m := range []message{&walpb.Record{}, &walpb.Entry{}, &walpb.HardState{}, &walpb.Snapshot{}} {
		if v, ok := m.(lenientMessage); ok {
			if err := v.UnmarshalLenient(b); err != nil && !errors.Is(err, walpb.ErrMalformed) {
				t.Fatalf("%T.UnmarshalLenient(% x): %v", m, b, err)
			}
		}
		err := m.Unmarshal(b)
		if err != nil {
			if !errors.Is(err, walpb.ErrMalformed) {
				t.Fatalf("%T.Unmarshal(% x): %v", m, b, err)
			}
			continue
		}
		checkAccepted(t, m, b)
	}
	if _, err := walpb.HeadSum(0, b); err != nil && !errors.Is(err, walpb.ErrMalformed) {
		t.Fatalf("HeadSum(% x): %v", b, err)
	}
	checkHead(t, b)
}

// checkHead checks that UnmarshalHead takes b if and only if it is a record without unknown fields,
// and then as Unmarshal does, except for the data, which need not be there.
func checkHead(t interface {
	Helper()
	Fatalf(string, ...any)
}, b []byte) {
	t.Helper()
	var whole, head walpb.Record
	plain := whole.Unmarshal(b) == nil && whole.Size() == len(b)
	dataLen, err := head.UnmarshalHead(b, len(b))
	if plain != (err == nil) || err != nil && !errors.Is(err, walpb.ErrMalformed) {
		t.Fatalf("UnmarshalHead(% x): %v; a record without unknown fields: %v", b, err, plain)
	}
	if err != nil {
		return
	}
	want := whole
	want.Data = nil
	if diff := cmp.Diff(want, head); diff != "" || dataLen < 0 != (whole.Data == nil) || max(dataLen, 0) != len(whole.Data) {
		t.Fatalf("UnmarshalHead(% x) has %d bytes of data:\n%s", b, dataLen, diff)
	}
	if sum, err := walpb.HeadSum(7, b); err != nil || sum != head.HeadSum(7, dataLen) {
		t.Fatalf("% x: HeadSum %08x, %v, of the head alone %08x", b, sum, err, head.HeadSum(7, dataLen))
	}
	alone := b[: len(b)-len(whole.Data) : len(b)-len(whole.Data)]
	if n, err := head.UnmarshalHead(alone, len(b)); err != nil || n != dataLen {
		t.Fatalf("UnmarshalHead(% x) without the data: %d, %v, want %d", alone, n, err, dataLen)
	}
}

// checkAccepted checks m, which Unmarshal made of b.
func checkAccepted(t interface {
	Helper()
	Fatalf(string, ...any)
}, m message, b []byte) {
	t.Helper()
	again := m.Append(nil)
	got := fresh(m)
	if err := got.Unmarshal(again); err != nil || !bytes.Equal(got.Append(nil), again) {
		t.Fatalf("%T: % x became %+v became % x, which is %+v, %v", m, b, m, again, got, err)
	}
	canonical := true // can only be spelt one way
	switch m := m.(type) {
	case *walpb.Record:
		if _, err := walpb.HeadSum(0, b); err != nil {
			t.Fatalf("Unmarshal accepts % x, HeadSum does not: %v", b, err)
		}
		canonical = !m.HasHeaderCRC || len(again) == len(b) // otherwise it has unknown fields
	case *walpb.Entry:
		canonical = false
	}
	if canonical && !bytes.Equal(again, b) {
		t.Fatalf("%T: % x became %+v became % x", m, b, m, again)
	}
	if v, ok := got.(lenientMessage); ok {
		if err := v.UnmarshalLenient(b); err != nil || !bytes.Equal(v.Append(nil), again) {
			t.Fatalf("%T: Unmarshal(% x) = %+v, but UnmarshalLenient = %+v, %v", m, b, m, v, err)
		}
	}
}

// everyDamage calls f with every prefix of b, and with b and each of its bits flipped.
func everyDamage(b []byte, f func(b []byte)) {
	for i := range b {
		f(b[:i:i])
	}
	for i := range len(b) * 8 {
		flipped := bytes.Clone(b)
		flipped[i/8] ^= 1 << (i % 8)
		f(flipped)
	}
}

func TestDamagedMessagesNeverPanicAndNeverDecodeTwoWays(t *testing.T) {
	for _, c := range goldenMessages {
		everyDamage(unhex(c.bytes), func(b []byte) { decodeAll(t, b) })
		everyDamage(unhex(c.gogo), func(b []byte) { decodeAll(t, b) })
	}
	for _, raw := range append(goldenRecords(goldenGogo), goldenRecords(goldenGoogle)...) {
		everyDamage(raw, func(b []byte) { decodeAll(t, b) })
	}
	everyInsertion(witnessFields, func(b []byte) {
		everyDamage(b, func(b []byte) { decodeAll(t, b) })
	})
	everyInsertion(entryFields, func(b []byte) {
		everyDamage(b, func(b []byte) { decodeAll(t, b) })
	})
}

func TestNoPrefixOfAHardStateIsOne(t *testing.T) {
	s := walpb.HardState{Term: 300, Vote: 1 << 40, Commit: 1 << 20}
	b := s.Append(nil)
	for i := range b {
		if err := s.Unmarshal(b[:i]); !errors.Is(err, walpb.ErrMalformed) {
			t.Errorf("% x: %v", b[:i], err)
		}
	}
}

// sound is what a log checks of a record: it decodes, its header_crc if it has one, and the chain.
func sound(chain, seed uint32, b []byte) bool {
	var r walpb.Record
	if err := r.Unmarshal(b); err != nil {
		return false
	}
	if r.HasHeaderCRC {
		if sum, err := walpb.HeadSum(seed, b); err != nil || sum != r.HeaderCRC {
			return false
		}
	}
	return r.CRC == walpb.Checksum(chain, r.Data)
}

// A record without a header_crc has bits whose flip shows only in its payload, or not at all:
// its type. Of one that is, every bit is covered.
func TestEveryFlippedBitOfARecordWithAHeaderCRCShows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chain, seed := rapid.Uint32().Draw(t, "chain"), rapid.Uint32().Draw(t, "seed")
		r := records.Draw(t, "r")
		// A head that is all of a record with a witness but its checksums.
		r.HasHeaderCRC = true
		r.SyncedTo = rapid.OneOf(rapid.Just(uint64(0)), number).Draw(t, "synced_to")
		r.CRC = walpb.Checksum(chain, r.Data)
		dataLen := -1
		if r.Data != nil {
			dataLen = len(r.Data)
		}
		r.HeaderCRC = r.HeadSum(seed, dataLen)
		b := r.Append(nil)
		if !sound(chain, seed, b) {
			t.Fatalf("% x is not sound to begin with", b)
		}
		if sound(chain, seed+1, b) {
			t.Fatalf("% x is sound in another place, too", b)
		}
		for i := range len(b) * 8 {
			b[i/8] ^= 1 << (i % 8)
			if sound(chain, seed, b) {
				t.Fatalf("bit %d flipped: % x is still sound", i, b)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	})
}

// The same with a field of a later version at every place: it is skipped, and yet covered.
func TestEveryFlippedBitOfAnUnknownFieldShows(t *testing.T) {
	const chain, seed = 0x12345678, 0x9abcdef0
	fields := append([]string{}, witnessFields...)
	crc := walpb.Record{Type: 2, CRC: walpb.Checksum(chain, []byte("abc"))}
	fields[1] = encodeHex(crc.Append(nil)[2:])
	everyInsertion(fields, func(b []byte) {
		sum, err := walpb.HeadSum(seed, b)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, []byte{0x2d, 0, 0, 0, 0})
		b[at+1], b[at+2], b[at+3], b[at+4] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		if !sound(chain, seed, b) {
			t.Fatalf("% x is not sound to begin with", b)
		}
		for i := range len(b) * 8 {
			b[i/8] ^= 1 << (i % 8)
			if sound(chain, seed, b) {
				t.Errorf("bit %d flipped: % x is still sound", i, b)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	})
}
