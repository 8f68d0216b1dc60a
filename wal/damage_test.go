package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D2, D4. Damage to a record in the middle is neither the end of the log nor a torn tail, and Open
// changes nothing: a flipped length, a missing padding flag, a length of zero, a flipped bit in a
// payload of zeros, a lost sector.
func TestDamageInTheMiddleIsNeverTorn(t *testing.T) {
	for name, change := range map[string]func(*wal.Options){"ours": func(*wal.Options) {}, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t, change)
			must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
			zeros := []walpb.Entry{{Term: 1, Index: 2, Data: make([]byte, 2047)}}
			must(t, w.Save(state(1, 1), zeros))
			for i := uint64(3); i <= 6; i++ {
				must(t, w.Save(state(1, i-1), entries(1, i, i, 100)))
			}
			must(t, w.Close())
			var victim wal.Record
			for _, r := range records(t, l.FS) {
				if r.Type == walpb.TypeEntry && len(r.Data) > 2047 {
					victim = r
				}
			}
			at := victim.Offset
			try := func(what string, edit func([]byte) []byte) {
				t.Helper()
				f := damage(l.FS, segment0, edit)
				c := refused(t, f, segment0, at)
				if t.Failed() {
					t.Fatalf("%s: %v", what, c)
				}
				log, _ := replay(f, walpb.Snapshot{})
				if got := text(log.Entries); got != "1/1" {
					t.Fatalf("%s: before the damage there is %s", what, got)
				}
			}
			for bit := range 64 {
				try(fmt.Sprintf("bit %d of the length word", bit), func(b []byte) []byte {
					b[int(at)+bit/8] ^= 1 << (bit % 8)
					return b
				})
			}
			try("length word zero", func(b []byte) []byte { clear(b[at : at+8]); return b })
			try("length beyond the file", func(b []byte) []byte {
				binary.LittleEndian.PutUint64(b[at:], 1<<40)
				return b
			})
			for _, off := range []int64{40, 700, 1500, 2040} {
				try(fmt.Sprintf("bit in the data at %d", off), func(b []byte) []byte { b[at+off] ^= 4; return b })
			}
			// Without the flag the record is a good frame of etcd 2, which did not pad. What
			// follows it then is not.
			if r := check(t, damage(l.FS, segment0, func(b []byte) []byte { b[at+7] = 0; return b })); r.Verdict != wal.Corrupt {
				t.Errorf("length word without flag and padding: %v", r.Verdict)
			}
			try("first sector of the record", func(b []byte) []byte { clear(b[at : at&^511+512]); return b })
			for off := (at + 511) &^ 511; off+512 < at+victim.Size; off += 512 {
				try("garbage in a sector", func(b []byte) []byte {
					rand.NewChaCha8([32]byte{byte(off)}).Read(b[off : off+512])
					return b
				})
			}
		})
	}
}

// D5. etcd reads a prefix of a log whose middle segment is cut short, and says that all is well.
func TestShortSegmentInTheMiddleIsDamage(t *testing.T) {
	for name, change := range map[string]func(*wal.Options){"ours": func(*wal.Options) {}, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			files, segments, _ := threeSegments(t, change)
			f := crashfs.Load(files)
			var places []wal.Record
			for _, r := range records(t, f) {
				if r.Segment == segments[0] {
					places = append(places, r)
				}
			}
			size := len(files["log/"+segments[0]])
			last := places[len(places)-1]
			for _, cut := range []int{size - 1, size - 9, int(last.Offset) + 4, int(last.Offset), int(places[4].Offset) + 1, int(places[4].Offset)} {
				short := damage(f, segments[0], func(b []byte) []byte { return b[:cut] })
				at := int64(0)
				for _, r := range places {
					if r.Offset <= int64(cut) && r.Offset+r.Size > int64(cut) {
						at = r.Offset
					}
				}
				refused(t, short, segments[0], at)
				if _, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: short})); err == nil {
					t.Errorf("cut to %d of %d: Snapshots finds nothing wrong", cut, size)
				}
				if _, err := wal.PlanRepair(labDir, &wal.Options{FS: short}); err == nil {
					t.Errorf("cut to %d of %d: PlanRepair finds nothing wrong", cut, size)
				}
			}
		})
	}
}

