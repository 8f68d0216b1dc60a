package frame

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stele-wal/stele/walpb"
	"pgregory.net/rapid"
)

// plainEncoder is an Encoder as one would write it at first: it puts a record together, encodes it,
// and sums the bytes that it got.
type plainEncoder struct {
	Encoder
	segment []byte
	start   int // of the batch
	claimed int
}

func (p *plainEncoder) frame(t *rapid.T, kind walpb.Type, data []byte) {
	p.Chain = walpb.Checksum(p.Chain, data)
	r := walpb.Record{Type: kind, CRC: p.Chain, Data: data, HasHeaderCRC: !p.Plain}
	if sector := len(p.segment) / SectorSize; p.Claims && sector != p.claimed {
		r.SyncedTo, p.claimed = uint64(p.start), sector
	}
	word := LengthWord(r.Size())
	if r.HasHeaderCRC {
		sum, err := walpb.HeadSum(HeaderSeed(p.Ident, int64(len(p.segment)), word), r.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		r.HeaderCRC = sum
	}
	p.segment = r.Append(binary.LittleEndian.AppendUint64(p.segment, word))
	p.segment = append(p.segment, make([]byte, Padding(r.Size()))...)
}

// An Encoder takes short ways, and gives the bytes of the long one.
func TestTheEncoderWritesWhatItsRecordsSay(t *testing.T) {
	number := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 300))
	rapid.Check(t, func(t *rapid.T) {
		e := Encoder{Plain: rapid.Bool().Draw(t, "plain"), Chain: rapid.Uint32().Draw(t, "chain")}
		e.Claims = !e.Plain && rapid.Bool().Draw(t, "claims")
		p := plainEncoder{Encoder: e}
		state := walpb.HardState{Term: number.Draw(t, "term"), Commit: number.Draw(t, "commit")}
		metadata := rapid.SliceOf(rapid.Byte()).Draw(t, "metadata")

		var pages Pages
		var written []byte
		for batch := range rapid.IntRange(1, 4).Draw(t, "batches") {
			written = append(written, pages.Bytes...)
			pages.Reset(0)
			e.Begin(&pages, int64(len(written)))
			p.start, p.claimed = len(p.segment), -1
			if batch == 0 {
				e.Head(7, metadata, state)
				p.Ident = Identity(7, p.Chain)
				p.frame(t, walpb.TypeCRC, nil)
				p.frame(t, walpb.TypeMetadata, metadata)
				p.Ident = walpb.Checksum(p.Ident, metadata)
				if !state.IsZero() {
					p.frame(t, walpb.TypeState, state.Append(nil))
				}
			}
			for range rapid.IntRange(0, 40).Draw(t, "records") {
				switch rapid.IntRange(0, 9).Draw(t, "kind") {
				case 0:
					e.CRC()
					p.frame(t, walpb.TypeCRC, nil)
				case 1:
					s := walpb.Snapshot{Index: number.Draw(t, "index"), Term: number.Draw(t, "term")}
					e.Snapshot(s)
					p.frame(t, walpb.TypeSnapshot, s.Append(nil))
				case 2:
					s := walpb.HardState{Term: number.Draw(t, "term"), Vote: number.Draw(t, "vote")}
					e.State(s)
					p.frame(t, walpb.TypeState, s.Append(nil))
				default:
					entry := walpb.Entry{Type: walpb.EntryType(rapid.Int32Range(-1, 3).Draw(t, "type")), Term: number.Draw(t, "term"), Index: number.Draw(t, "index")}
					if size := rapid.IntRange(-1, 5000).Draw(t, "size"); size >= 0 {
						entry.Data = bytes.Repeat([]byte{byte(size)}, size)
					}
					e.Entry(&entry)
					p.frame(t, walpb.TypeEntry, entry.Append(nil))
				}
			}
		}
		if written = append(written, pages.Bytes...); !bytes.Equal(written, p.segment) {
			at := 0
			for at < min(len(written), len(p.segment)) && written[at] == p.segment[at] {
				at++
			}
			t.Fatalf("%d bytes, want %d; the first that differs is at %d", len(written), len(p.segment), at)
		}
		if e.Chain != p.Chain {
			t.Fatalf("chain %08x, want %08x", e.Chain, p.Chain)
		}
	})
}
