package rot

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Logs makes the logs that [Rot] damages by default. They differ in what their writers do; each
// is the same every time. Those called unmarked have lost the file synced, as in a power cut.
func Logs() ([]*Log, error) {
	always := func(int) bool { return true }
	var logs []*Log
	for _, s := range []script{
		{name: "closed", segment: 4096, segments: 3},
		{name: "closed, unmarked", segment: 4096, segments: 2, unmarked: true},
		{name: "killed", segment: 4096, segments: 2, killed: true},
		{name: "killed, unmarked", segment: 4096, segments: 2, killed: true, unmarked: true},
		{name: "sizes", segment: 16384, segments: 2, sizes: true},
		{name: "released", segment: 4096, segments: 6, releases: true},
		{name: "installed", segment: 4096, segments: 3, installs: true},
		{name: "plain", segment: 4096, segments: 2, plain: always},
		{name: "plain, unmarked", segment: 4096, segments: 3, plain: always, unmarked: true},
		{name: "mixed, unmarked", segment: 4096, segments: 4, plain: func(life int) bool { return life%2 == 1 }, lives: 3, unmarked: true},
	} {
		l, err := s.run()
		if err != nil {
			return nil, fmt.Errorf("rot: make the log %s: %w", s.name, err)
		}
		logs = append(logs, l)
	}
	return logs, nil
}

// Pair makes two logs of the same content, the one with witnesses and the mark, the other with
// etcd's bytes and nothing beside them: for a comparison of programs that read them.
func Pair() (ours, plain *Log, err error) {
	script := script{name: "ours", segment: 4096, steps: 40}
	if ours, err = script.run(); err != nil {
		return nil, nil, err
	}
	script.name, script.plain, script.unmarked = "etcd's bytes", func(int) bool { return true }, true
	plain, err = script.run()
	return ours, plain, err
}

// script is what the writer of a log does.
type script struct {
	name     string
	segment  int64          // bytes
	segments int            // it stops once this many were begun
	steps    int            // or this many steps were done
	lives    int            // how often it opens the log on the way; 0 is once
	plain    func(int) bool // in which of its lives it leaves no witnesses; nil is in none
	killed   bool           // it does not close the log
	unmarked bool           // then the mark is removed
	sizes    bool           // entries of all sizes
	releases bool
	installs bool
}

// run writes the log twice, with other data the second time: that is the twin.
func (s script) run() (*Log, error) {
	var twins [2]*writer
	for i := range twins {
		twins[i] = newWriter(s, uint64(i))
		if err := twins[i].run(); err != nil {
			return nil, err
		}
	}
	if s.unmarked {
		if err := twins[0].disk.Remove(path.Join(dir, mark)); err != nil {
			return nil, err
		}
	}
	l, err := NewLog(s.name, logFiles(twins[0].disk))
	if err != nil {
		return nil, err
	}
	l.size, l.moments = s.segment, twins[0].moments
	if l.twin = logFiles(twins[1].disk); len(l.segments) < 2 || len(l.twin) < 2 {
		return nil, errors.New("it has one segment")
	}
	return l, l.saved(twins[0].model.Records)
}

// logFiles returns the segments on a disk, and the mark, by name in the directory.
func logFiles(disk *crashfs.FS) map[string][]byte {
	files := map[string][]byte{}
	for name, b := range disk.Tree() {
		if path.Dir(name) == dir && (path.Ext(name) == ".wal" || path.Base(name) == mark) {
			files[path.Base(name)] = b
		}
	}
	return files
}

// writer writes a log, and remembers what its files were after each call.
type writer struct {
	script
	disk    *crashfs.FS
	w       *wal.Writer
	rng     *rand.Rand
	model   *oracle.Model
	moments []map[string][]byte

	background harness.Queue

	life   int
	index  uint64 // of the last entry
	state  walpb.HardState
	terms  map[uint64]uint64
	newest uint64 // the index of the newest snapshot record
}

func newWriter(s script, twin uint64) *writer {
	return &writer{
		script: s,
		disk:   crashfs.New(),
		rng:    rand.New(rand.NewPCG(twin, uint64(s.segments))),
		model:  oracle.NewModel(),
		state:  walpb.HardState{Term: 1, Vote: 1},
		terms:  map[uint64]uint64{},
	}
}

