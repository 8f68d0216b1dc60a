package fuzz_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A forger writes segments from a script of a few bytes a record, with the right checksums around
// whatever the records say: what a fuzzer that changes bytes of a log can never come to.
type forger struct {
	files    map[string][]byte
	name     string
	seq      uint64
	index    uint64 // where the next entry would follow on
	chain    uint32
	ident    uint32
	metadata []byte
	start    uint64 // of the batch
}

// forge follows the script. Each record takes three bytes: what it is, and two numbers that say how
// it differs from what would follow on.
func forge(script []byte) map[string][]byte {
	f := &forger{files: map[string][]byte{}, metadata: []byte("metadata"), index: 1}
	f.segment(0)
	f.frame(walpb.TypeSnapshot, (&walpb.Snapshot{}).Append(nil), false, 0)
	for len(script) >= 3 && len(f.files[f.name]) < 64<<10 {
		f.record(script[0], int8(script[1]), int8(script[2]))
		script = script[3:]
	}
	return f.files
}

func (f *forger) record(what byte, a, b int8) {
	witness, claims := what&0x80 != 0, what&0x40 != 0
	var claim uint64
	if claims {
		claim = f.start
	}
	term := uint64(1 + max(0, b)/16)
	switch what % 10 {
	case 0, 1, 2: // an entry, as a rule the next one
		e := walpb.Entry{Index: f.index + uint64(a), Term: term, Data: bytes.Repeat([]byte{what}, int(max(0, b))*20)}
		f.frame(walpb.TypeEntry, e.Append(nil), witness, claim)
		f.index = e.Index + 1
	case 3:
		f.frame(walpb.TypeState, (&walpb.HardState{Term: term, Vote: 1, Commit: f.index - 1 + uint64(a)}).Append(nil), witness, claim)
	case 4:
		f.frame(walpb.TypeSnapshot, (&walpb.Snapshot{Index: f.index - 1 + uint64(a), Term: term}).Append(nil), witness, claim)
	case 5: // a cut; the next segment may be missing, or be called by another index
		f.segment(f.seq + 1 + uint64(max(0, b)/100))
	case 6: // zeros
		f.files[f.name] = append(f.files[f.name], make([]byte, 8*int(uint8(b)))...)
	case 7: // any byte of what is there is changed
		if c := f.files[f.name]; len(c) > 0 {
			c[(int(uint8(a))<<8|int(uint8(b)))%len(c)] ^= what | 1
		}
	case 8: // a record of any type with any data
		f.frame(walpb.Type(uint8(a)), bytes.Repeat([]byte{byte(b)}, int(uint8(b))), witness, claim)
	case 9: // the batch is synced
		f.start = uint64(len(f.files[f.name]))
	}
}

func (f *forger) segment(seq uint64) {
	f.seq = seq
	f.name = fmt.Sprintf("wal/%016x-%016x.wal", seq, f.index)
	if seq == 0 {
		f.name = "wal/0000000000000000-0000000000000000.wal"
	}
	f.start = 0
	f.ident = walpb.ChecksumWord(walpb.ChecksumWord(0, seq), uint64(f.chain))
	f.frame(walpb.TypeCRC, nil, true, 0)
	f.frame(walpb.TypeMetadata, f.metadata, true, 0)
	f.ident = walpb.Checksum(f.ident, f.metadata)
}

// frame appends a record as FORMAT.md says, chapters 5 and 6.
func (f *forger) frame(t walpb.Type, data []byte, witness bool, claim uint64) {
	f.chain = walpb.Checksum(f.chain, data)
	r := walpb.Record{Type: t, CRC: f.chain, Data: data, HasHeaderCRC: witness}
	n := len(data)
	if data == nil {
		n = -1
	}
	if witness {
		r.SyncedTo = claim
	}
	size := r.HeadSize(n) + len(data)
	word, pad := uint64(size), -size&7
	if pad > 0 {
		word |= 1<<63 | uint64(pad)<<56
	}
	content := f.files[f.name]
	if witness {
		r.HeaderCRC = r.HeadSum(walpb.ChecksumWord(walpb.ChecksumWord(f.ident, uint64(len(content))), word), n)
	}
	content = binary.LittleEndian.AppendUint64(content, word)
	content = r.Append(content)
	f.files[f.name] = append(content, make([]byte, pad)...)
}

