package walpb_test

import (
	"bytes"
	"testing"

	"github.com/stele-wal/stele/walpb"
)

// What the log does per entry, with entries of 128 bytes: on the way out the chain over the entry's
// bytes and the head sum, on the way in the same and no copy.

func benchEntry() walpb.Entry {
	return walpb.Entry{Term: 7, Index: 1_000_000, Data: bytes.Repeat([]byte("stele..."), 16)}
}

func benchRecord(witness bool) []byte {
	e := benchEntry()
	r := walpb.Record{Type: walpb.TypeEntry, Data: e.Append(nil)}
	r.CRC = walpb.Checksum(0, r.Data)
	if witness {
		r.HasHeaderCRC, r.SyncedTo = true, 1<<20
		r.HeaderCRC = r.HeadSum(0, len(r.Data))
	}
	return r.Append(nil)
}

func BenchmarkEncodeEntry(b *testing.B) {
	for _, witness := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "witness"}[witness], func(b *testing.B) {
			e := benchEntry()
			page := make([]byte, 0, 4096)
			var chain uint32
			b.ReportAllocs()
			b.SetBytes(int64(len(e.Data)))
			for b.Loop() {
				chain = e.Checksum(chain)
				size := e.Size()
				r := walpb.Record{Type: walpb.TypeEntry, CRC: chain}
				if witness {
					r.HasHeaderCRC, r.SyncedTo = true, 1<<20
					r.HeaderCRC = r.HeadSum(0, size)
				}
				_ = e.Append(r.AppendHead(page[:0], size))
			}
		})
	}
}

func BenchmarkDecodeEntry(b *testing.B) {
	for _, witness := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "witness"}[witness], func(b *testing.B) {
			raw := benchRecord(witness)
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				var r walpb.Record
				if err := r.Unmarshal(raw); err != nil {
					b.Fatal(err)
				}
				if walpb.Checksum(0, r.Data) != r.CRC {
					b.Fatal("chain")
				}
				var e walpb.Entry
				if !r.HasHeaderCRC {
					if err := e.Unmarshal(r.Data); err != nil {
						b.Fatal(err)
					}
					continue
				}
				if sum, err := walpb.HeadSum(0, raw); err != nil || sum != r.HeaderCRC {
					b.Fatal("head sum", err)
				}
				if err := e.UnmarshalLenient(r.Data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRecordUnmarshal(b *testing.B) {
	raw := benchRecord(true)
	var r walpb.Record
	for b.Loop() {
		r.Unmarshal(raw)
	}
}

func BenchmarkRecordAppendHead(b *testing.B) {
	var r walpb.Record
	r.Unmarshal(benchRecord(true))
	page := make([]byte, 0, 4096)
	for b.Loop() {
		r.AppendHead(page[:0], len(r.Data))
	}
}

func BenchmarkEntryUnmarshal(b *testing.B) {
	e := benchEntry()
	raw := e.Append(nil)
	for b.Loop() {
		e.Unmarshal(raw)
	}
}

func BenchmarkRecordHeadSum(b *testing.B) {
	var r walpb.Record
	r.Unmarshal(benchRecord(true))
	for b.Loop() {
		r.HeadSum(0, len(r.Data))
	}
}

func BenchmarkHeadSum(b *testing.B) {
	raw := benchRecord(true)
	for b.Loop() {
		walpb.HeadSum(0, raw)
	}
}

func BenchmarkChecksum128(b *testing.B) {
	e := benchEntry()
	for b.Loop() {
		walpb.Checksum(0, e.Data)
	}
}
