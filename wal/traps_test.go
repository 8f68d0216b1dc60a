package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Each test here is a defect that a real log had; the letter and the number in its comment name the
// row of the list of those. What etcd does is what etcd 3.7.3 does.

// D1. etcd skips an entry at or below the snapshot it is opened at, and so forgets that it voided
// those above.
func TestOverwriteAtOrBelowSnapshotStaysDead(t *testing.T) {
	for _, c := range []struct {
		name     string
		first    uint64 // the overwrite begins here
		last     uint64
		snapshot uint64
		want     string // from the snapshot on
		next     uint64
	}{
		{"below the snapshot, ends at it", 3, 4, 4, "", 5},
		{"at the snapshot", 4, 4, 4, "", 5},
		{"below the snapshot, ends above it", 3, 6, 4, "5/2 6/2", 7},
		{"above the snapshot", 4, 4, 3, "4/2", 5},
		{"all", 1, 2, 1, "2/2", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, w := create(t)
			must(t, w.Save(state(1, 0), entries(1, 1, 7, 20)))
			must(t, w.Save(state(2, c.snapshot), entries(2, c.first, c.last, 20)))
			at := walpb.Snapshot{Index: c.snapshot, Term: 2}
			if c.snapshot < c.first {
				at.Term = 1
			}
			must(t, w.SaveSnapshot(at))
			must(t, w.Close())
			log, err := replay(l.FS, at)
			if err != nil || text(log.Entries) != c.want {
				t.Fatalf("from the snapshot on: %v, %v; want %q", log, err, c.want)
			}
			if r := check(t, l.FS); r.LastIndex != c.last || r.LastTerm != 2 {
				t.Errorf("the log ends at %d/%d, want %d/2", r.LastIndex, r.LastTerm, c.last)
			}
			// Neither do those that write after a restart take them for alive.
			w, err = wal.Open(labDir, l.options())
			must(t, err)
			if err := w.Save(walpb.HardState{}, entries(2, c.next+1, c.next+1, 1)); !errors.Is(err, wal.ErrInvalid) {
				t.Errorf("an entry behind a dead one: %v", err)
			}
			must(t, w.Save(walpb.HardState{}, entries(2, c.next, c.next, 1)))
			must(t, w.Close())
		})
	}
}

// D1, the second half: a snapshot that a leader sent replaces the log.
func TestInstalledSnapshotVoidsTheLogBeforeIt(t *testing.T) {
	for name, at := range map[string]walpb.Snapshot{
		"beyond the log":         {Index: 9, Term: 2},
		"inside, with more term": {Index: 4, Term: 2},
	} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t)
			must(t, w.Save(state(1, 2), entries(1, 1, 6, 20)))
			must(t, w.SaveSnapshot(at))
			must(t, w.Save(state(2, at.Index), nil))
			must(t, w.Sync())
			log, err := replay(l.FS, at)
			if err != nil || len(log.Entries) > 0 {
				t.Errorf("from the snapshot on: %v, %v; want none", log, err)
			}
			// Who opens at the old one is told, and gets no log with a hole.
			if log, err := replay(l.FS, walpb.Snapshot{}); !errors.Is(err, wal.ErrSnapshotOutdated) {
				t.Errorf("from the beginning on: %v, %v", log, err)
			}
			must(t, w.Save(walpb.HardState{}, entries(2, at.Index+1, at.Index+2, 20)))
			must(t, w.Close())
			log, err = replay(l.FS, at)
			if err != nil || text(log.Entries) != text(entries(2, at.Index+1, at.Index+2, 0)) {
				t.Errorf("from the snapshot on: %v, %v", log, err)
			}
		})
	}
}

// D2, D4. Whatever is done to a record in the middle, its end is not the log's, nor is it torn, and
// Open keeps its hands off: a flipped length, no padding flag, a length of zero, a payload of zeros
// with one bit flipped, a lost sector.
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
			// Without the flag it is a good frame of etcd 2's, which did not pad; but what follows
			// then is not one.
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