// D6, D14. etcd's checksums do not cover the type of a record.
func TestChangedTypeIsNeverBelieved(t *testing.T) {
	for name, change := range map[string]func(*wal.Options){"ours": func(*wal.Options) {}, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t, change)
			must(t, w.Save(state(1, 0), entries(1, 1, 3, 10)))
			must(t, w.Save(state(2, 2), []walpb.Entry{{Term: 2, Index: 4}, {Term: 2, Index: 5, Type: walpb.EntryConfChange, Data: []byte{8, 1}}}))
			must(t, w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 1, ConfState: []byte{8, 1}}))
			must(t, w.Save(state(2, 3), entries(2, 6, 6, 10)))
			must(t, w.Close())
			list := records(t, l.FS)
			if name == "ours" {
				// The witness that Close leaves: nothing proves that it was there, and nothing is
				// lost with it.
				list = list[:len(list)-1]
			}
			for _, r := range list {
				for to := byte(0); to <= 8; to++ {
					f := damage(l.FS, segment0, func(b []byte) []byte {
						b[r.Offset+8+1] = to // after the length word and the tag of the type
						return b
					})
					if walpb.Type(to) == r.Type {
						continue
					}
					if name == "plain" && r.Type == walpb.TypeState && walpb.Type(to) == walpb.TypeEntry {
						continue // can be an entry that a log may hold: FORMAT.md, chapter 11
					}
					if report := check(t, f); report.Verdict == wal.Clean {
						t.Errorf("a %v at %d, made a %v, is clean: state %v, last %d", r.Type, r.Offset, walpb.Type(to), report.State, report.LastIndex)
					}
					if w, err := wal.Open(labDir, &wal.Options{FS: f}); err == nil && name == "ours" {
						t.Errorf("a %v at %d, made a %v: Open takes it", r.Type, r.Offset, walpb.Type(to))
						w.Close()
					}
				}
			}
		})
	}
}

// D14. Checksums can match around nonsense. Nothing panics, and nothing of it is believed.
func TestNonsenseUnderSoundChecksumsIsReported(t *testing.T) {
	entry := func(e walpb.Entry) walpb.Record { return walpb.Record{Type: walpb.TypeEntry, Data: e.Append(nil)} }
	hard := func(s walpb.HardState) walpb.Record {
		return walpb.Record{Type: walpb.TypeState, Data: s.Append(nil)}
	}
	junk := [][]byte{nil, {}, {0xff}, {0x08}, {0x22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, bytes.Repeat([]byte{0xff}, 40), {0x0b}}
	for _, c := range []struct {
		name    string
		records []walpb.Record
		torn    bool // the checksums do not hold, and nothing that follows proves that they did
	}{
		{"gap", []walpb.Record{entry(walpb.Entry{Term: 1, Index: 1}), entry(walpb.Entry{Term: 1, Index: 3})}, false},
		{"index 0", []walpb.Record{entry(walpb.Entry{Term: 1, Index: 0})}, false},
		{"term falls", []walpb.Record{entry(walpb.Entry{Term: 2, Index: 1}), entry(walpb.Entry{Term: 1, Index: 2})}, false},
		{"hard state's term falls", []walpb.Record{hard(walpb.HardState{Term: 2}), hard(walpb.HardState{Term: 1})}, false},
		{"commit falls", []walpb.Record{entry(walpb.Entry{Term: 1, Index: 1}), entry(walpb.Entry{Term: 1, Index: 2}), hard(state(1, 2)), hard(state(1, 1))}, false},
		{"commit beyond the log", []walpb.Record{entry(walpb.Entry{Term: 1, Index: 1}), hard(state(1, 2))}, false},
		{"committed entry overwritten", []walpb.Record{entry(walpb.Entry{Term: 1, Index: 1}), hard(state(1, 1)), entry(walpb.Entry{Term: 2, Index: 1})}, false},
		{"metadata again", []walpb.Record{{Type: walpb.TypeMetadata, Data: []byte("meta")}}, false},
		{"other metadata", []walpb.Record{{Type: walpb.TypeMetadata, Data: []byte("atem")}}, false},
		{"other checksum", []walpb.Record{{Type: walpb.TypeCRC, CRC: 5}}, true},
		{"checksum with data", []walpb.Record{{Type: walpb.TypeCRC, CRC: 5, Data: []byte{1}}}, true},
		{"type 0", []walpb.Record{{Type: 0, Data: []byte{1}}}, false},
		{"type 9", []walpb.Record{{Type: 9, Data: []byte{1}}}, false},
	} {
		f := crashfs.Load(map[string][]byte{"log/" + segment0: append(forge(0, append(head(), c.records...)...), make([]byte, 4096)...)})
		if r := check(t, f); r.Verdict == wal.Clean {
			t.Errorf("%s: clean", c.name)
		}
		l := newLab(f)
		w, err := wal.Open(labDir, l.options())
		var corrupt *wal.CorruptError
		if err == nil {
			w.Close()
			if !c.torn {
				t.Errorf("%s: Open takes it", c.name)
			}
		} else if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), segment0) {
			t.Errorf("%s: %v", c.name, err)
		}
		l.nothingLeft(t)
	}
	for _, typ := range []walpb.Type{walpb.TypeEntry, walpb.TypeState, walpb.TypeSnapshot} {
		for _, data := range junk {
			f := crashfs.Load(map[string][]byte{"log/" + segment0: forge(0, append(head(), walpb.Record{Type: typ, Data: data})...)})
			// A hard state or a snapshot of nothing is one of zeros.
			if typ == walpb.TypeEntry || len(data) > 0 {
				if r := check(t, f); r.Verdict == wal.Clean {
					t.Errorf("%v of % x: clean", typ, data)
				}
			}
			l := newLab(f)
			if w, err := wal.Open(labDir, l.options()); err == nil {
				w.Close()
			}
			l.nothingLeft(t)
		}
	}
}

