package snap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
)

// FuzzNames takes any name for one in the directory of a Store. What a name is read as is written
// as that name.
func FuzzNames(f *testing.F) {
	for _, name := range []string{
		snapshotName(1, 2), bodyName(3), partialName(4), snapshotName(1, 2) + brokenSuffix, bodyName(3) + brokenSuffix, snapshotName(1, 2) + ".0.tmp",
		"x.snap", "1.snap.db", "tmp123", ".snap", ".snap.db", ".broken", "db", "",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		term, index, kind := parseName(name)
		again := name
		switch kind {
		case snapshotFile:
			again = snapshotName(index, term)
		case bodyFile:
			again = bodyName(index)
		case partialFile:
			again = partialName(index)
		case brokenFile:
			again = strings.TrimSuffix(name, brokenSuffix) + brokenSuffix
			brokenIndex(name)
		case temporaryFile:
			if of := name[:strings.LastIndexByte(strings.TrimSuffix(name, temporarySuffix), '.')]; again == of {
				t.Errorf("%q is what comes to be of itself", name)
			} else if _, _, kind := parseName(of); kind != snapshotFile {
				t.Errorf("%q is removed, and %q is no snapshot", name, of)
			}
		}
		if again != name {
			t.Errorf("%q is read as %d/%d of kind %d, which is called %q", name, term, index, kind, again)
		}
	})
}

// goodBodies are the files of small bodies, by index.
func goodBodies(t testing.TB) map[uint64][]byte {
	bodies := map[uint64][]byte{}
	fsys := crashfs.New()
	for i := uint64(1); i < 5; i++ {
		writeBody(t, open(t, fsys), i, int(i)*1000)
		bodies[i], _ = fsys.ReadFile("snap/" + bodyName(i))
	}
	return bodies
}

// directory makes the files of a Store's directory of any bytes. Each takes four: what kind of
// file, of which index and term, how its content comes about, and how much of it there is; the last
// can be bytes that follow.
func directory(b []byte, bodies map[uint64][]byte) map[string][]byte {
	files := map[string][]byte{"snap/": nil}
	for len(b) >= 5 && len(files) < 12 {
		kind, how, n := b[0], b[2], int(binary.LittleEndian.Uint16(b[3:]))
		index, term := uint64(b[1]%5), uint64(b[1]/5%3)
		b = b[5:]
		s := at(max(index, 1))
		s.Index, s.Term = index, term
		content := s.Append(nil)
		name := ""
		switch kind % 9 {
		case 0, 1:
			name = snapshotName(index, term)
		case 2, 3:
			name, content = bodyName(index), bodies[index]
		case 4:
			name, content = partialName(index), bodies[index]
		case 5:
			name = snapshotName(index, term) + brokenSuffix
		case 6:
			name = fmt.Sprintf("%s.%d.tmp", snapshotName(index, term), n)
		case 7:
			name, content = bodyName(index), []byte("etcd's database, or so")
		case 8:
			k := min(len(b), 12)
			name = strings.Map(func(r rune) rune {
				if r == '/' || r == 0 {
					return '_'
				}
				return r
			}, string(b[:k]))
			b = b[k:]
		}
		switch how % 5 {
		case 1: // any bytes
			k := min(n, len(b))
			content, b = b[:k], b[k:]
		case 2: // cut short
			content = content[:min(n, len(content))]
		case 3: // changed
			content = bytes.Clone(content)
			if len(content) > 0 {
				content[n%len(content)] ^= how | 1
			}
		case 4: // longer than it was
			content = append(bytes.Clone(content), make([]byte, n%100)...)
		}
		if name != "" && name != "." && name != ".." {
			files["snap/"+name] = content
		}
	}
	return files
}

// FuzzStore opens directories with any files in them.
//
//   - Nothing panics, or allocates more than in proportion to the files.
//   - What is found is the newest that is good. Only what is damaged is set aside, and none of its
//     bytes change.
//   - What is none of a Store's files is left alone, by Keep too.
//   - Afterwards a snapshot and a body can be written, and are found.
func FuzzStore(f *testing.F) {
	bodies := goodBodies(f)
	good, damaged := func(kind, index byte) []byte { return []byte{kind, index + 10, 0, 0, 0} }, func(kind, index byte) []byte { return []byte{kind, index + 10, 3, 20, 0} }
	for _, list := range [][][]byte{
		{}, {good(0, 1), good(0, 2), damaged(0, 3)}, {good(2, 1), damaged(2, 2), good(4, 3)}, {good(7, 2), good(5, 1), good(6, 1)},
		{damaged(0, 1), damaged(0, 2), damaged(0, 3), damaged(0, 4), damaged(5, 1), damaged(5, 2), damaged(5, 3)},
		{{0, 12, 2, 10, 0}, {2, 13, 2, 200, 0}, {4, 12, 4, 50, 0}, {8, 0, 0, 0, 0}, []byte("db")},
	} {
		var b []byte
		for _, file := range list {
			b = append(b, file...)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			t.Skip()
		}
		files := directory(b, bodies)
		size := 0
		for _, content := range files {
			size += len(content)
		}
		before := allocatedSoFar()
		attackStore(t, files)
		if n, limit := allocatedSoFar()-before, uint64(200*size+8<<20); n > limit {
			t.Errorf("%d bytes allocated for %d, more than %d", n, size, limit)
		}
	})
}