// FuzzFrames gives records with the right checksums, that may contradict each other, to everything
// that opens a log. What must hold is what FuzzDirectory says, and FuzzRepair.
//
// Its seeds in testdata are what it found:
//
//   - commit-between: a hard state that commits more than the log holds and less than a snapshot
//     that was installed passed for good, so that a restart began with a commit beyond the last
//     entry.
//   - gap-before-entries: missing segments are passed over because of a snapshot record after
//     them, though entries after that snapshot were in them. That shows in the names of segments,
//     unless these are forged as well, as here; then in the commit.
//   - commit-after-gap: the same, with a record of the empty snapshot.
//   - recorded-twice: a snapshot that was recorded before and after missing segments could not be
//     replayed from.
//   - empty-snapshot-late: after missing segments, the record of the empty snapshot after
//     another's made a log that began with it.
//   - many-segments: hundreds of small ones. This was a defect of the target, whose limit of memory
//     did not know what the disk itself takes for each file.
//   - two-terms: the same with another term after them, which is the one that counts: Replay
//     refused that because of the first.
func FuzzFrames(f *testing.F) {
	entry, state, snapshot, cut, zeros, change, synced := []byte{0xc0, 0, 9}, []byte{0xc1 + 2, 0, 9}, []byte{0x80 + 6, 0, 1}, []byte{5, 0, 0}, []byte{6, 0, 9}, []byte{7, 0, 9}, []byte{9, 0, 0}
	for _, script := range [][][]byte{
		{}, {entry, state}, {entry, entry, synced, entry, zeros}, {entry, state, snapshot, cut, entry, state},
		{entry, entry, change}, {entry, synced, entry, change, synced, entry}, {{0x80, 5, 1}}, {{0, 0, 9}, {3, 0, 9}, {0, 255, 40}, {3, 0, 40}},
		{entry, {5, 0, 127}, snapshot, entry}, {{4, 20, 1}, {3, 20, 1}, {0, 0, 1}}, {{0x88, 3, 10}}, {cut, cut, change}, {{4, 20, 1}, {0, 0, 1}},
	} {
		f.Add(slices.Concat(script...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 3000 {
			t.Skip()
		}
		files := forge(script)
		limited(t, files, func() {
			attack(t, files)
			attackRepair(t, files)
		})
	})
}

// limited fails if f takes more memory than in proportion to the files, or too long.
func limited(t *testing.T, files map[string][]byte, f func()) {
	size := 0
	for _, b := range files {
		size += len(b)
	}
	began, before := time.Now(), allocated()
	f()
	if n, limit := allocated()-before, uint64(128*size+32<<10*len(files)+8<<20); n > limit {
		t.Errorf("%d bytes allocated for %d, more than %d", n, size, limit)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// FuzzRepair repairs directories of any bytes and any names.
//
//   - Nothing panics, hangs, or allocates more than in proportion to the files.
//   - What is not repaired stays as it is. What is repaired then opens, and holds all that it held;
//     what went is what the Plan said, and is in the copy; and nothing else has changed.
func FuzzRepair(f *testing.F) {
	add := func(segments []segment, names string) {
		if len(segments) > 0 {
			f.Add(pack(segments), names)
		}
	}
	for _, plain := range []bool{false, true} {
		disk := crashfs.New()
		writeSeed(f, disk, plain)
		whole := segmentsIn(f, disk.Tree())
		add(whole, "")
		for _, cut := range []int{1, 8, 100, 700} { // torn, and unborn
			torn := slices.Clone(whole)
			last := &torn[len(torn)-1]
			last.content = last.content[:max(0, len(last.content)-cut)]
			add(torn, "0.tmp\n17.tmp\nsynced\nlost+found")
			last.content = bytes.Clone(last.content)
			for i := len(last.content) - min(cut, len(last.content)); i < len(last.content)-3; i++ {
				last.content[i] ^= 0x55
			}
			add(torn, "x.wal")
			last.content = last.content[:min(5, len(last.content))]
			add(torn, path.Base(fmt.Sprintf("%016x-%016x.wal.0.torn", last.seq, last.index)))
		}
	}
	defects := testlogs.Defects(f)
	for _, name := range slices.Sorted(maps.Keys(defects)) {
		add(segmentsIn(f, readDir(f, defects[name])), "0.tmp")
	}
	f.Fuzz(func(t *testing.T, b []byte, names string) {
		files := unpack(b)
		if len(files) == 0 || len(b) > 1<<20 || len(names) > 1000 {
			t.Skip()
		}
		for name := range strings.SplitSeq(names, "\n") {
			if name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00") && files["wal/"+name] == nil {
				files["wal/"+name] = []byte(name)
			}
		}
		limited(t, files, func() { attackRepair(t, files) })
	})
}

func attackRepair(t *testing.T, files map[string][]byte) {
	disk := crashfs.Load(files)
	o := &wal.Options{FS: disk, SegmentSize: 4096}
	before, _ := readAll(disk)
	old := disk.Tree()
	plan, err := wal.PlanRepair("wal", o)
	if err == nil {
		err = plan.Apply()
		if err != nil {
			t.Errorf("%+v cannot be applied: %v", plan, err)
		}
	}
	now := disk.Tree()
	if err != nil || plan.Verdict == wal.Clean {
		if !maps.EqualFunc(old, now, bytes.Equal) {
			t.Errorf("there was nothing to repair, %v, and the log has changed", err)
		}
		return
	}
	segment := "wal/" + plan.Segment
	for name, b := range old {
		got, there := now[name]
		switch {
		case strings.HasSuffix(name, ".tmp") && !there, plan.Copy != "" && name == "wal/"+plan.Copy:
		case name == segment && plan.Verdict == wal.Unborn:
			if there {
				t.Error("an unborn segment is still there")
			}
		case name == segment:
			if len(got) < len(b) && len(bytes.TrimRight(b[len(got):], "\x00")) > 0 || !bytes.Equal(got[:plan.Offset], b[:plan.Offset]) {
				t.Errorf("%s changed before offset %d", name, plan.Offset)
			}
		case !there || !bytes.Equal(b, got):
			// The end of the log may now be in the segment before an unborn one.
			if plan.Verdict != wal.Unborn || !there || !bytes.Equal(bytes.TrimRight(b, "\x00"), bytes.TrimRight(got, "\x00")) {
				t.Errorf("%s changed", name)
			}
		}
	}
	// The copy of an unborn segment goes on with zeros.
	kept, went := now["wal/"+plan.Copy], old[segment][plan.Offset:plan.Offset+plan.Bytes]
	if plan.Bytes > 0 && (!bytes.HasPrefix(kept, went) || len(bytes.TrimRight(kept[len(went):], "\x00")) > 0 || plan.Verdict != wal.Unborn && len(kept) > len(went)) {
		t.Errorf("%d bytes went, %d were kept", plan.Bytes, len(now["wal/"+plan.Copy]))
	}
	if after, bad := readAll(disk); bad || !slices.EqualFunc(before, after, bytes.Equal) {
		t.Errorf("%d records before the repair, %d after it, corrupt %v", len(before), len(after), bad)
	}
	report, err := wal.Check("wal", o)
	if err != nil || report.Verdict > wal.Clean && report.Verdict != wal.Passed {
		t.Errorf("after the repair Check says %v, %v", report.Verdict, err)
	}
	w, err := wal.Open("wal", o)
	if err != nil {
		t.Fatalf("after the repair: %v", err)
	}
	appendOne(t, w, disk, report, before)
}
