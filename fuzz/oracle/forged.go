package oracle

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/stele-wal/stele/walpb"
)

// forged fills the data of an entry with what a search in a torn batch could take for a log: heads
// of frames that lead to the end of the data, calls of an etcd's whose records are linked, and
// records with a header_crc that say that everything was durable.
//
// It holds no two calls in a row that are linked: in a log without witnesses these are evidence;
// see wal/FORMAT.md, chapter 11.
func forged(b []byte, index, term, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, index))
	if rng.IntN(3) == 0 {
		manyToOne(b, rng.IntN(8))
		return
	}
	for i := rng.IntN(8); i < len(b); {
		switch rng.IntN(4) {
		case 0: // what leads to the end
			i += put(b[i:], appendFrameHead(nil, walpb.Record{Type: walpb.TypeEntry, CRC: rng.Uint32()}, max(0, len(b)-i-24)))
		case 1: // a call
			e := walpb.Entry{Term: term, Index: index + rng.Uint64N(3), Data: []byte("forged")}
			s := walpb.HardState{Term: term, Vote: 1, Commit: index}
			chain := rng.Uint32()
			for _, r := range []walpb.Record{{Type: walpb.TypeEntry, Data: e.Append(nil)}, {Type: walpb.TypeState, Data: s.Append(nil)}} {
				chain = walpb.Checksum(chain, r.Data)
				r.CRC = chain
				i += put(b[min(i, len(b)):], appendFrame(nil, r))
			}
		case 2: // a witness
			i += put(b[i:], appendFrame(nil, walpb.Record{Type: walpb.TypeCRC, CRC: rng.Uint32(), SyncedTo: 1 << 40, HasHeaderCRC: true, HeaderCRC: rng.Uint32()}))
		case 3: // something else
			b[i] = byte(rng.Uint32())
			i += 8 * rng.IntN(12)
		}
		i += 8 * (rng.IntN(8) / 7)
		if rng.IntN(16) == 0 {
			i += rng.IntN(8) // frames are looked for at multiples of 8
		}
	}
}

// manyToOne fills data with as many heads as fit into a third of it, each of which leads to one
// frame that is all the rest.
func manyToOne(b []byte, shift int) {
	const cell = 24
	large := len(b)/3/cell*cell + shift
	leadTo := func(from, to int) {
		r := walpb.Record{Type: walpb.TypeEntry, CRC: 1}
		n := to - from - 8
		put(b[from:], appendFrameHead(nil, r, n-r.HeadSize(n)))
	}
	if large+2*cell > len(b) {
		return
	}
	for i := shift; i < large; i += cell {
		leadTo(i, large)
	}
	leadTo(large, len(b)-len(b)%8+shift-8)
}

// put copies a part to the beginning of b, as far as it fits, and returns its size.
func put(b, part []byte) int {
	copy(b, part)
	return len(part)
}

// appendFrame appends a record in its frame.
func appendFrame(b []byte, r walpb.Record) []byte {
	n := -1
	if r.Data != nil {
		n = len(r.Data)
	}
	b = append(appendFrameHead(b, r, n), r.Data...)
	return append(b, make([]byte, -r.Size()&7)...)
}

// appendFrameHead appends the beginning of a frame whose record has that much data.
func appendFrameHead(b []byte, r walpb.Record, dataLen int) []byte {
	size := r.HeadSize(dataLen) + max(dataLen, 0)
	word := uint64(size)
	if pad := -size & 7; pad > 0 {
		word |= 1<<63 | uint64(pad)<<56
	}
	return r.AppendHead(binary.LittleEndian.AppendUint64(b, word), dataLen)
}