// D28, T18, T21, T32. etcd looks neither at four bits of the length word nor at padding, and as
// long as the chain is zero, as it is after empty metadata, not at a checksum record either.
func TestEveryBitOfAFrameCounts(t *testing.T) {
	nothing := []walpb.Record{{Type: walpb.TypeCRC}, {Type: walpb.TypeMetadata}}
	f := crashfs.Load(map[string][]byte{"log/" + segment0: forge(0, append(nothing, walpb.Record{Type: walpb.TypeCRC, CRC: 5}, head()[2])...)})
	if r := check(t, f); len(r.Findings) != 1 || r.Findings[0].Offset != 32 || r.Findings[0].Kind != wal.BadChecksum {
		t.Errorf("a checksum record that does not go on from zero: %v, %+v", r.Verdict, r.Findings)
	}

	for name, change := range map[string]func(*wal.Options){"ours": func(*wal.Options) {}, "plain": plain} {
		l, w := create(t, change)
		for i := uint64(1); i <= 5; i++ {
			must(t, w.Save(state(1, i-1), entries(1, i, i, 10)))
		}
		must(t, w.Close())
		list := records(t, l.FS)
		first := slices.IndexFunc(list, func(r wal.Record) bool { return r.Type == walpb.TypeEntry })
		r := list[first]
		for bit := int64(0); bit < r.Size*8; bit++ {
			f := damage(l.FS, segment0, func(b []byte) []byte {
				b[r.Offset+bit/8] ^= 1 << (bit % 8)
				return b
			})
			if report := check(t, f); report.Verdict != wal.Corrupt {
				t.Errorf("%s: bit %d of %d of an entry's frame: %v", name, bit, r.Size*8, report.Verdict)
			}
		}
	}
}

// T29. raft-wal verifies only the last batch when it opens a log. Open verifies all of it.
func TestOpenVerifiesEarlierBatchesAndSegments(t *testing.T) {
	files, segments, _ := threeSegments(t)
	f := crashfs.Load(files)
	for _, r := range records(t, f) {
		if r.Type != walpb.TypeEntry || r.Segment == segments[2] {
			continue
		}
		refused(t, damage(f, r.Segment, func(b []byte) []byte { b[r.Offset+r.Size/2] ^= 1; return b }), r.Segment, r.Offset)
	}
}