// D3. etcd says so when it reads, and swallows it when it opens to append.
func TestOpeningAtAnUnrecordedSnapshotIsAnError(t *testing.T) {
	l, w := create(t)
	must(t, w.Save(state(1, 4), entries(1, 1, 5, 20)))
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 4, Term: 1}))
	for _, when := range []string{"open to append", "closed"} {
		if log, err := replay(l.FS, walpb.Snapshot{Index: 3, Term: 1}); !errors.Is(err, wal.ErrSnapshotNotFound) || log != nil || !strings.Contains(err.Error(), "1/3") {
			t.Errorf("%s: not recorded: %v, %v", when, log, err)
		}
		if log, err := replay(l.FS, walpb.Snapshot{Index: 4, Term: 2}); !errors.Is(err, wal.ErrSnapshotMismatch) || log != nil || !strings.Contains(err.Error(), "2/4") {
			t.Errorf("%s: recorded with another term: %v, %v", when, log, err)
		}
		must(t, w.Close())
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

// D6, D14. No checksum of etcd's covers a record's type.
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
				list = list[:len(list)-1] // the witness that Close leaves: nothing proves that it was there, and nothing is lost with it
			}
			for _, r := range list {
				for to := byte(0); to <= 8; to++ {
					f := damage(l.FS, segment0, func(b []byte) []byte {
						b[r.Offset+9] = to // the frame's length word, the tag of type, and then the type
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

// D14. Sound checksums around nonsense: what can be read is not therefore right. Nothing panics,
// and nothing is taken in.
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
			if typ == walpb.TypeEntry || len(data) > 0 { // a hard state or a snapshot of nothing is one of zeros
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

// D28. etcd looks neither at four bits of the length word nor at padding, and as long as the chain
// is zero, as it is behind empty metadata, not at a checksum record either.
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

// D13, R12. etcd writes the head of a segment without a hard state if none was saved since it
// started, and names it after the last entry written since, whatever the snapshots say.
func TestFirstCutAfterReopenCarriesHardStateAndIndex(t *testing.T) {
	for name, snapshot := range map[string]walpb.Snapshot{"entry": {}, "snapshot": {Index: 50, Term: 2}} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t, func(o *wal.Options) { o.SegmentSize = 64 << 10 })
			vote := walpb.HardState{Term: 2, Vote: 3, Commit: 4}
			must(t, w.Save(vote, entries(2, 1, 5, 2000)))
			want := uint64(6)
			if snapshot.Index > 0 {
				must(t, w.SaveSnapshot(snapshot))
				vote.Commit = 50
				must(t, w.Save(vote, nil))
				want = 51
			}
			must(t, w.Close())
			l = newLab(l.FS.Clone())
			w, err := wal.Open(labDir, l.options()) // whose segments are smaller: the log is cut at once
			must(t, err)
			must(t, l.settle(t))
			must(t, w.Save(vote, nil)) // nothing new, but it ends the segment
			l.save(t, w, walpb.HardState{}, entries(2, want, want, 10))
			must(t, w.Close())
			segments := l.segments()
			if name := fmt.Sprintf("%016x-%016x.wal", 1, want); len(segments) != 2 || segments[1] != name {
				t.Fatalf("segments are %v, want a second %s", segments, name)
			}
			var types []walpb.Type
			for r, err := range wal.Records(labDir+"/"+segments[1], 0, &wal.Options{FS: l.FS}) {
				must(t, err)
				if types = append(types, r.Type); len(types) == 3 {
					var s walpb.HardState
					if err := s.UnmarshalVouched(r.Data); err != nil || s != vote {
						t.Errorf("the head holds %v, %v; want %v", s, err, vote)
					}
					break
				}
			}
			if !slices.Equal(types, []walpb.Type{walpb.TypeCRC, walpb.TypeMetadata, walpb.TypeState}) {
				t.Errorf("the head is %v", types)
			}
		})
	}
}

// D23. The size of etcd's segments is a variable of the process.
func TestSegmentSizeIsOfEachLog(t *testing.T) {
	f := crashfs.New()
	for dir, size := range map[string]int64{"small": 16 << 10, "large": 256 << 10} {
		o := newLab(f.Clone()).options()
		o.SegmentSize = size
		w, err := wal.Create(dir, nil, o)
		must(t, err)
		defer w.Close()
		l := o.FS.(*lab)
		must(t, l.settle(t))
		for i := uint64(1); l.cuts.Load() < 2; i++ {
			l.save(t, w, walpb.HardState{}, entries(1, i, i, 1000))
		}
		for name, b := range l.Tree() {
			if n := int64(len(b)); strings.HasPrefix(name, dir+"/") && name != dir+"/" && path.Base(name) != "synced" && (n < size || n > size+2000) {
				t.Errorf("%s has %d bytes, want about %d", name, n, size)
			}
		}
	}
}

// T22. DLedger deletes the file with the vote and then renames the new one over it. At every
// operation boundary of a log's life, whatever of it a crash takes, the last acknowledged vote is
// there.
func TestVoteIsThereAtEveryMoment(t *testing.T) {
	l := newLab(crashfs.New())
	var (
		mu      sync.Mutex      // the spare is made in the background
		vote    walpb.HardState // acknowledged
		crashes int
	)
	l.FS.SetHook(nil, func(crashfs.Op) {
		mu.Lock()
		defer mu.Unlock()
		if vote.IsZero() {
			return
		}
		for i, choose := range []crashfs.Chooser{crashfs.DropAll, crashfs.KeepAll, crashfs.Random(rand.New(rand.NewPCG(1, uint64(crashes))))} {
			crashes++
			f := l.FS.Crash(choose)
			w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
			if err != nil {
				t.Errorf("crash %d, way %d: %v", crashes, i, err)
				return
			}
			w.Close()
			log, err := replay(f, walpb.Snapshot{})
			if err != nil || log.State.Term < vote.Term || log.State.Term == vote.Term && log.State.Vote != vote.Vote {
				t.Errorf("crash %d, way %d: %v, %v; acknowledged was %v", crashes, i, log, err, vote)
			}
		}
	})
	w, err := wal.Create(labDir, nil, l.options())
	must(t, err)
	must(t, l.settle(t))
	for i := uint64(1); l.cuts.Load() < 2; i++ {
		s := walpb.HardState{Term: i, Vote: i % 3}
		l.save(t, w, s, entries(i, i, i, 1500))
		mu.Lock()
		vote = s
		mu.Unlock()
	}
	must(t, w.Close())
	w, err = wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle(t))
	must(t, w.Close())
	if crashes < 50 {
		t.Errorf("only %d crashes", crashes)
	}
}

