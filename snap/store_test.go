package snap

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
)

func at(index uint64) Snapshot {
	return Snapshot{Index: index, Term: 2, ConfState: []byte{8, 1}, Data: fmt.Appendf(nil, "state at %d", index)}
}

func records(indexes ...uint64) (r []walpb.Snapshot) {
	for _, i := range indexes {
		term := uint64(2)
		if i == 0 {
			term = 0
		}
		r = append(r, walpb.Snapshot{Index: i, Term: term})
	}
	return r
}

func save(t testing.TB, s *Store, indexes ...uint64) {
	t.Helper()
	for _, i := range indexes {
		if err := s.Save(at(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// file is where a snapshot of at lies, for crashfs.
func file(index uint64) string { return "snap/" + snapshotName(index, 2) }

func wantNewest(t testing.TB, s *Store, want uint64, recorded ...uint64) {
	t.Helper()
	got, err := s.Newest(records(recorded...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(at(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNewestIsTheNewestThatTheLogRecords(t *testing.T) {
	s := open(t, crashfs.New())
	save(t, s, 10, 30, 20)
	wantNewest(t, s, 20, 0, 10, 20)
	wantNewest(t, s, 20, 20, 10)
	wantNewest(t, s, 30, 10, 20, 30)
	wantNewest(t, s, 20, 0, 20, 40) // 40 is not there
	// The same index with another term is another snapshot.
	if got, err := s.Newest([]walpb.Snapshot{{Index: 30, Term: 1}, {Index: 10, Term: 2}}); err != nil || got.Index != 10 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.Newest(records(11)); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Newest(nil); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("got %v", err)
	}
	if got, err := s.Newest(records(0, 11)); err != nil || !cmp.Equal(got, Snapshot{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSnapshotOfNothingNeedsNoFile(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	if err := s.Save(Snapshot{ConfState: []byte{8, 1}}); err != nil {
		t.Error(err)
	}
	if err := s.Save(Snapshot{Data: []byte("x")}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if err := s.Keep(1, walpb.Snapshot{}); err != nil {
		t.Error(err)
	}
	if tree := fsys.Tree(); len(tree) != 1 {
		t.Errorf("%q", slices.Sorted(maps.Keys(tree)))
	}
	if _, err := s.Create(walpb.Snapshot{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestFilesAreNotReadableForOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("windows has no modes")
	}
	dir := filepath.Join(t.TempDir(), "a", "snap")
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	save(t, s, 1)
	w, err := s.Create(at1())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, filepath.Join(dir, snapshotName(1, 2)): 0o600, filepath.Join(dir, bodyName(1)): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// A process that is killed in the middle of Open leaves directories that are there, and not
// durable. The next one must not rely on them.
func TestDirectoriesAreDurableAfterOpen(t *testing.T) {
	opened, killed := crashfs.New(), 0
	opened.SetHook(nil, func(op crashfs.Op) {
		killed++
		next := opened.Clone()
		s, err := Open("a/b/snap", &Options{FS: next})
		if err != nil {
			t.Fatal(err)
		}
		save(t, s, 1)
		if s, err = Open("a/b/snap", &Options{FS: next.Crash(crashfs.DropAll)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Newest(records(1)); err != nil {
			t.Errorf("killed after %v: %v", op, err)
		}
	})
	if _, err := Open("a/b/snap", &Options{FS: opened}); err != nil {
		t.Fatal(err)
	}
	if killed != 6 {
		t.Errorf("%d operations", killed)
	}
}

func at1() walpb.Snapshot { s := at(1); return s.Record() }

// The names of files, that is, of what a Save has written under its final name, are only ever given
// to whole files.
func TestGoodFileIsNeverWrittenInPlace(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	save(t, s, 1)
	ops := 0
	fsys.SetHook(func(op crashfs.Op) {
		ops++
		if op.Name == file(1) && op.Kind != crashfs.OpSyncData {
			t.Errorf("%v", op)
		}
	}, nil)
	before := fsys.Tree()
	save(t, s, 1)
	// Two syncs: the process that wrote the file may have crashed before its own.
	if ops != 2 {
		t.Errorf("to save the same again took %d operations", ops)
	}
	if diff := cmp.Diff(before, fsys.Tree()); diff != "" {
		t.Error(diff)
	}
	other := at(1)
	other.Data = []byte("another")
	if err := s.Save(other); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(1, 2); err != nil || !cmp.Equal(got, other) {
		t.Errorf("%+v, %v", got, err)
	}
	// Longer and shorter than what is there, and damaged.
	for _, data := range []string{"", "a longer one than that which was there before", "x"} {
		other.Data = []byte(data)
		fsys.SetHook(nil, nil)
		b, _ := fsys.ReadFile(file(1))
		b[len(b)-1] ^= 1
		fsys.WriteFile(file(1), b)
		if err := s.Save(other); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Load(1, 2); err != nil || !cmp.Equal(got, other) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestWhatSaveReturnedForIsDurable(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	save(t, s, 1)
	wantNewest(t, open(t, fsys.Crash(crashfs.DropAll)), 1, 1)

	// The sync of the directory fails, and the name is there. To save the same once more must make
	// it durable.
	fail := errors.New("no sync")
	fsys.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncDir {
			return fail
		}
		return nil
	})
	if err := s.Save(at(2)); !errors.Is(err, fail) {
		t.Fatalf("got %v", err)
	}
	fsys.SetFault(nil)
	save(t, s, 2)
	wantNewest(t, open(t, fsys.Crash(crashfs.DropAll)), 2, 2)

	// As etcd may leave it: the sync of the file failed, its bytes are in memory and not on the
	// disk.
	b := at(3)
	f, err := fsys.OpenFile(file(3), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b.Append(nil), 0); err != nil {
		t.Fatal(err)
	}
	fsys.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpSyncData {
			return fail
		}
		return nil
	})
	if err := f.SyncData(); err == nil {
		t.Fatal("the sync did not fail")
	}
	fsys.SetFault(nil)
	save(t, s, 3)
	wantNewest(t, open(t, fsys.Crash(crashfs.DropAll)), 3, 3)
}

// A read error says nothing about the bytes. It is returned, the file keeps its name, and no older
// one is taken.
func TestReadErrorIsReturned(t *testing.T) {
	for _, kind := range []crashfs.OpKind{crashfs.OpOpen, crashfs.OpStat, crashfs.OpRead} {
		for _, fault := range []error{syscall.EIO, syscall.EACCES, syscall.EMFILE, syscall.EINTR} {
			t.Run(fmt.Sprint(kind, fault), func(t *testing.T) {
				fsys := crashfs.New()
				s := open(t, fsys)
				save(t, s, 1, 2)
				writeBody(t, s, 1, 100_000)
				writeBody(t, s, 2, 100_000)
				before := fsys.Tree()
				for skip := range 5 { // the first operation of that kind, the second, ...
					n := 0
					fsys.SetFault(func(op crashfs.Op) error {
						if op.Kind == kind {
							if n++; n > skip {
								return fault
							}
						}
						return nil
					})
					if _, err := s.Newest(records(1, 2)); n > skip && !errors.Is(err, fault) {
						t.Errorf("Newest: %v", err)
					}
					n = 0
					if _, err := s.NewestBody(records(1, 2)); n > skip && !errors.Is(err, fault) {
						t.Errorf("NewestBody: %v", err)
					} else if skip == 0 && n == 0 {
						t.Error("nothing failed")
					}
				}
				fsys.SetFault(nil)
				if !maps.EqualFunc(before, fsys.Tree(), bytes.Equal) {
					t.Error("files were changed")
				}
			})
		}
	}
	t.Run("directory", func(t *testing.T) {
		fsys := crashfs.New()
		s := open(t, fsys)
		save(t, s, 1)
		for _, name := range []string{file(2), "snap/" + bodyName(2)} {
			if err := fsys.Mkdir(name, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Newest(records(1, 2)); !errors.Is(err, syscall.EISDIR) {
			t.Errorf("got %v", err)
		}
		if _, err := s.NewestBody(records(1, 2)); !errors.Is(err, syscall.EISDIR) {
			t.Errorf("got %v", err)
		}
		if _, err := fsys.Stat(file(2)); err != nil {
			t.Error(err)
		}
	})
	t.Run("file that becomes shorter while it is read", func(t *testing.T) {
		fsys := crashfs.New()
		s := open(t, fsys)
		save(t, s, 1)
		fsys.SetFault(func(op crashfs.Op) error {
			if op.Kind == crashfs.OpRead && op.N > maxEnvelope {
				fsys.SetFault(nil)
				f, _ := fsys.OpenFile(file(1), os.O_RDWR, 0)
				return errors.Join(f.Truncate(20), f.Close())
			}
			return nil
		})
		if _, err := s.Newest(records(1)); err == nil || isCorrupt(err) {
			t.Errorf("got %v", err)
		}
	})
}

// damage flips a bit in the middle of a file.
func damage(t testing.TB, fsys *crashfs.FS, name string) {
	t.Helper()
	b, err := fsys.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 4
	fsys.WriteFile(name, b)
}

// lastDamaged returns a store with three snapshots and three bodies, of which the last are damaged.
func lastDamaged(t testing.TB) (*crashfs.FS, *Store) {
	t.Helper()
	fsys := crashfs.New()
	s := open(t, fsys)
	save(t, s, 1, 2, 3)
	for i := range uint64(3) {
		writeBody(t, s, i+1, 1000)
	}
	damage(t, fsys, file(3))
	damage(t, fsys, "snap/"+bodyName(3))
	return fsys, s
}

func TestDamagedFileIsSetAsideAndAnOlderOneFound(t *testing.T) {
	for _, writable := range []bool{true, false} {
		fsys, s := lastDamaged(t)
		if !writable {
			fsys.SetFault(func(op crashfs.Op) error {
				if op.Kind.Changes() {
					return syscall.EROFS
				}
				return nil
			})
		}
		before := fsys.Tree()
		wantNewest(t, s, 2, 0, 1, 2, 3)
		r, err := s.NewestBody(records(0, 1, 2, 3))
		if err != nil || r.Body().Index != 2 {
			t.Fatal(err)
		}
		want := maps.Clone(before)
		if writable {
			for _, name := range []string{file(3), "snap/" + bodyName(3)} {
				want[name+".broken"] = want[name]
				delete(want, name)
			}
		}
		if diff := cmp.Diff(want, fsys.Tree()); diff != "" {
			t.Error(diff)
		}
	}
}

// A Dir reads what is good and leaves everything as it is, also on a medium that cannot be written.
func TestADirChangesNothing(t *testing.T) {
	fsys, _ := lastDamaged(t)
	fsys.WriteFile(file(4)+".0.tmp", nil)
	before := fsys.Tree()
	fsys.SetHook(func(op crashfs.Op) { t.Errorf("%v", op) }, nil)

	d := ReadOnly("snap", &Options{FS: fsys})
	if got, err := d.Newest(records(0, 1, 2, 3, 4)); err != nil || cmp.Diff(at(2), got) != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if r, err := d.NewestBody(records(0, 1, 2, 3, 4)); err != nil || r.Body().Index != 2 {
		t.Error(err)
	}
	if _, err := d.Load(3, 2); !isCorrupt(err) {
		t.Error(err)
	}
	if _, err := d.Newest(records(3)); !errors.Is(err, ErrNoSnapshot) || !isCorrupt(err) {
		t.Error(err)
	}
	l, err := d.List()
	if err != nil || len(l.Snapshots) != 3 || len(l.Bodies) != 3 || len(l.Broken) != 0 {
		t.Fatalf("%+v, %v", l, err)
	}
	if f := l.Snapshots[0]; f.Name() != snapshotName(3, 2) || f.Index != 3 || f.Term != 2 {
		t.Errorf("%+v", f)
	}
	if info, err := l.Snapshots[0].Info(); err != nil || info.Size() != int64(len(before[file(3)])) {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := ReadOnly("none", &Options{FS: fsys}).List(); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if diff := cmp.Diff(before, fsys.Tree()); diff != "" {
		t.Error(diff)
	}
}

// When nothing is left the error says what was wrong with what there was.
func TestErrorNamesTheDamage(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	save(t, s, 1, 2)
	damage(t, fsys, file(1))
	b := at(7)
	fsys.WriteFile(file(2), b.Append(nil)) // a good file, of something else
	_, err := s.Newest(records(1, 2))
	var c *CorruptError
	if !errors.Is(err, ErrNoSnapshot) || !errors.As(err, &c) || c.Name != snapshotName(2, 2) || !strings.Contains(err.Error(), "the snapshot in it is 2/7") || !strings.Contains(err.Error(), snapshotName(1, 2)) {
		t.Errorf("got %v", err)
	}
	if l, err := s.List(); err != nil || len(l.Snapshots) != 0 || len(l.Broken) != 2 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestFewBrokenFilesAreKept(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	var all []uint64
	for i := range uint64(10) {
		all = append(all, i+1)
		save(t, s, i+1)
		damage(t, fsys, file(i+1))
		if _, err := s.Newest(records(all...)); !errors.Is(err, ErrNoSnapshot) {
			t.Fatal(err)
		}
	}
	l, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := uint64(10 - maxBroken + 1); i <= 10; i++ {
		want = append(want, snapshotName(i, 2)+".broken")
	}
	if diff := cmp.Diff(want, l.Broken); diff != "" {
		t.Error(diff)
	}
}

// Between the reading of a damaged file and its setting aside, a good one may be saved under the
// name.
func TestGoodFileIsNotSetAside(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	save(t, s, 1)
	damage(t, fsys, file(1))
	opens := 0
	fsys.SetFault(func(op crashfs.Op) error {
		if op.Kind == crashfs.OpOpen && op.Name == file(1) {
			if opens++; opens == 2 {
				fsys.SetFault(nil)
				b := at(1)
				fsys.WriteFile(file(1), b.Append(nil))
			}
		}
		return nil
	})
	wantNewest(t, s, 1, 1)
	if opens != 2 {
		t.Errorf("opened %d times", opens)
	}
	if _, err := fsys.Stat(file(1)); err != nil {
		t.Error(err)
	}
}

func TestKeep(t *testing.T) {
	build := func(t *testing.T) (*crashfs.FS, *Store) {
		fsys := crashfs.New()
		s := open(t, fsys)
		save(t, s, 10, 20, 30, 40)
		writeBody(t, s, 20, 10)
		writeBody(t, s, 25, 10)
		writeBody(t, s, 50, 10)
		for _, i := range []uint64{15, 60} { // unfinished
			w, err := s.Create(walpb.Snapshot{Index: i, Term: 2})
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
		}
		fsys.WriteFile("snap/"+bodyName(5), make([]byte, 64<<10)) // a database
		fsys.WriteFile("snap/db", nil)
		fsys.WriteFile("snap/x.snap", nil)
		fsys.WriteFile(file(20)+".0.tmp", nil)
		return fsys, s
	}
	all := []string{bodyName(5), snapshotName(10, 2), partialName(15), snapshotName(20, 2), snapshotName(20, 2) + ".0.tmp", bodyName(20), bodyName(25), snapshotName(30, 2), snapshotName(40, 2), bodyName(50), partialName(60), "db", "x.snap"}
	for _, test := range []struct {
		n        int
		recorded uint64
		removed  []string
		err      error
	}{
		{1, 40, []string{snapshotName(10, 2), partialName(15), snapshotName(20, 2), snapshotName(20, 2) + ".0.tmp", bodyName(20), bodyName(25), snapshotName(30, 2)}, nil},
		{3, 40, []string{snapshotName(10, 2), partialName(15), snapshotName(20, 2), snapshotName(20, 2) + ".0.tmp", bodyName(20)}, nil},
		{2, 30, []string{snapshotName(10, 2), partialName(15), snapshotName(20, 2), snapshotName(20, 2) + ".0.tmp", bodyName(20)}, nil},
		{2, 25, []string{snapshotName(10, 2), partialName(15), snapshotName(20, 2) + ".0.tmp"}, nil},
		{1, 10, []string{snapshotName(20, 2) + ".0.tmp"}, nil},
		{9, 50, []string{partialName(15), snapshotName(20, 2) + ".0.tmp"}, nil},
		{1, 35, []string{snapshotName(20, 2) + ".0.tmp"}, fs.ErrNotExist}, // it has no file
		{0, 40, nil, ErrInvalid},
	} {
		t.Run(fmt.Sprint(test.n, test.recorded), func(t *testing.T) {
			fsys, s := build(t)
			if err := s.Keep(test.n, walpb.Snapshot{Index: test.recorded, Term: 2}); !errors.Is(err, test.err) {
				t.Fatal(err)
			}
			var got, want []string
			state := fsys
			if test.err == nil {
				state = fsys.Crash(crashfs.DropAll) // what Keep removed stays away
			}
			for name := range state.Tree() {
				if name != "snap/" {
					got = append(got, strings.TrimPrefix(name, "snap/"))
				}
			}
			for _, name := range all {
				if !slices.Contains(test.removed, name) {
					want = append(want, name)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("oldest", func(t *testing.T) {
		for _, test := range []struct {
			n              int
			recorded, want uint64
		}{{1, 50, 50}, {2, 50, 40}, {2, 40, 30}, {4, 40, 20}, {2, 20, 10}, {9, 50, 0}, {1, 0, 0}} {
			_, s := build(t)
			recorded := walpb.Snapshot{Index: test.recorded, Term: 2}
			got, err := s.Oldest(test.n, recorded)
			if err != nil || got != test.want {
				t.Errorf("of %d up to %d it is %d, want %d (%v)", test.n, test.recorded, got, test.want, err)
			}
			if err := s.Keep(test.n, recorded); err != nil {
				t.Fatal(err)
			}
			l, err := s.List()
			if err != nil {
				t.Fatal(err)
			}
			if kept := l.indexes(math.MaxUint64); got > 0 && kept[1] != got { // kept[0] is foreign
				t.Errorf("of %d up to %d Keep keeps %d, and the oldest is %d", test.n, test.recorded, kept, got)
			}
		}
		_, s := build(t)
		if _, err := s.Oldest(0, walpb.Snapshot{}); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
	})
	t.Run("prune", func(t *testing.T) {
		fsys, s := build(t)
		if err := s.Prune(nil); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		if err := s.Prune([]walpb.Snapshot{{}, {Index: 25, Term: 2}, {Index: 10, Term: 2}}); err != nil {
			t.Fatal(err)
		}
		l, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		if got := l.indexes(math.MaxUint64); !slices.Equal(got, []uint64{5, 10, 20, 25}) || !slices.Equal(l.Partials, []uint64{60, 15}) {
			t.Errorf("left are %d, and unfinished %d", got, l.Partials)
		}
		if _, ok := fsys.Tree()["snap/db"]; !ok {
			t.Error("a file that is not ours is gone")
		}
	})
	t.Run("body of another term", func(t *testing.T) {
		_, s := build(t)
		if err := s.Keep(1, walpb.Snapshot{Index: 50, Term: 3}); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
}

// failOnce has the operation number n, from 0, fail with fault. ops counts those that were done.
func failOnce(fsys *crashfs.FS, n int, fault error) (ops *int) {
	ops = new(int)
	fsys.SetFault(func(crashfs.Op) error {
		*ops++
		if *ops == n+1 {
			return fault
		}
		return nil
	})
	return ops
}

// Every operation of a Save fails in every way, in turn. What was there before is there, and once
// the fault is gone Save works.
func TestSaveSurvivesEveryFault(t *testing.T) {
	runs := 0
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC, syscall.EINTR, syscall.EROFS, syscall.EMFILE, crashfs.ShortWrite(3)} {
		for _, saved := range []uint64{2, 1} { // a new one, and one that is there and differs
			for n := 0; ; n++ {
				fsys := crashfs.New()
				s := open(t, fsys)
				old := at(1)
				old.Data = []byte("old")
				if err := s.Save(old); err != nil {
					t.Fatal(err)
				}
				ops := failOnce(fsys, n, fault)
				err := s.Save(at(saved))
				fsys.SetFault(nil)
				if *ops <= n {
					break
				}
				runs++
				check := func(fsys *crashfs.FS, how string) {
					s := open(t, fsys)
					got, err2 := s.Newest(records(1))
					if err2 != nil || !cmp.Equal(got, old) && !(saved == 1 && cmp.Equal(got, at(1))) {
						t.Errorf("operation %d, %v, saved %d, %s: %+v, %v", n, fault, saved, how, got, err2)
					}
					if err == nil {
						wantNewest(t, s, saved, saved)
					}
				}
				check(fsys.Clone(), "process dies")
				check(fsys.Crash(crashfs.DropAll), "power is lost")
				save(t, s, saved)
				wantNewest(t, s, saved, saved)
				wantNewest(t, open(t, fsys.Crash(crashfs.DropAll)), saved, saved)
				for name := range fsys.Tree() {
					if strings.HasSuffix(name, ".tmp") {
						t.Errorf("operation %d, %v: %s is left", n, fault, name)
					}
				}
			}
		}
	}
	if runs < 100 {
		t.Errorf("%d runs", runs)
	}
}

// A process that dies again and again while it saves does not fill the disk.
func TestSaveRemovesWhatACrashLeft(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	fsys.WriteFile(file(7)+".0.tmp", []byte("half"))
	save(t, s, 1)
	if _, err := fsys.Stat(file(7) + ".0.tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Run with -race.
func TestConcurrentUse(t *testing.T) {
	fsys := crashfs.New()
	s := open(t, fsys)
	save(t, s, 1)
	writeBody(t, s, 1, 10)
	var wait sync.WaitGroup
	for g := range uint64(4) {
		wait.Go(func() {
			for i := range uint64(20) {
				index := 1 + (g*7+i)%10
				if err := s.Save(at(index)); err != nil {
					t.Error(err)
				}
				got, err := s.Newest(records(0, index, 1))
				if err != nil || got.Index != index && got.Index > 1 {
					t.Errorf("%+v, %v", got, err)
				}
				if err := s.Keep(3, at1()); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
				w, err := s.Create(walpb.Snapshot{Index: index, Term: 2})
				if errors.Is(err, ErrBusy) {
					continue
				} else if err != nil {
					t.Error(err)
					continue
				}
				fmt.Fprint(w, index)
				if i%3 == 0 {
					w.Discard()
				} else if err := w.Commit(); err != nil {
					t.Error(err)
				}
				r, err := s.NewestBody(records(1, index))
				if err != nil {
					t.Error(err)
					continue
				}
				r.Close()
			}
		})
	}
	wait.Wait()
}

// What is not raft's ConfState is what etcd cannot read, and what the log does not record: a body
// of it would be written for nothing.
func TestAConfStateThatIsNoneIsRefusedAndNothingIsWritten(t *testing.T) {
	for _, c := range [][]byte{{0xff}, {8}, {0x0a, 5, 1}, {0x2a, 0}, []byte("opaque"), {8, 1, 0}} {
		fsys := crashfs.New()
		s := open(t, fsys)
		_, create := s.Create(walpb.Snapshot{Index: 2, Term: 2, ConfState: c})
		_, resume := s.Resume(Body{Index: 2, Term: 2, ConfState: c})
		for what, err := range map[string]error{
			"Save": s.Save(Snapshot{Index: 2, Term: 2, ConfState: c}), "Save of index 0": s.Save(Snapshot{ConfState: c}), "Create": create, "Resume": resume,
		} {
			if !errors.Is(err, ErrInvalid) || !errors.Is(err, walpb.ErrMalformed) {
				t.Errorf("%s with a ConfState of % x: %v", what, c, err)
			}
		}
		if tree := fsys.Tree(); len(tree) != 1 {
			t.Errorf("% x: written was %v", c, tree)
		}
	}
}
