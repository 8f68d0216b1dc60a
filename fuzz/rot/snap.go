package rot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/walpb"
)

const snapDir = "snap"

// Snapshots damages the newest of two snapshots that a log records, one fault at a time: every
// bit of its file, every length, every sector zeroed, set and random; and so for a body. Of each it
// counts what a program finds that starts again: Same if the file is good all the same; Reported if
// the older one was found, and the damaged file is set aside; Silent if anything else was. There is
// always an older one, so Refused is a failure too.
//
// seed is that of the garbage. The error is the first failure, a *Failure, or that of making the
// snapshots.
func Snapshots(seed uint64) (Result, error) {
	began, r := time.Now(), newResult()
	r.due = due{flips: 10_000, sectors: 10, cuts: 1000, reported: true}
	s, err := newSnapshots()
	if err != nil {
		return r, err
	}
	for _, kind := range []snapKind{{".snap", s.newest}, {".snap.db", s.newestBody}} {
		name, err := s.newer(kind.suffix)
		if err != nil {
			return r, err
		}
		for n, f := range s.faults(name, seed) {
			r.take(name, n, &f, s.judge(&f, kind.find), 10)
		}
	}
	r.Took = time.Since(began)
	if r.Failed > 0 {
		return r, &r.Failures[0]
	}
	return r, nil
}

// snapKind is a kind of file, and how what it holds is found.
type snapKind struct {
	suffix string
	find   func(*snap.Store) (uint64, []byte, error)
}

// snapshots is a directory with two snapshots and two bodies.
type snapshots struct {
	disk     *crashfs.FS
	recorded []walpb.Snapshot
	content  map[uint64][]byte
}

func newSnapshots() (*snapshots, error) {
	s := &snapshots{disk: crashfs.New(), recorded: []walpb.Snapshot{{}}, content: map[uint64][]byte{}}
	store, err := snap.Open(snapDir, &snap.Options{FS: s.disk})
	if err != nil {
		return nil, err
	}
	for index := uint64(1); index <= 2; index++ {
		of := walpb.Snapshot{Index: index, Term: index, ConfState: oracle.ConfState(index)}
		data := bytes.Repeat([]byte{byte(index), 0, 0x5e}, int(150+100*index))
		s.recorded, s.content[index] = append(s.recorded, of), data
		if err := store.Save(snap.Snapshot{Index: index, Term: index, ConfState: of.ConfState, Data: data}); err != nil {
			return nil, err
		}
		w, err := store.Create(of)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, errors.Join(err, w.Close())
		}
		if err := w.Commit(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newer returns the name of the newer file of a kind.
func (s *snapshots) newer(suffix string) (string, error) {
	var names []string
	for name := range s.disk.Tree() {
		if strings.HasSuffix(name, suffix) {
			names = append(names, path.Base(name))
		}
	}
	if len(names) != 2 {
		return "", fmt.Errorf("rot: not two files that end in %s: %q", suffix, names)
	}
	return slices.Max(names), nil
}

func (s *snapshots) newest(store *snap.Store) (uint64, []byte, error) {
	found, err := store.Newest(s.recorded)
	return found.Index, found.Data, err
}

func (s *snapshots) newestBody(store *snap.Store) (uint64, []byte, error) {
	r, err := store.NewestBody(s.recorded)
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return r.Body().Index, b, err
}

// faults yields the damage to a file, numbered.
func (s *snapshots) faults(name string, seed uint64) func(func(int, fault) bool) {
	file := s.disk.Tree()[path.Join(snapDir, name)]
	l := &Log{Name: name, files: map[string][]byte{name: file}}
	return func(yield func(int, fault) bool) {
		n := 0
		next := func(f fault) bool {
			n++
			return f.idle(l.files) || yield(n, f)
		}
		for bit := range 8 * len(file) {
			if !next(l.flip(name, bit)) {
				return
			}
		}
		for size := range len(file) + 70 {
			if size != len(file) && !next(resized(name, size)) {
				return
			}
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		for at := 0; at < len(file); at += sectorSize {
			good := sectorAt(file, at)
			if !l.sectorBecomes(name, at, rng, func(b []byte, what string) bool {
				b = b[:min(len(b), len(good))]
				return len(b) == 0 || next(sectorFault(name, at, b, what))
			}) {
				return
			}
		}
	}
}

// judge does a fault, and finds out what a program that starts again finds then.
func (s *snapshots) judge(f *fault, find func(*snap.Store) (uint64, []byte, error)) finding {
	bad := func(o Outcome, err error) finding { return finding{outcome: o, broken: []string{err.Error()}} }
	disk := s.disk.Clone()
	if err := f.apply(disk, snapDir); err != nil {
		return bad("", err)
	}
	name := path.Join(snapDir, f.edits[0].name)
	damaged, err := disk.ReadFile(name)
	if err != nil {
		return bad("", err)
	}
	store, err := snap.Open(snapDir, &snap.Options{FS: disk})
	if err != nil {
		return bad("", err)
	}
	index, content, err := find(store)
	switch {
	case err != nil:
		return bad(Refused, err)
	case !bytes.Equal(content, s.content[index]):
		return bad(Silent, fmt.Errorf("other content than was saved in %d", index))
	case index == 2:
		return finding{outcome: Same}
	case index != 1:
		return bad(Silent, fmt.Errorf("it found %d", index))
	}
	if b, err := disk.ReadFile(name + ".broken"); err != nil || !bytes.Equal(b, damaged) {
		return bad(Reported, errors.New("the damaged file was not set aside"))
	}
	return finding{outcome: Reported}
}
