package walpb_test

import (
	"encoding/hex"
	"testing"

	"github.com/stele-wal/stele/walpb"
)

func encodeHex(b []byte) string { return hex.EncodeToString(b) }

func FuzzRecord(f *testing.F)    { fuzz(f, &walpb.Record{}) }
func FuzzEntry(f *testing.F)     { fuzz(f, &walpb.Entry{}) }
func FuzzHardState(f *testing.F) { fuzz(f, &walpb.HardState{}) }
func FuzzSnapshot(f *testing.F)  { fuzz(f, &walpb.Snapshot{}) }

// fuzz gives any bytes to the kind of message that kind is: no panic, only ErrMalformed, a receiver that is
// unchanged by failure, and what is accepted is encoded again to the same meaning. The seeds are all golden
// bytes, those of the other messages too, as that is what a flipped type makes of them.
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
	everyInsertion(vouchedRecordFields, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		m := fresh(kind)
		if err := m.Unmarshal(b); err == nil {
			checkAccepted(t, m, b)
		}
		decodeAll(t, b)
	})
}
