package snap

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/testdata/testlogs"
)

// FuzzSnapshot takes any bytes for a snapshot file. What is accepted can be written and read again;
// nothing panics.
func FuzzSnapshot(f *testing.F) {
	two := at(2)
	f.Add(two.Append(nil))
	f.Add([]byte{})
	f.Add([]byte{8, 0, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	for _, dir := range testlogs.Etcd(f, "3.4/small", "3.7/small") {
		files, err := filepath.Glob(filepath.Join(dir, "member", "snap", "*.snap"))
		if err != nil || len(files) == 0 {
			f.Fatal(files, err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:200]) // all of it would have the fuzzer minimize it for a minute
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again Snapshot
		if err := s.Unmarshal(b); err != nil {
			if !isCorrupt(err) {
				t.Errorf("%v", err)
			}
			// The fuzzer cannot guess a checksum: give it the right one, so that it gets beyond.
			if s, err = parseContent(b, 0); err != nil {
				return
			}
		}
		if err := again.Unmarshal(s.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzBody takes any bytes for the file of a body. Nothing panics or takes more memory than a block
// and the conf state; and a file that is good is the only one of its body: there is one way to
// write it.
func FuzzBody(f *testing.F) {
	fsys := crashfs.New()
	for i, size := range []int{0, 1, 100, BlockSize, BlockSize + 1} {
		writeBody(f, open(f, fsys), uint64(i+1), size)
		b, _ := fsys.ReadFile("snap/" + bodyName(uint64(i+1)))
		f.Add(b)
	}
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := newReader("x", memory{b})
		if err == nil {
			err = r.Verify()
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(len(b))+BlockSize+100<<10 {
			t.Errorf("%d bytes took %d of memory", len(b), got)
		}
		if err != nil {
			return
		}
		all, err := io.ReadAll(r)
		if err != nil || int64(len(all)) != r.Size() {
			t.Fatalf("%d of %d bytes, %v", len(all), r.Size(), err)
		}
		// Only one file has these bytes: the one that a Writer makes of them. (Index 0 has none.)
		if r.Body().Index == 0 {
			return
		}
		fsys := crashfs.New()
		w, err := open(t, fsys).Resume(r.Body())
		if err != nil {
			t.Fatal(err)
		}
		w.Write(all)
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		if written, _ := fsys.ReadFile("snap/" + bodyName(r.Body().Index)); !bytes.Equal(written, b) {
			t.Errorf("read from %x, written as %x", b, written)
		}
	})
}

// FuzzResume takes any bytes for an unfinished body. Whatever of it is kept, the body that is
// written on top of it is the one that was sent.
func FuzzResume(f *testing.F) {
	body := Body{Index: 2, Term: 2, ConfState: []byte{8, 1}, ID: testID}
	want := bodyBytes(1, 2*BlockSize+100)
	fsys := crashfs.New()
	w, err := open(f, fsys).Resume(body)
	if err != nil {
		f.Fatal(err)
	}
	w.Write(want)
	w.Close()
	whole, _ := fsys.ReadFile("snap/" + partialName(2))
	for _, n := range []int{0, 10, 57, 58, 100, 58 + BlockSize + 4, 58 + BlockSize + 5, len(whole)} {
		f.Add(whole[:n], uint32(0), byte(0))
		f.Add(whole[:n], uint32(n/2), byte(1))
	}
	// Longer than the body that is committed.
	f.Add(append(bytes.Clone(whole), make([]byte, 2*BlockSize)...), uint32(0), byte(0))
	f.Fuzz(func(t *testing.T, partial []byte, at uint32, flip byte) {
		fsys := crashfs.New()
		partial = bytes.Clone(partial)
		if len(partial) > 0 {
			partial[int(at)%len(partial)] ^= flip
		}
		fsys.WriteFile("snap/"+partialName(2), partial)
		s := open(t, fsys)
		w, err := s.Resume(body)
		if err != nil {
			t.Fatal(err)
		}
		if w.Size() > int64(len(partial)) || w.Size()%BlockSize != 0 {
			t.Fatalf("kept %d of %d bytes", w.Size(), len(partial))
		}
		w.Write(want[min(w.Size(), int64(len(want))):])
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		r, err := s.NewestBody(records(2))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}