// allocatedSoFar returns how many bytes were ever allocated.
func allocatedSoFar() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func attackStore(t *testing.T, files map[string][]byte) {
	fsys := crashfs.Load(files)
	s := open(t, fsys)
	l, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var recorded []walpb.Snapshot
	for _, f := range l.Snapshots {
		recorded = append(recorded, walpb.Snapshot{Index: f.Index, Term: f.Term})
	}
	for _, i := range l.Bodies {
		recorded = append(recorded, walpb.Snapshot{Index: i, Term: 2})
	}
	goodSnapshots, goodStreams := map[uint64]bool{}, map[uint64]bool{}
	for _, f := range l.Snapshots {
		if _, err := s.Load(f.Index, f.Term); err == nil {
			goodSnapshots[f.Index] = true
		} else if !isCorrupt(err) {
			t.Errorf("load %d/%d: %v", f.Term, f.Index, err)
		}
	}
	for _, i := range l.Bodies {
		if r, err := s.OpenBody(i); err == nil {
			goodStreams[i] = r.Verify() == nil && r.Body().Term == 2
			r.Close()
		} else if !isCorrupt(err) && !errors.Is(err, ErrForeign) {
			t.Errorf("open body %d: %v", i, err)
		}
	}
	if !maps.EqualFunc(fsys.Tree(), files, bytes.Equal) {
		t.Error("a reader has changed the directory")
	}

	// Index 0 needs no file, and ends every search.
	highest := func(good map[uint64]bool) (index uint64, any bool) {
		for _, r := range recorded {
			if good[r.Index] || r.Index == 0 {
				index, any = max(index, r.Index), true
			}
		}
		return index, any
	}
	if want, any := highest(goodSnapshots); true {
		got, err := s.Newest(recorded)
		if any != (err == nil) || got.Index != want {
			t.Errorf("the newest good snapshot is %d, %v; Newest finds %d, %v", want, any, got.Index, err)
		}
	}
	if want, any := highest(goodStreams); true {
		r, err := s.NewestBody(recorded)
		if any != (err == nil) || any && r.Body().Index != want {
			t.Errorf("the newest good body is %d, %v; NewestBody says %v", want, any, err)
		}
		if err == nil {
			if n, err := io.Copy(io.Discard, r); err != nil || n != r.Size() {
				t.Errorf("%d of %d bytes, %v", n, r.Size(), err)
			}
			r.Close()
		}
	}
	setAside := untouched(t, files, fsys.Tree(), l)

	for i := range goodSnapshots {
		if i > 0 {
			if err := s.Keep(1, newestRecorded(l, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("keep: %v", err)
			}
			break
		}
	}
	for name, b := range files {
		_, _, kind := parseName(strings.TrimPrefix(name, "snap/"))
		_, _, _, err := readHeader(memory{b}, int64(len(b)))
		foreign := kind == bodyFile && errors.Is(err, ErrForeign)
		if got, there := fsys.Tree()[name]; (kind == otherFile || kind == strayFile || foreign) && !setAside[name] && (!there || !bytes.Equal(got, b)) {
			t.Errorf("%q is none of the Store's, and is gone or changed", name)
		}
	}
	writeAgain(t, s)
}

// newestRecorded returns the snapshot of an index of which there is a file.
func newestRecorded(l *Listing, index uint64) walpb.Snapshot {
	for _, f := range l.Snapshots {
		if f.Index == index {
			return walpb.Snapshot{Index: index, Term: f.Term}
		}
	}
	return walpb.Snapshot{Index: index}
}

// untouched checks that nothing has changed except that damaged files were set aside. It returns
// the names of these, and of the files that made room for them.
func untouched(t *testing.T, before, after map[string][]byte, l *Listing) map[string]bool {
	moved := map[string]bool{}
	for _, name := range l.Broken {
		moved["snap/"+name] = true
	}
	for name, b := range before {
		got, there := after[name]
		if there && bytes.Equal(got, b) || moved[name] {
			continue
		}
		_, _, kind := parseName(strings.TrimPrefix(name, "snap/"))
		aside, kept := after[name+brokenSuffix]
		if kind != snapshotFile && kind != bodyFile || there || kept && !bytes.Equal(aside, b) {
			t.Errorf("%q is gone or changed", name)
		}
		var s Snapshot
		if kind == snapshotFile && s.Unmarshal(b) == nil && "snap/"+snapshotName(s.Index, s.Term) == name {
			t.Errorf("%q is good, and was set aside", name)
		}
		moved[name] = true
	}
	return moved
}

// writeAgain writes a snapshot and a body that are newer than all, and one that may be there in
// part.
func writeAgain(t *testing.T, s *Store) {
	if err := s.Save(at(100)); err != nil {
		t.Fatal(err)
	}
	wantNewest(t, s, 100, 1, 2, 100)
	for _, index := range []uint64{3, 100} {
		body, want := Body{Index: index, Term: 2, ID: testID}, bodyBytes(index, BlockSize+100)
		w, err := s.Resume(body)
		if errors.Is(err, ErrForeign) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		w.Write(want[min(w.Size(), int64(len(want))):])
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		r, err := s.OpenBody(index)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("body %d: %d bytes, %v", index, len(got), err)
		}
		r.Close()
	}
}
