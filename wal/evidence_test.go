package wal_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// frameHead returns the beginning of a plain frame that says that n bytes of data follow.
func frameHead(n int) []byte {
	r := walpb.Record{Type: walpb.TypeEntry, CRC: 1}
	size := r.HeadSize(n) + n
	word := uint64(size)
	if pad := -size & 7; pad > 0 {
		word |= 1<<63 | uint64(pad)<<56
	}
	return r.AppendHead(binary.LittleEndian.AppendUint64(nil, word), n)
}

// manyHeads is a value in which a frame may begin every 24 bytes, and each of them leads to frames
// that are most of it.
func manyHeads(size int) []byte {
	const cell = 24
	v := make([]byte, size)
	for i := 0; i+2*cell < size/4; i += cell {
		copy(v[i:], frameHead(size/2-16-i)) // up to the middle
	}
	for i := size / 4; i+2*cell < size; i += cell {
		copy(v[i:], frameHead(max(8, size-i-cell)))
	}
	return v
}

// A value that a client chose is in a batch that a power cut tears. Whatever it looks like, the log
// opens, at once and with no manual step.
func TestNoValueKeepsALogFromOpening(t *testing.T) {
	entry, state := &walpb.Entry{Term: 1, Index: 9, Data: []byte("x")}, &walpb.HardState{Term: 1}
	piece := forge(7, walpb.Record{Type: walpb.TypeEntry, Data: entry.Append(nil)}, walpb.Record{Type: walpb.TypeState, Data: state.Append(nil)},
		walpb.Record{Type: walpb.TypeEntry, Data: entry.Append(nil)})
	for name, value := range map[string][]byte{
		"heads that lead to one large frame": manyHeads(900 << 10),
		"a piece of a log":                   append(append(make([]byte, 1000), piece...), make([]byte, 3000)...),
		"pieces of a log":                    bytes.Repeat(piece, 20),
	} {
		for _, plainly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, plain %v", name, plainly), func(t *testing.T) {
				states := 0
				for shift := range 8 { // frames are looked for at multiples of 8
					fs := crashfs.New()
					o := &wal.Options{FS: fs, SegmentSize: 1 << 20, PlainEtcd: plainly, Background: func(func()) {}}
					w, err := wal.Create("/w", nil, o)
					must(t, err)
					must(t, w.Save(walpb.HardState{Term: 1}, entries(1, 1, 1, 12)))
					fs.SetHook(func(op crashfs.Op) {
						if op.Kind != crashfs.OpSyncData {
							return
						}
						for i := range min(16, len(fs.Pending())) {
							states++
							f := fs.Crash(crashfs.DropOne(i))
							w, err := wal.Open("/w", &wal.Options{FS: f})
							if err != nil {
								t.Errorf("one sector is lost: %v", err)
								continue
							}
							must(t, w.Close())
						}
					}, nil)
					v := bytes.Join([][]byte{make([]byte, shift), value}, nil)
					must(t, w.Save(walpb.HardState{Term: 1, Commit: 1}, []walpb.Entry{{Term: 1, Index: 2, Data: v}, {Term: 1, Index: 3, Data: []byte("and more")}}))
					fs.SetHook(nil, nil)
					must(t, w.Close())
				}
				if states < 48 {
					t.Errorf("only %d states", states)
				}
			})
		}
	}
}

// unmarked returns the bytes of a segment of a log of calls with one entry and one hard state each,
// that was not closed, and its records.
func unmarked(t *testing.T, calls int, change ...func(*wal.Options)) (b []byte, list []wal.Record) {
	l, w := create(t, change...)
	for i := range uint64(calls) {
		must(t, w.Save(walpb.HardState{Term: 1, Commit: i}, entries(1, i+1, i+1, 30)))
	}
	b = bytes.Clone(l.Tree()["log/"+segment0])
	if b == nil {
		t.Fatalf("%v", names(l.FS))
	}
	must(t, w.Close())
	return b, records(t, crashfs.Load(map[string][]byte{"/log/" + segment0: b}))
}

// The last frame of a log, with nothing after it and no mark. A flip that leaves its data whole is
// damage, since no torn sector leaves that. The flip may be in the length of the frame or of its
// data.
func TestAFrameWhoseDataIsWholeIsNotTorn(t *testing.T) {
	for _, change := range [][]func(*wal.Options){nil, {plain}} {
		b, list := unmarked(t, 3, change...)
		r := list[len(list)-2] // an entry
		if r.Type != walpb.TypeEntry {
			t.Fatal(r.Type)
		}
		clear(b[r.Offset+r.Size:])
		data := r.Offset + r.Size
		for data -= int64(len(r.Data)); !bytes.Equal(b[data:data+int64(len(r.Data))], r.Data); data-- {
		}
		flips, torn := 0, 0
		const sum, sumSize = 8 + 3, 5
		for at := r.Offset; at < r.Offset+r.Size; at++ {
			if at >= data && at < data+int64(len(r.Data)) || at >= r.Offset+sum && at < r.Offset+sum+sumSize {
				continue // not whole
			}
			for bit := range 8 {
				d := bytes.Clone(b)
				d[at] ^= 1 << bit
				flips++
				if check(t, crashfs.Load(map[string][]byte{"/log/" + segment0: d})).Verdict < wal.Corrupt {
					torn++
				}
			}
		}
		if flips < 100 || torn > 0 {
			t.Errorf("%d of %d flips cut off an acknowledged entry as torn", torn, flips)
		}
	}
}