// T23. What a crash leaves behind the tail are whole, good records of a batch that was never
// acknowledged. Once the log has gone on, they must not come to life where what is written in front
// of them ends.
func TestGhostsBehindTheTailStayDead(t *testing.T) {
	const size = 64 << 10
	l, w := create(t, func(o *wal.Options) { o.SegmentSize = size })
	must(t, w.Save(state(1, 0), entries(1, 1, 1, 100)))
	ghosts := entries(1, 2, 8, 1500)
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData {
			return errors.New("power is about to fail")
		}
		return nil
	}
	if err := w.Save(walpb.HardState{}, ghosts); err == nil {
		t.Fatal("the sync did not fail")
	}
	// Every sector of the batch is there but the first that holds nothing else.
	first := true
	crashed := l.FS.Crash(func(places []crashfs.Place, choices []crashfs.Choice) {
		crashfs.KeepAll(places, choices)
		for i, p := range places {
			if first && p.Kind == crashfs.Sector && strings.HasSuffix(p.Path, segment0) && p.Off >= 512 {
				choices[i], first = crashfs.Choice{}, false
			}
		}
	})
	if first {
		t.Fatal("no sector was dropped")
	}
	if r := check(t, crashed); r.Verdict != wal.Torn {
		t.Fatalf("Check: %v", r.Verdict)
	}
	l = newLab(crashed)
	o := l.options()
	o.SegmentSize = size
	w, err := wal.Open(labDir, o)
	must(t, err)
	must(t, l.settle(t))
	log, err := replay(crashed, walpb.Snapshot{})
	must(t, err)
	n := uint64(len(log.Entries))
	for n < 8 { // as far as the ghosts reached, each where one of them was
		n++
		l.save(t, w, walpb.HardState{}, []walpb.Entry{{Term: 2, Index: n, Data: bytes.Repeat([]byte{'n'}, 1500)}})
		for _, choose := range []crashfs.Chooser{crashfs.DropAll, crashfs.KeepAll} {
			log, err := replay(l.FS.Crash(choose), walpb.Snapshot{})
			if err != nil || uint64(len(log.Entries)) != n || log.Entries[n-1].Term != 2 {
				t.Fatalf("after entry %d/2 the log holds %v, %v", n, log, err)
			}
		}
		segment, err := l.ReadFile(labDir + "/" + segment0)
		must(t, err)
		if bytes.Contains(segment, ghosts[6].Data) {
			t.Fatal("a ghost is still behind the tail")
		}
	}
	must(t, w.Close())
}

