package snap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/fileutil/crashfs"
)

// found is what a program comes to hold that starts with a damaged file of index 2 and a good one
// of index 1.
type found string

const (
	older  found = "the older one"
	intact found = "the same"
	silent found = "something else"
)

// restart returns what Newest or NewestBody finds. That a damaged file is there no more, or as it
// was, is checked too.
func restart(t *testing.T, name string, damaged []byte, load func(*Store) (uint64, []byte, error), want []byte) found {
	t.Helper()
	fsys := crashfs.New()
	s := open(t, fsys)
	save(t, s, 1)
	writeBody(t, s, 1, 10)
	fsys.WriteFile("snap/"+name, damaged)
	index, got, err := load(s)
	left := 0
	for file, b := range fsys.Tree() {
		if (file == "snap/"+name || file == "snap/"+name+brokenSuffix) && bytes.Equal(b, damaged) {
			left++
		}
	}
	switch {
	case err != nil:
		t.Errorf("%v", err)
	case left != 1:
		t.Error("the damaged file is not there any more")
	case index == 1:
		return older
	case bytes.Equal(got, want):
		return intact
	}
	return silent
}

func loadSnapshot(s *Store) (uint64, []byte, error) {
	got, err := s.Newest(records(0, 1, 2))
	return got.Index, got.Append(nil), err
}

func loadBody(s *Store) (uint64, []byte, error) {
	r, err := s.NewestBody(records(0, 1, 2))
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return r.Body().Index, append(r.Body().Record().ConfState, b...), err
}

func TestEveryBitAndTruncationOfASnapshot(t *testing.T) {
	two := at(2)
	file := two.Append(nil)
	counts := map[found]int{}
	try := func(what string, damaged []byte) {
		f := restart(t, snapshotName(2, 2), damaged, loadSnapshot, file)
		counts[f]++
		if f != older {
			t.Errorf("%s: found %s", what, f)
		}
	}
	eachDamage(file, try)
	t.Logf("%d bytes: %v", len(file), counts)
	if got := restart(t, snapshotName(2, 2), file, loadSnapshot, file); got != intact {
		t.Errorf("the good file: %s", got)
	}
}

func TestEveryBitAndTruncationOfABody(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	writeBody(t, s, 2, 200)
	file, _ := fsys.ReadFile("snap/" + bodyName(2))
	want := append([]byte{8, 1}, bodyBytes(2, 200)...)
	counts := map[found]int{}
	eachDamage(file, func(what string, damaged []byte) {
		f := restart(t, bodyName(2), damaged, loadBody, want)
		counts[f]++
		if f != older {
			t.Errorf("%s: found %s", what, f)
		}
	})
	t.Logf("%d bytes: %v", len(file), counts)
	if got := restart(t, bodyName(2), file, loadBody, want); got != intact {
		t.Errorf("the good file: %s", got)
	}
}

// eachDamage calls try with every one-bit change of b, every truncation, and every length longer by
// up to 70 zeros.
func eachDamage(b []byte, try func(what string, damaged []byte)) {
	for i := range 8 * len(b) {
		damaged := bytes.Clone(b)
		damaged[i/8] ^= 1 << (i % 8)
		try(fmt.Sprintf("bit %d of byte %d", i%8, i/8), damaged)
	}
	for n := range len(b) {
		try(fmt.Sprintf("cut to %d bytes", n), b[:n:n])
	}
	for n := range 70 {
		try(fmt.Sprintf("%d bytes longer", n+1), append(bytes.Clone(b), make([]byte, n+1)...))
	}
}

// In a body of several blocks each byte is changed once, and each length tried; what is read before
// the damage shows is right.
func TestEveryByteAndTruncationOfALongBody(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	const size = 2*BlockSize + 1000
	writeBody(t, s, 2, size)
	good, _ := fsys.ReadFile("snap/" + bodyName(2))
	want := bodyBytes(2, size)
	tries := 0
	try := func(what string, file []byte) {
		tries++
		var got []byte
		r, err := newReader("x", memory{file})
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if !isCorrupt(err) {
			t.Errorf("%s: %v", what, err)
		}
		if !bytes.HasPrefix(want, got) {
			t.Errorf("%s: read something else", what)
		}
	}
	step := 29
	if *long {
		step = 1
	} else {
		t.Log("every 29th byte; -long makes it every byte")
	}
	for i := 0; i < len(good); i += step {
		b := good[i]
		good[i] ^= 1 << (i % 8)
		try(fmt.Sprintf("byte %d", i), good)
		good[i] = b
		try(fmt.Sprintf("cut to %d bytes", i), good[:i])
	}
	t.Logf("%d bytes, %d tries", len(good), tries)
	if r, err := newReader("x", memory{good}); err != nil || r.Verify() != nil {
		t.Error(err)
	}
}

