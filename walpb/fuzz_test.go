package walpb_test

import (
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"github.com/stele-wal/stele/walpb"
)

func encodeHex(b []byte) string { return hex.EncodeToString(b) }

func FuzzRecord(f *testing.F)    { fuzz(f, &walpb.Record{}) }
func FuzzEntry(f *testing.F)     { fuzz(f, &walpb.Entry{}) }
func FuzzHardState(f *testing.F) { fuzz(f, &walpb.HardState{}) }
func FuzzSnapshot(f *testing.F)  { fuzz(f, &walpb.Snapshot{}) }

// fuzz gives any bytes to the kind of message that kind is: no panic, only ErrMalformed, a receiver
// that is unchanged by failure, and what is accepted is encoded again to the same meaning. The
// seeds are all golden bytes, those of the other messages too, as that is what a flipped type makes
// of them.
func fuzz(f *testing.F, kind message) {
	for _, c := range goldenMessages {
		f.Add(unhex(c.bytes))
		f.Add(unhex(c.gogo))
	}
	for _, raw := range append(goldenRecords(goldenGogo), goldenRecords(goldenGoogle)...) {
		f.Add(raw)
	}
	for _, c := range refused {
		f.Add(unhex(c.hex))
	}
	everyInsertion(witnessFields, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		m := fresh(kind)
		if err := m.Unmarshal(b); err == nil {
			checkAccepted(t, m, b)
		}
		decodeAll(t, b)
	})
}

// FuzzHead takes any bytes for the head of a record. What UnmarshalHead accepts, Unmarshal does
// too, and reads the same; the length of the data is never more than there is.
func FuzzHead(f *testing.F) {
	for _, raw := range append(goldenRecords(goldenGogo), goldenRecords(goldenGoogle)...) {
		f.Add(raw)
	}
	everyInsertion(witnessFields, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		var head, whole walpb.Record
		n, err := head.UnmarshalHead(b, len(b))
		if err != nil {
			if !errors.Is(err, walpb.ErrMalformed) {
				t.Errorf("%v", err)
			}
			return
		}
		if n < -1 || n > len(b) {
			t.Fatalf("%d bytes of data in %d", n, len(b))
		}
		if err := whole.Unmarshal(b); err != nil {
			if !whole.HasHeaderCRC {
				return // Unmarshal is stricter with a record without header_crc
			}
			t.Fatalf("UnmarshalHead takes %x, Unmarshal says %v", b, err)
		}
		if len(whole.Data) != max(n, 0) || (whole.Data == nil) != (n == -1) {
			t.Errorf("%x: %d bytes of data, and %d", b, n, len(whole.Data))
		}
		if head.HasHeaderCRC {
			if sum, err := walpb.HeadSum(7, b); err != nil || sum != head.HeadSum(7, n) {
				t.Errorf("%x: the sums of the head differ, %v", b, err)
			}
		}
		head.Data = whole.Data
		if !reflect.DeepEqual(head, whole) {
			t.Errorf("%x: %+v, and %+v", b, head, whole)
		}
		for cut := range b[:min(len(b), 64)] { // a head that ends too early is no panic
			_, _ = new(walpb.Record).UnmarshalHead(b[:cut], len(b))
		}
	})
}