// T29. raft-wal verifies the last batch when it opens.
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

// T30. The loss of the last segment looks like a crash during a cut, to raft-wal. Nothing in the
// segments could tell, but the mark does. Without it, what is before the lost segment is whole.
func TestLossOfASegmentIsReported(t *testing.T) {
	l, w := create(t)
	last := uint64(0)
	for len(l.segments()) < 3 {
		last++
		l.save(t, w, state(1, last-1), entries(1, last, last, 1000))
	}
	must(t, w.Close())
	for i, name := range l.segments() {
		files := l.Tree()
		delete(files, "log/"+name)
		var corrupt *wal.CorruptError
		if _, err := replay(crashfs.Load(files), walpb.Snapshot{}); err == nil {
			t.Errorf("without %s: %v", name, err)
		}
		if _, err := wal.Open(labDir, &wal.Options{FS: crashfs.Load(files)}); !errors.As(err, &corrupt) {
			t.Errorf("without %s, Open: %v", name, err)
		}
		if i == 2 {
			delete(files, "log/synced")
			log, err := replay(crashfs.Load(files), walpb.Snapshot{})
			if err != nil || text(log.Entries) != text(entries(1, 1, last-1, 0)) {
				t.Errorf("without %s and the mark: %v", name, err)
			}
		}
	}
}

// T31. tan does not open a log whose last record was torn so that its checksum fails.
func TestGarbageInTheLastBatchIsTornNotCorrupt(t *testing.T) {
	l, w := create(t)
	must(t, w.Save(state(1, 0), entries(1, 1, 3, 700)))
	fails := errors.New("power is about to fail")
	l.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData {
			return fails
		}
		return nil
	}
	if err := w.Save(state(1, 3), entries(1, 4, 6, 700)); !errors.Is(err, fails) {
		t.Fatal(err)
	}
	torn := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		f := l.FS.Crash([]crashfs.Chooser{crashfs.Garbage(rng), crashfs.Tear(rng), crashfs.Random(rng)}[seed%3])
		r := check(t, f)
		if r.Verdict != wal.Clean && r.Verdict != wal.Torn {
			t.Errorf("seed %d: Check: %v %+v", seed, r.Verdict, r.Findings)
		}
		if r.Verdict == wal.Torn {
			torn++
		}
		w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		must(t, w.Close())
		log, err := replay(f, walpb.Snapshot{})
		must(t, err)
		if n := len(log.Entries); n < 3 || text(log.Entries) != text(entries(1, 1, uint64(n), 0)) {
			t.Errorf("seed %d: the log holds %s", seed, text(log.Entries))
		}
	}
	if torn < 50 {
		t.Errorf("only %d of 300 crashes tore the log", torn)
	}
}

// D27. etcd removes a directory called like the log's with .tmp behind it, without a word.
func TestDirectoryBesideTheLogIsLeftAlone(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"log.tmp/precious": []byte("x")})
	w, err := wal.Create(labDir, nil, &wal.Options{FS: f})
	must(t, err)
	must(t, w.Close())
	if b, err := f.ReadFile("log.tmp/precious"); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}
