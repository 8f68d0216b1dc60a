package snap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
	"pgregory.net/rapid"
)

// bodyBytes are random, but the same for the same seed.
func bodyBytes(seed uint64, size int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

func writeBody(t testing.TB, s *Store, index uint64, size int) {
	t.Helper()
	w, err := s.Create(walpb.Snapshot{Index: index, Term: 2, ConfState: []byte{8, 1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bodyBytes(index, size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

var sizes = []int{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 2*BlockSize - 30, 2 * BlockSize, 3*BlockSize + 17}

func TestBodyIsReadAsItWasWritten(t *testing.T) {
	for _, size := range sizes {
		fsys := crashfs.New()
		s := open(t, fsys)
		want := bodyBytes(1, size)
		w, err := s.Create(walpb.Snapshot{Index: 5, Term: 3, ConfState: []byte{8, 1}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, iotest.HalfReader(bytes.NewReader(want))); err != nil {
			t.Fatal(err)
		}
		sum, written := w.Sum(), w.Size()
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		s = open(t, fsys.Crash(crashfs.DropAll))
		r, err := s.NewestBody([]walpb.Snapshot{{Index: 5, Term: 3}})
		if err != nil {
			t.Fatal(err)
		}
		if r.Sum() != sum || r.Size() != written || r.Size() != int64(size) || w.Sum() != sum {
			t.Errorf("%d: %08x %d, written %08x %d", size, r.Sum(), r.Size(), sum, written)
		}
		if diff := cmp.Diff(w.Body(), r.Body()); diff != "" {
			t.Error(diff)
		}
		if err := iotest.TestReader(r, want); err != nil {
			t.Errorf("%d: %v", size, err)
		}
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if n, err := io.Copy(&got, r); err != nil || n != int64(size) || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d: copied %d, %v", size, n, err)
		}
		for _, from := range []int{0, 1, size / 2, BlockSize - 1, BlockSize, BlockSize + 1, size - 1, size, size + 1} {
			if from < 0 {
				continue
			}
			if _, err := r.Seek(int64(from), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want[min(from, size):]) {
				t.Errorf("%d: from %d: %d bytes, %v", size, from, len(got), err)
			}
		}
		if err := errors.Join(r.Verify(), r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if _, err := r.WriteTo(io.Discard); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if err := r.Verify(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestBodyOfIndexZeroIsEmpty(t *testing.T) {
	s := open(t, crashfs.New())
	r, err := s.NewestBody(records(0, 7))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if len(b) != 0 || err != nil || r.Body().Index != 0 || r.Verify() != nil || r.Close() != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := s.NewestBody(records(7)); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("got %v", err)
	}
}

// A body that was never recorded has the name of one that is, with another term.
func TestBodyOfAnotherTermIsNotTaken(t *testing.T) {
	s := open(t, crashfs.New())
	writeBody(t, s, 1, 10)
	writeBody(t, s, 2, 10)
	r, err := s.NewestBody([]walpb.Snapshot{{Index: 1, Term: 2}, {Index: 2, Term: 3}})
	if err != nil || r.Body().Index != 1 {
		t.Errorf("%v", err)
	}
	if l, _ := s.List(); len(l.Bodies) != 2 {
		t.Errorf("%+v", l)
	}
}

func TestForeignFilesStay(t *testing.T) {
	// The first page of a bbolt database: page 0, flags of a meta page, and at 16 its magic.
	page := make([]byte, 4096)
	page[8] = 4
	copy(page[16:], "\xed\xda\x0c\xed\x02\x00\x00\x00\x00\x10")
	later := laterVersion(bodyFileOf(t, 1000))
	for _, content := range [][]byte{page, later, later[:1000], []byte("x"), []byte("\x89steam"), make([]byte, 4096), make([]byte, 24)} {
		fsys := crashfs.New()
		s := open(t, fsys)
		writeBody(t, s, 1, 10)
		fsys.WriteFile("snap/"+bodyName(2), content)
		fsys.WriteFile("snap/"+snapshotName(2, 2), nil) // only so that Keep finds index 2
		save(t, s, 2)
		before := fsys.Tree()
		if _, err := s.OpenBody(2); !errors.Is(err, ErrForeign) || isCorrupt(err) {
			t.Errorf("OpenBody: %v", err)
		}
		if _, err := s.Create(walpb.Snapshot{Index: 2, Term: 2}); !errors.Is(err, ErrForeign) {
			t.Errorf("Create: %v", err)
		}
		if r, err := s.NewestBody(records(1, 2)); err != nil || r.Body().Index != 1 {
			t.Errorf("NewestBody: %v", err)
		}
		if _, err := s.NewestBody(records(2)); !errors.Is(err, ErrForeign) || !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("NewestBody: %v", err)
		}
		save(t, s, 3)
		if err := s.Keep(1, walpb.Snapshot{Index: 3, Term: 2}); err != nil {
			t.Error(err)
		}
		if b, err := fsys.ReadFile("snap/" + bodyName(2)); err != nil || !bytes.Equal(b, before["snap/"+bodyName(2)]) {
			t.Errorf("it was changed: %v", err)
		}
		// One that gets the name while the body is written.
		w, err := s.Create(walpb.Snapshot{Index: 9, Term: 2})
		if err != nil {
			t.Fatal(err)
		}
		fsys.WriteFile("snap/"+bodyName(9), content)
		if err := w.Commit(); !errors.Is(err, ErrForeign) {
			t.Errorf("Commit: %v", err)
		}
		w.Close()
		if b, err := fsys.ReadFile("snap/" + bodyName(9)); err != nil || !bytes.Equal(b, content) {
			t.Errorf("it was replaced: %v", err)
		}
	}
}

// bodyFileOf returns the file of a body of so many bytes, of index 2.
func bodyFileOf(t *testing.T, size int) []byte {
	fsys := crashfs.New()
	writeBody(t, open(t, fsys), 2, size)
	b, err := fsys.ReadFile("snap/" + bodyName(2))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// laterVersion returns a file as it would be if only the version were another.
func laterVersion(file []byte) []byte {
	header := bytes.Clone(file[:fixedHeaderSize+2]) // with a conf state of two bytes
	header[8] = 2
	header = binary.LittleEndian.AppendUint32(header, checksum(0, header))
	return append(header, file[len(header):]...)
}

// A body whose beginning is damaged was foreign for ever: never removed, and nothing could be
// written under its name.
func TestABodyWithADamagedBeginningIsSetAside(t *testing.T) {
	const sector = 512
	for _, size := range []int{1000, BlockSize, 3*BlockSize + 1} {
		good := bodyFileOf(t, size)
		cases := map[string][]byte{}
		for bit := range 8 * 12 {
			damaged := bytes.Clone(good)
			damaged[bit/8] ^= 1 << (bit % 8)
			cases[fmt.Sprintf("bit %d of byte %d", bit%8, bit/8)] = damaged
		}
		for _, fill := range []byte{0, 0xff, 0x5a} {
			cases[fmt.Sprintf("a sector of %x", fill)] = append(bytes.Repeat([]byte{fill}, sector), good[sector:]...)
		}
		for what, damaged := range cases {
			fsys := crashfs.New()
			s := open(t, fsys)
			writeBody(t, s, 1, 10)
			fsys.WriteFile("snap/"+bodyName(2), damaged)
			if _, err := s.OpenBody(2); !isCorrupt(err) || errors.Is(err, ErrForeign) {
				t.Errorf("%s: %v", what, err)
			}
			r, err := s.NewestBody(records(1, 2))
			if err != nil || r.Body().Index != 1 {
				t.Fatalf("%s: %v", what, err)
			}
			r.Close()
			if b, err := fsys.ReadFile("snap/" + bodyName(2) + brokenSuffix); err != nil || !bytes.Equal(b, damaged) {
				t.Errorf("%s: not set aside: %v", what, err)
			}
			fsys.WriteFile("snap/"+bodyName(2), damaged)
			writeBody(t, s, 2, 10)
			if _, err := s.OpenBody(2); err != nil {
				t.Errorf("%s: not replaced: %v", what, err)
			}
		}
	}
}

func TestWriterAfterItsEnd(t *testing.T) {
	for name, end := range map[string]func(*Writer) error{"Commit": (*Writer).Commit, "Close": (*Writer).Close, "Discard": (*Writer).Discard} {
		fsys := crashfs.New()
		s := open(t, fsys)
		w, err := s.Create(at1())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Create(at1()); !errors.Is(err, ErrBusy) {
			t.Errorf("a second Writer: %v", err)
		}
		if _, err := s.Resume(w.Body()); !errors.Is(err, ErrBusy) {
			t.Errorf("a second Writer: %v", err)
		}
		if err := end(w); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: Write: %v", name, err)
		}
		if err := w.Commit(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: Commit: %v", name, err)
		}
		tree := fsys.Tree()
		if err := errors.Join(w.Close(), w.Discard()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tree, fsys.Tree()); diff != "" {
			t.Error(diff)
		}
		want := map[string]int{"Commit": 2, "Close": 2, "Discard": 1}[name]
		if len(tree) != want {
			t.Errorf("%s: leaves %d files", name, len(tree)-1)
		}
		if w, err := s.Create(at1()); err != nil {
			t.Errorf("%s: another Writer: %v", name, err)
		} else {
			w.Close()
		}
	}
	s := open(t, crashfs.New())
	if _, err := s.Create(walpb.Snapshot{Index: 1, ConfState: bytes.Repeat([]byte{8, 1}, maxConfState/2+1)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if w, err := s.Create(walpb.Snapshot{Index: 1, ConfState: bytes.Repeat([]byte{8, 1}, maxConfState/2)}); err != nil || w.Commit() != nil {
		t.Errorf("got %v", err)
	}
	if r, err := s.NewestBody([]walpb.Snapshot{{Index: 1}}); err != nil || len(r.Body().ConfState) != maxConfState {
		t.Errorf("got %v", err)
	}
}

// A transfer stops after any number of bytes, by Close, by the end of the process or by a power cut
// that leaves anything; what is kept is a prefix of whole blocks, all that were synced, and the end
// is as if it had not stopped.
func TestResume(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := bodyBytes(1, rapid.IntRange(0, 5*BlockSize).Draw(t, "size"))
		body := Body{Index: 9, Term: 2, ConfState: []byte{8, 1}, ID: testID}
		fsys := crashfs.New()
		had := int64(0)
		for life := 0; ; life++ {
			s, err := Open("snap", &Options{FS: fsys})
			if err != nil {
				t.Fatal(err)
			}
			w, err := s.Resume(body)
			if err != nil {
				t.Fatal(err)
			}
			if w.Size() < had || w.Size()%BlockSize != 0 || w.Size() > int64(len(want)) {
				t.Fatalf("life %d: %d bytes are there, expected %d of %d", life, w.Size(), had, len(want))
			}
			rest := want[w.Size():]
			if life < 4 {
				rest = rest[:rapid.IntRange(0, len(rest)).Draw(t, "sent")]
			}
			for len(rest) > 0 {
				n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
				if _, err := w.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if life == 4 {
				sum := w.Sum()
				if err := w.Commit(); err != nil {
					t.Fatal(err)
				}
				r, err := s.NewestBody(records(9))
				if err != nil || r.Sum() != sum {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				return
			}
			rng := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
			switch rapid.SampledFrom([]string{"close", "kill", "garbage", "tear", "random", "lose"}).Draw(t, "end") {
			case "close":
				had = w.Size() / BlockSize * BlockSize
				w.Close()
			case "kill":
				had = w.Size() / BlockSize * BlockSize
				fsys = fsys.Clone()
			case "garbage":
				fsys, had = fsys.Crash(crashfs.Garbage(rng)), 0
			case "tear":
				fsys, had = fsys.Crash(crashfs.Tear(rng)), 0
			case "random":
				fsys, had = fsys.Crash(crashfs.Random(rng)), 0
			case "lose":
				fsys, had = fsys.Crash(crashfs.DropAll), 0
			}
		}
	})
}

func TestResumeKeepsNothingOfAnotherBody(t *testing.T) {
	first := Body{Index: 9, Term: 2, ConfState: []byte{8, 1}, ID: testID}
	for name, change := range map[string]func(*Body){
		"ID":         func(b *Body) { b.ID[15]++ },
		"term":       func(b *Body) { b.Term++ },
		"conf state": func(b *Body) { b.ConfState = []byte{8, 2} },
		"nothing":    func(*Body) {},
	} {
		fsys := crashfs.New()
		s := open(t, fsys)
		w, err := s.Resume(first)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(bodyBytes(1, 3*BlockSize))
		w.Close()
		second := first
		change(&second)
		want := int64(0)
		if name == "nothing" {
			want = 3 * BlockSize
		}
		if w, err = s.Resume(second); err != nil || w.Size() != want {
			t.Fatalf("%s: %d, %v", name, w.Size(), err)
		}
		w.Write([]byte("x"))
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		r, err := s.OpenBody(9)
		if err != nil || r.Size() != want+1 || r.Verify() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Create keeps nothing either.
	s := open(t, crashfs.New())
	w, _ := s.Create(at1())
	w.Write(bodyBytes(1, 2*BlockSize))
	w.Close()
	if w, err := s.Create(at1()); err != nil || w.Size() != 0 || w.Commit() != nil {
		t.Error(err)
	}
	if r, err := s.OpenBody(1); err != nil || r.Size() != 0 {
		t.Error(err)
	}
}

// A block that is all there in length and is garbage ends what Resume keeps, as one that is cut
// short does.
func TestResumeKeepsNothingFromGarbageOn(t *testing.T) {
	fsys := crashfs.New()
	body := Body{Index: 9, Term: 2, ID: testID}
	w, err := open(t, fsys).Resume(body)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(bodyBytes(1, 3*BlockSize))
	w.Close()
	for n := range int64(3) {
		tree := fsys.Tree()
		for _, b := range tree {
			if at := w.blockAt(n); at < int64(len(b)) {
				b[at+100] ^= 1
			}
		}
		w, err := open(t, crashfs.Load(tree)).Resume(body)
		if err != nil || w.Size() != n*BlockSize {
			t.Errorf("block %d is garbage, and Resume keeps %d bytes, %v", n, w.Size(), err)
		}
	}
}

// Linux forgets what it could not write, and says nil to the next sync. Blocks that are only in
// memory must not be resumed.
func TestResumeAfterAFailedSyncReadsTheDisk(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	want := bodyBytes(1, 3*BlockSize+5)
	body := Body{Index: 9, Term: 2, ID: testID}
	w, err := s.Resume(body)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(want)
	fsys.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData {
			return syscall.EIO
		}
		return nil
	})
	if err := w.Commit(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	fsys.SetFault(nil)
	if err := w.Commit(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the second Commit: %v", err)
	}
	if _, err := w.Write(nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("Write: %v", err)
	}
	w.Close()
	if w, err = s.Resume(body); err != nil {
		t.Fatal(err)
	}
	w.Write(want[w.Size():])
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	r, err := open(t, fsys.Crash(crashfs.DropAll)).NewestBody(records(9))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
}

// Every operation of writing a body fails in every way, in turn: there is the old body, or the new.
func TestBodySurvivesEveryFault(t *testing.T) {
	runs := 0
	want := bodyBytes(7, 2*BlockSize+100)
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, crashfs.ShortWrite(3)} {
		for n := 0; ; n++ {
			fsys := crashfs.New()
			s := open(t, fsys)
			writeBody(t, s, 1, 100)
			ops := failOnce(fsys, n, fault)
			attempt := func() error {
				w, err := s.Resume(Body{Index: 1, Term: 2, ID: testID})
				if err != nil {
					return err
				}
				defer w.Close()
				if _, err := w.Write(want[w.Size():]); err != nil {
					return err
				}
				return w.Commit()
			}
			err := attempt()
			fsys.SetFault(nil)
			if *ops <= n {
				break
			}
			runs++
			for how, fsys := range map[string]*crashfs.FS{"kill": fsys.Clone(), "power": fsys.Crash(crashfs.DropAll)} {
				r, err2 := open(t, fsys).NewestBody(records(1))
				if err2 != nil {
					t.Fatalf("operation %d, %v, %s: %v", n, fault, how, err2)
				}
				got, err2 := io.ReadAll(r)
				if old := bytes.Equal(got, bodyBytes(1, 100)); err2 != nil || !bytes.Equal(got, want) && (!old || err == nil) {
					t.Errorf("operation %d, %v, %s: %d bytes, %v", n, fault, how, len(got), err2)
				}
			}
			if err := attempt(); err != nil {
				t.Errorf("operation %d, %v: again: %v", n, fault, err)
			}
			if r, err := open(t, fsys.Crash(crashfs.DropAll)).NewestBody(records(1)); err != nil || r.Body().ID != testID {
				t.Errorf("operation %d, %v: again: %v", n, fault, err)
			}
		}
	}
	if runs < 60 {
		t.Errorf("%d runs", runs)
	}
}

// The disk never has more to write than a few megabytes, as the log's syncs wait for it.
func TestBodyIsSyncedAsItIsWritten(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	w, err := s.Create(at1())
	if err != nil {
		t.Fatal(err)
	}
	unsynced, most, syncs := int64(0), int64(0), 0
	fsys.SetHook(func(op crashfs.Op) {
		switch op.Kind {
		case crashfs.OpWrite:
			unsynced += op.N
			most = max(most, unsynced)
		case crashfs.OpSyncData:
			unsynced = 0
			syncs++
		}
	}, nil)
	b := make([]byte, 1<<20)
	for range 40 {
		w.Write(b)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if most > syncEvery+2*BlockSize || syncs > 6 {
		t.Errorf("up to %d bytes unsynced, %d syncs", most, syncs)
	}
}