// What a disk that mixes up its sectors, or a file system its blocks, puts in a place was written
// with the right checksum, elsewhere.
func TestBlocksOfAnotherPlaceAreNotTaken(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	same := make([]byte, 3*BlockSize) // all blocks alike, so that only their place tells them apart
	body := Body{Index: 2, Term: 2, ConfState: []byte{8, 1}, ID: testID}
	write := func(b Body) []byte {
		w, err := s.Resume(b)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(same)
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		file, _ := fsys.ReadFile("snap/" + bodyName(b.Index))
		return file
	}
	good := write(body)
	r, err := s.OpenBody(2)
	if err != nil {
		t.Fatal(err)
	}
	blockAt := func(file []byte, n int64) []byte { return file[r.blockAt(n):r.blockAt(n+1)] }
	others := map[string][]byte{}
	for name, change := range map[string]func(*Body){
		"ID": func(b *Body) { b.ID[0]++ }, "index": func(b *Body) { b.Index++ }, "term": func(b *Body) { b.Term++ }, "conf state": func(b *Body) { b.ConfState = []byte{8, 2} },
	} {
		b := body
		change(&b)
		others["of another "+name] = write(b)
	}
	fails := func(what string, file []byte) {
		t.Helper()
		r, err := newReader("x", memory{file})
		if err == nil {
			err = r.Verify()
		}
		if !isCorrupt(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	swapped := bytes.Clone(good)
	copy(blockAt(swapped, 0), blockAt(good, 1))
	copy(blockAt(swapped, 1), blockAt(good, 0))
	fails("two blocks swapped", swapped)
	for name, other := range others {
		stale := bytes.Clone(good)
		copy(blockAt(stale, 1), blockAt(other, 1))
		fails("a block "+name, stale)
		headed := bytes.Clone(good)
		copy(headed[:r.start], other)
		fails("the header "+name, headed)
		tailed := bytes.Clone(good)
		copy(tailed[r.end():], other[r.end():])
		fails("the trailer "+name, tailed)
	}
	fails("a block cut out", append(bytes.Clone(good[:r.blockAt(1)]), good[r.blockAt(2):]...))
	fails("a block doubled", append(bytes.Clone(good[:r.blockAt(2)]), good[r.blockAt(1):]...))
	if err := func() error { r, err := newReader("x", memory{good}); return errors.Join(err, r.Verify()) }(); err != nil {
		t.Error(err)
	}
}

// A length that the file states is compared with the file before there is memory for it.
func TestLengthsAreNotBelieved(t *testing.T) {
	huge := []byte{8, 0, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	header := (&Body{Index: 2, Term: 2}).appendHeader(nil)
	for _, n := range []uint32{1, 1000, maxConfState + 1, 1 << 31, 1<<32 - 1} {
		binary.LittleEndian.PutUint32(header[48:], n)
		fsys := crashfs.Load(map[string][]byte{"snap/" + snapshotName(2, 2): huge, "snap/" + bodyName(2): bytes.Clone(header)})
		s := open(t, fsys)
		tree := maps.Clone(fsys.Tree())
		if n := testing.AllocsPerRun(1, func() {
			if _, err := s.Load(2, 2); !isCorrupt(err) {
				t.Error(err)
			}
			if _, err := s.OpenBody(2); !isCorrupt(err) {
				t.Error(err)
			}
		}); n > 100 {
			t.Errorf("%v allocations", n)
		}
		if diff := cmp.Diff(tree, fsys.Tree()); diff != "" {
			t.Error(diff)
		}
	}
}

// What no Writer writes is not read, though all checksums are right.
func TestFilesThatNoWriterWritesAreNotRead(t *testing.T) {
	refuses := func(file []byte, want string) {
		t.Helper()
		r, err := newReader("x", memory{file})
		if err == nil {
			err = r.Verify()
		}
		if !isCorrupt(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	body := Body{Index: 2, Term: 2}
	header := body.appendHeader(nil)
	content := []byte("content")
	l := layout{identity: binary.LittleEndian.Uint32(header[len(header)-sumSize:]), start: int64(len(header)), size: int64(len(content))}
	sum := blockSum(l.identity, 0, content)
	block := binary.LittleEndian.AppendUint32(content, sum)
	trailer := l.appendTrailer(nil, addSum(l.identity, sum))
	file := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	if r, err := newReader("x", memory{file(header, block, trailer)}); err != nil || r.Verify() != nil {
		t.Fatal(err)
	}
	refuses(file(header, block, []byte{0}, trailer), "does not end here")
	refuses(file(header, block, trailer, trailer), "does not end here")
	refuses(file(header, block, l.appendTrailer(nil, addSum(l.identity, sum^1))), "the body has another")

	otherSize := bytes.Clone(header[:len(header)-sumSize])
	binary.LittleEndian.PutUint32(otherSize[12:], 4096)
	refuses(binary.LittleEndian.AppendUint32(otherSize, checksum(0, otherSize)), "blocks of 4096 bytes")

	fsys := crashfs.Load(map[string][]byte{"snap/" + bodyName(3): file(header, block, trailer)})
	if _, err := open(t, fsys).OpenBody(3); !isCorrupt(err) {
		t.Errorf("a body under the name of another: %v", err)
	}

	large := (&Body{Index: 2, Term: 2, ConfState: make([]byte, maxConfState+1)}).appendHeader(nil)
	if _, err := newReader("x", memory{append(large, make([]byte, 100)...)}); !isCorrupt(err) || !strings.Contains(err.Error(), "conf state") {
		t.Error(err)
	}
}

// A large file of zeros has no room made for it.
func TestLargeFileOfZeros(t *testing.T) {
	big := sparse(1 << 40)
	if _, err := load(big); !isCorrupt(err) {
		t.Error(err)
	}
	if _, err := newReader("x", big); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

// memory is a file that can only be read.
type memory struct{ b []byte }

func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }
func (m memory) Size() (int64, error)                    { return int64(len(m.b)), nil }
func (memory) Close() error                              { return nil }

// sparse is a file of zeros.
type sparse int64

func (s sparse) ReadAt(p []byte, off int64) (int, error) { clear(p); return len(p), nil }
func (s sparse) Size() (int64, error)                    { return int64(s), nil }
func (sparse) Close() error                              { return nil }
