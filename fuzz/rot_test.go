package fuzz_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const rotDir = "wal"

// A rotting is a closed log of three segments, with what its readers showed before anything was changed.
type rotting struct {
	files    map[string][]byte // by path
	segments []string          // paths, in order
	ends     []int             // where their records end
	last     int               // where the last record of the log begins
	want     *wal.Log
	sum      uint32 // of the records
	reads    int
}

// What a change came to.
type outcome string

const (
	identical outcome = "identical"
	torn      outcome = "torn"    // a shorter log, and Check says so
	corrupt   outcome = "corrupt" // an error
	silent    outcome = "silent"  // another log, and nothing said
)

func newRotting(t *testing.T) *rotting {
	disk := crashfs.New()
	cut, made := true, make(chan error, 1)
	w, err := wal.Create(rotDir, []byte("metadata"), &wal.Options{FS: disk, SegmentSize: 4096, Observer: wal.Observer{
		Cut:   func(string, time.Duration) { cut = true },
		Spare: func(err error) { made <- err },
	}})
	if err != nil {
		t.Fatal(err)
	}
	// awaitSpare makes the log the same every time: without it, when a segment is cut depends on when there is a spare.
	awaitSpare := func() {
		if cut {
			cut = false
			if err := <-made; err != nil {
				t.Fatal(err)
			}
		}
	}
	awaitSpare()
	var state walpb.HardState
	save := func(entries ...walpb.Entry) {
		if err := w.Save(state, entries); err != nil {
			t.Fatal(err)
		}
		awaitSpare()
	}
	segments := func() (paths []string) {
		names, err := disk.ReadDir(rotDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if path.Ext(n.Name()) == ".wal" {
				paths = append(paths, path.Join(rotDir, n.Name()))
			}
		}
		return paths
	}
	terms := []uint64{0}
	for index, term := uint64(1), uint64(1); len(segments()) < 3 || disk.Ops() < 195; index++ {
		size := int(index*37%90) + 10*int(index%3)
		if index%11 == 0 {
			size = 900 // more than a sector
		}
		state.Term, state.Commit = term, index-1
		save(walpb.Entry{Term: term, Index: index, Data: bytes.Repeat([]byte{byte(index)}, size)})
		if index%5 == 0 { // a leader of the next term overwrites the entry
			term++
			state.Term = term
			save(walpb.Entry{Term: term, Index: index, Data: []byte("over")})
		}
		terms = append(terms, term)
		if index%9 == 0 {
			if err := w.SaveSnapshot(walpb.Snapshot{Index: index - 2, Term: terms[index-2], ConfState: []byte{8, 1}}); err != nil {
				t.Fatal(err)
			}
			awaitSpare()
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := &rotting{files: disk.Tree(), segments: segments()}
	if len(r.segments) != 3 {
		t.Fatalf("%d segments", len(r.segments))
	}
	for rec, err := range wal.Records(rotDir, 0, &wal.Options{FS: disk}) {
		if err != nil {
			t.Fatal(err)
		}
		i := slices.Index(r.segments, path.Join(rotDir, rec.Segment))
		if len(r.ends) <= i {
			r.ends = append(r.ends, 0)
		}
		r.ends[i] = int(rec.Offset + rec.Size)
		r.last = int(rec.Offset)
	}
	if r.want, err = wal.Replay(wal.Records(rotDir, 0, &wal.Options{FS: disk}), walpb.Snapshot{}); err != nil {
		t.Fatal(err)
	}
	if r.sum, err = sumRecords(disk); err != nil {
		t.Fatal(err)
	}
	return r
}

// read tells what readers make of changed files. A log that is shorter must not be taken for whole by Check.
func (r *rotting) read(t *testing.T, files map[string][]byte) outcome {
	t.Helper()
	disk := crashfs.Load(files)
	o := &wal.Options{FS: disk}
	sum, err := sumRecords(disk)
	if err == nil && sum == r.sum {
		return identical
	}
	var got *wal.Log
	if err == nil {
		got, err = wal.Replay(wal.Records(rotDir, 0, o), walpb.Snapshot{})
	}
	if err != nil {
		var c *wal.CorruptError
		if !errors.As(err, &c) && !errors.Is(err, wal.ErrNoLog) && !errors.Is(err, wal.ErrSnapshotNotFound) {
			t.Errorf("an error of another kind: %v", err)
		}
		if r.reads++; r.reads%16 == 0 {
			r.refused(t, disk)
		}
		return corrupt
	}
	report, err := wal.Check(rotDir, o)
	if err != nil {
		t.Errorf("check: %v", err)
	}
	switch {
	case report.Verdict >= wal.Corrupt:
		t.Errorf("Check says %v of a log that Replay takes", report.Verdict)
		return corrupt
	case report.Verdict != wal.Clean && prefixOf(got, r.want):
		return torn
	}
	return silent
}

// refused fails the test unless Open refuses a log and leaves every byte of it as it is, and Check agrees.
func (r *rotting) refused(t *testing.T, disk *crashfs.FS) {
	t.Helper()
	o := &wal.Options{FS: disk}
	before := disk.Tree()
	if w, err := wal.Open(rotDir, o); err == nil {
		w.Close()
		t.Errorf("a log that Records refuses, Open opens")
		return
	}
	if !maps.EqualFunc(before, disk.Tree(), bytes.Equal) {
		t.Errorf("Open changed a log that it refuses")
	}
	if report, err := wal.Check(rotDir, o); err == nil && report.Verdict < wal.Corrupt {
		t.Errorf("Check says %v of a log that Open refuses", report.Verdict)
	}
}

// sumRecords returns a sum of all records: those that say something.
func sumRecords(disk *crashfs.FS) (sum uint32, err error) {
	for rec, err := range wal.Records(rotDir, 0, &wal.Options{FS: disk}) {
		if err != nil {
			return 0, err
		}
		if rec.Type != walpb.TypeCRC {
			sum = walpb.Checksum(walpb.Checksum(sum, []byte{byte(rec.Type)}), rec.Data)
		}
	}
	return sum, nil
}

// prefixOf tells whether a log may be what the other was, some records ago. An entry may have been overwritten since.
func prefixOf(a, b *wal.Log) bool {
	return len(a.Entries) <= len(b.Entries)+1 && a.State.Commit <= b.State.Commit && a.State.Term <= b.State.Term
}

// with returns the files with another content for one of them.
func (r *rotting) with(name string, content []byte) map[string][]byte {
	files := maps.Clone(r.files)
	files[name] = content
	return files
}

// counts counts outcomes, and what was silent.
type counts struct {
	n      map[outcome]int
	silent []string
}

func (c *counts) add(o outcome, format string, args ...any) {
	if c.n == nil {
		c.n = map[outcome]int{}
	}
	c.n[o]++
	if o == silent {
		c.silent = append(c.silent, fmt.Sprintf(format, args...))
	}
}

func (c *counts) String() string {
	return fmt.Sprintf("%d identical, %d torn, %d corrupt, %d silent", c.n[identical], c.n[torn], c.n[corrupt], c.n[silent])
}

// onlyThese fails unless the silent ones are exactly these.
func (c *counts) onlyThese(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(c.silent, want) {
		t.Errorf("silent: %q, want %q", c.silent, want)
	}
}

func TestNoFlippedBitIsSilent(t *testing.T) {
	r := newRotting(t)
	var all counts
	for i, name := range r.segments {
		content := slices.Clone(r.files[name])
		end := min(len(content), r.ends[i]+4096)
		for bit := range end * 8 {
			content[bit/8] ^= 1 << (bit % 8)
			o := r.read(t, r.with(name, content))
			content[bit/8] ^= 1 << (bit % 8)
			all.add(o, "%s: byte %d, bit %d", name, bit/8, bit%8)
			// A torn tail begins behind what was durable and has a witness: here, the last record of the log.
			if o == torn && (i < 2 || bit/8 < r.last) {
				t.Fatalf("%s: byte %d, bit %d is called torn; the last record is at %d", name, bit/8, bit%8, r.last)
			}
		}
	}
	t.Logf("%d bits: %v", all.n[identical]+all.n[torn]+all.n[corrupt]+all.n[silent], &all)
	all.onlyThese(t)
	if all.n[corrupt] < r.last*8*2/3 {
		t.Errorf("only %d are called corrupt: the test does not reach the log", all.n[corrupt])
	}
}

func TestNoZeroedSectorIsSilent(t *testing.T) {
	r := newRotting(t)
	var all counts
	for i, name := range r.segments {
		for from := 0; from < r.ends[i]; from += 512 {
			content := slices.Clone(r.files[name])
			clear(content[from:min(from+512, len(content))])
			all.add(r.read(t, r.with(name, content)), "%s: sector at %d", name, from)
		}
	}
	t.Logf("%v", &all)
	// Behind the last sector stands no witness of it: see FORMAT.md, chapter 11.
	all.onlyThese(t, r.lostBehind(t, "sector at %d", 512)...)
}

func TestNoTruncationIsSilentThatLeavesAWitness(t *testing.T) {
	r := newRotting(t)
	var all counts
	for i, name := range r.segments {
		for size := 0; size < r.ends[i]; size += 8 {
			all.add(r.read(t, r.with(name, r.files[name][:size])), "%s: size %d", name, size)
		}
	}
	t.Logf("%v", &all)
	// The last segment's own witnesses go with what they are witnesses of. What is left ends with a frame, so it is a log; all
	// other sizes are reported as torn.
	for _, s := range all.silent {
		var size int
		if _, err := fmt.Sscanf(s, r.segments[2]+": size %d", &size); err != nil || !r.frameEnds(t, 2)[size] {
			t.Errorf("silent: %s", s)
		}
	}
}

// frameEnds returns the offsets in a segment at which a frame ends.
func (r *rotting) frameEnds(t *testing.T, segment int) map[int]bool {
	ends := map[int]bool{}
	for rec, err := range wal.Records(rotDir, 0, &wal.Options{FS: crashfs.Load(r.files)}) {
		if err != nil {
			t.Fatal(err)
		}
		if path.Join(rotDir, rec.Segment) == r.segments[segment] {
			ends[int(rec.Offset+rec.Size)] = true
		}
	}
	return ends
}

// lostBehind returns the descriptions of the sectors of the last segment behind which nothing is left.
func (r *rotting) lostBehind(t *testing.T, format string, sector int) (lost []string) {
	at := (r.ends[2] - 1) / sector * sector
	if r.frameEnds(t, 2)[at] && r.last > at {
		lost = append(lost, r.segments[2]+": "+fmt.Sprintf(format, at))
	}
	return lost
}

func TestLostAndSwappedSegmentsAreReported(t *testing.T) {
	r := newRotting(t)
	var all counts
	for i, name := range r.segments {
		files := maps.Clone(r.files)
		delete(files, name)
		all.add(r.read(t, files), "%s lost", name)
		for _, other := range r.segments[i+1:] {
			files := maps.Clone(r.files)
			files[name], files[other] = files[other], files[name]
			all.add(r.read(t, files), "%s and %s swapped", name, other)
			files = maps.Clone(r.files)
			files[name] = files[other]
			all.add(r.read(t, files), "%s is a copy of %s", name, other)
		}
	}
	t.Logf("%v", &all)
	// A log that never was cut for the last time looks the same: see FORMAT.md, chapter 11.
	all.onlyThese(t, r.segments[2]+" lost")
}