// A sector is zeroed in a log without witnesses. After it come a hard state and more records, whole
// and linked. Entries that leave a gap, or a hard state that commits more than there is, show that
// the calls before them had ended.
func TestIndexesProveALaterBatch(t *testing.T) {
	b, list := unmarked(t, 80, plain)
	cut := 0
	for first := 20; first < len(list); first++ { // the first record that is whole again
		if list[first].Type != walpb.TypeState || list[first].Offset%512 < 64 {
			continue
		}
		// A hard state and an entry; and these and one more hard state.
		for _, end := range []int{first + 2, first + 3} {
			if end > len(list) {
				continue
			}
			d := bytes.Clone(b)
			clear(d[list[end-1].Offset+list[end-1].Size:])
			clear(d[list[first].Offset-512 : list[first].Offset])
			cut++
			r := check(t, crashfs.Load(map[string][]byte{"/log/" + segment0: d}))
			if r.Verdict != wal.Corrupt {
				t.Errorf("512 bytes before the hard state at %d are zero, and %d records after it are whole: %v", list[first].Offset, end-first, r.Verdict)
			}
		}
	}
	if cut < 50 {
		t.Errorf("only %d cases", cut)
	}
}

// A hard state with another term or vote is synced before anything else is written. That proves
// that the hard state before it, which only commits, was durable. Nothing else does, and it is
// damaged here.
func TestAVoteProvesALaterBatch(t *testing.T) {
	for _, next := range []walpb.HardState{{Term: 2, Commit: 9}, {Term: 1, Vote: 3, Commit: 9}, {Term: 1, Commit: 9}} {
		l, w := create(t, plain)
		must(t, w.Save(walpb.HardState{Term: 1, Commit: 1}, entries(1, 1, 10, 30)))
		must(t, w.Save(walpb.HardState{Term: 1, Commit: 8}, nil))
		must(t, w.Save(next, nil))
		must(t, w.Save(walpb.HardState{}, entries(next.Term, 11, 11, 30)))
		b := bytes.Clone(l.Tree()["log/"+segment0])
		must(t, w.Close())
		list := records(t, crashfs.Load(map[string][]byte{"/log/" + segment0: b}))
		damaged := list[len(list)-3]
		b[damaged.Offset+8+int64(b[damaged.Offset])-1]++ // the last byte of its data
		want := wal.Corrupt
		if next.Term == 1 && next.Vote == 0 {
			want = wal.TornUnproven // all of it may be of one batch
		}
		if r := check(t, crashfs.Load(map[string][]byte{"/log/" + segment0: b})); r.Verdict != want {
			t.Errorf("a hard state %+v follows what is damaged, and an entry: %v, want %v", next, r.Verdict, want)
		}
	}
}

// etcd 2 did not pad its frames: one of eight begins where a padded one may, and the next ones do
// not.
func TestFramesWithoutPaddingAreFoundWhereverTheyBegin(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join(testlogs.Writers(t, "etcd/2.3.8/lagged")["etcd/2.3.8/lagged"], segment0))
	must(t, err)
	list := records(t, crashfs.Load(map[string][]byte{labDir + "/" + segment0: whole}))
	aligned := 0
	for _, r := range list[3 : len(list)-5] {
		if r.Offset%8 == 0 {
			aligned++
		}
		b := bytes.Clone(whole)
		clear(b[r.Offset : r.Offset+r.Size])
		if v := check(t, crashfs.Load(map[string][]byte{labDir + "/" + segment0: b})).Verdict; v != wal.Corrupt {
			t.Errorf("the record at %d is zeros, and others follow: %v", r.Offset, v)
		}
	}
	if aligned < 5 {
		t.Errorf("only %d frames begin at a multiple of 8", aligned)
	}
}

// No write of ours or of etcd ends inside a frame, except at the border of a sector, and no file
// system makes a file end there.
func TestAFileThatEndsInsideAFrameWasCutOff(t *testing.T) {
	for _, change := range [][]func(*wal.Options){nil, {plain}} {
		b, list := unmarked(t, 20, change...)
		last := list[len(list)-2]
		start, end := last.Offset, last.Offset+last.Size
		for size := start + 1; size < end; size++ {
			r := check(t, crashfs.Load(map[string][]byte{"/log/" + segment0: b[:size]}))
			// Its head is there, or less than its length word.
			whole := size-start >= 16+10 && size%512 != 0 || size-start < 8
			if whole && r.Verdict != wal.Corrupt {
				t.Errorf("a frame from %d to %d in a file of %d bytes: %v", start, end, size, r.Verdict)
			}
		}
	}
}