// remember keeps the files as they are.
func (w *writer) remember() {
	now := logFiles(w.disk)
	same := len(w.moments) > 0 && len(w.moments[len(w.moments)-1]) == len(now)
	for name, b := range now {
		if len(w.moments) == 0 {
			break
		}
		if before, ok := w.moments[len(w.moments)-1][name]; ok && bytes.Equal(before, b) {
			now[name] = before // share the memory
		} else {
			same = false
		}
	}
	if !same {
		w.moments = append(w.moments, now)
	}
}

func (w *writer) run() error {
	for w.life = range max(w.lives, 1) {
		if err := w.open(); err != nil {
			return err
		}
		for goal := w.segments * (w.life + 1) / max(w.lives, 1); w.begun() < goal; {
			if err := w.step(); err != nil {
				return err
			}
		}
		for range max(w.steps, 5) {
			if err := w.step(); err != nil {
				return err
			}
		}
		if w.killed {
			if err := w.save(4, w.state.Term); err != nil {
				return err
			}
			left := w.disk.Clone()
			w.w.Close()
			w.disk = left
			return nil
		}
		if err := w.w.Close(); err != nil {
			return err
		}
		w.remember()
	}
	return nil
}

// begun returns how many segments were begun.
func (w *writer) begun() (n int) {
	for name := range logFiles(w.disk) {
		var seq, index int
		if _, err := fmt.Sscanf(name, "%x-%x.wal", &seq, &index); err == nil {
			n = max(n, seq+1)
		}
	}
	return n
}

func (w *writer) open() (err error) {
	o := &wal.Options{FS: w.disk, SegmentSize: w.segment, Background: w.background.Add}
	if w.plain != nil {
		o.PlainEtcd = w.plain(w.life)
	}
	w.w = nil
	if w.life == 0 {
		w.w, err = wal.Create(dir, oracle.Metadata, o)
	} else {
		w.w, err = wal.Open(dir, o)
	}
	w.background.Run()
	return err
}

// settle follows each call. It has the spare made that the next cut needs, so that where the log is
// cut depends on its size alone.
func (w *writer) settle(err error) error {
	w.background.Run()
	w.remember()
	return err
}

// step does the next thing.
func (w *writer) step() error {
	n := w.index + 1
	if err := w.save(1+int(n%3), w.state.Term); err != nil {
		return err
	}
	if n%5 == 0 { // a leader of the next term overwrites the last entry
		w.index--
		if err := w.save(1, w.state.Term+1); err != nil {
			return err
		}
	}
	if n%7 == 0 {
		if err := w.snapshot(w.state.Commit, w.terms[w.state.Commit]); err != nil {
			return err
		}
	}
	if w.installs && n%6 == 0 {
		w.index += 3
		w.terms[w.index] = w.state.Term
		if err := w.snapshot(w.index, w.state.Term); err != nil {
			return err
		}
		w.state.Commit = w.index
		if err := w.save(int(n%2), w.state.Term); err != nil {
			return err
		}
	}
	if w.releases && n%16 == 0 {
		return w.w.Release(w.newest)
	}
	return nil
}

// save appends entries in a term, and commits all but the last.
func (w *writer) save(count int, term uint64) error {
	var entries []walpb.Entry
	for range count {
		w.index++
		w.terms[w.index] = term
		e := walpb.Entry{Term: term, Index: w.index, Data: w.data()}
		entries = append(entries, e)
		w.model.Attempt(oracle.EntryRecord(e))
	}
	w.state.Term = term
	w.state.Commit = max(w.state.Commit, w.index-min(w.index, 1))
	w.model.Attempt(oracle.StateRecord(w.state))
	return w.settle(w.w.Save(w.state, entries))
}

func (w *writer) snapshot(index, term uint64) error {
	s := walpb.Snapshot{Index: index, Term: term, ConfState: oracle.ConfState(index)}
	w.newest = max(w.newest, index)
	w.model.Attempt(oracle.SnapshotRecord(s))
	return w.settle(w.w.SaveSnapshot(s))
}

// data returns the data of the next entry.
func (w *writer) data() []byte {
	n := int(w.index*37%90) + 10*int(w.index%3)
	if w.index%11 == 0 {
		n = 900 // more than a sector
	}
	if w.sizes {
		n = []int{-1, 0, 1, 7, 8, 9, 100, 470, 511, 512, 1024, 2500}[w.index%12]
	}
	if n < 0 {
		return nil
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	if w.sizes && n > 1000 {
		clear(b[100 : n-100]) // where a zeroed sector and an entry's own bytes look alike
	}
	return b
}
