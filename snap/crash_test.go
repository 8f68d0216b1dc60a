package snap_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// These tests crash a program that uses a log and a Store together: snapshot file, then record,
// then Keep, then release. They crash it around every operation that changes the file system, in
// many ways, and start it again.

var seed = flag.Uint64("seed", 1, "of the crashes")

// long is a flag of the package's other tests.
func long() bool { return flag.Lookup("long").Value.String() == "true" }

// A program is what is run and crashed.
type program struct {
	// state is how the state is kept: "snapshot", "body", or "both", which is a snapshot that says
	// that the rest is in a body.
	state string
	keep  int    // how many snapshots Keep keeps
	steps []step // in which order
	size  int    // of the state, in bytes
	wrap  func(fileutil.FS) fileutil.FS

	noPrune bool
}

type step string

const (
	file    step = "file"
	record  step = "record"
	keep    step = "keep"
	release step = "release"
	newest  step = "release up to the newest"
	// The same snapshot in other bytes takes the place of the one that is relied on.
	again step = "again"
)

var rightOrder = []step{file, record, keep, release, again}

// promises are what was acknowledged, or seen after a restart: none of it may be lost.
type promises struct {
	snapshot uint64 // the newest that was recorded
	older    uint64 // the one before, from which the program goes on if the newest is damaged
	entry    uint64 // the last
}

// life runs the program for some rounds on what is in fsys, and returns an error if a promise was
// not kept at its start. kept is called with what is promised whenever that grows.
func (p *program) life(fsys fileutil.FS, promised promises, rounds int, kept func(promises)) error {
	if p.wrap != nil {
		fsys = p.wrap(fsys)
	}
	// What the log does in the background is done between the steps, so that the order of all
	// operations is the same each time.
	var tasks []func()
	opts := &wal.Options{FS: fsys, SegmentSize: 2048, Background: func(task func()) { tasks = append(tasks, task) }}
	settle := func() {
		for _, task := range tasks {
			task()
		}
		tasks = nil
	}
	w, err := wal.Open("data/wal", opts)
	if errors.Is(err, fs.ErrNotExist) && promised == (promises{}) {
		w, err = wal.Create("data/wal", []byte("member"), opts)
	}
	if err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	defer w.Close()
	settle()

	store, err := snap.Open("data/snap", &snap.Options{FS: fsys})
	if err != nil {
		return err
	}
	records, err := wal.Snapshots(wal.Records("data/wal", 0, opts))
	if err != nil {
		return err
	}
	from, last, err := p.restart(store, records, opts)
	if err != nil {
		return fmt.Errorf("%+v was promised: %w", promised, err)
	}
	if !p.noPrune {
		if err := store.Prune(records); err != nil {
			return err
		}
	}
	if from < promised.snapshot || last < promised.entry {
		return fmt.Errorf("%+v was promised, from %d to %d is there", promised, from, last)
	}
	older := promised.older
	if p.keep > 1 && from > 0 {
		// As if it was damaged.
		records = slices.DeleteFunc(records, func(r walpb.Snapshot) bool { return r.Index >= from })
		other, err := snap.Open("data/snap", &snap.Options{FS: fsys})
		if err != nil {
			return err
		}
		var end uint64
		if older, end, err = p.restart(other, records, opts); err != nil {
			return fmt.Errorf("without the newest snapshot, %+v was promised: %w", promised, err)
		} else if older < promised.older || end != last {
			return fmt.Errorf("without the newest snapshot, %+v was promised, from %d to %d is there", promised, older, end)
		}
	}
	if l, err := store.List(); err != nil {
		return err
	} else if len(l.Broken)+len(l.Strays) > 0 {
		return fmt.Errorf("a crash is no damage: %q %q", l.Broken, l.Strays)
	}
	promised = promises{snapshot: from, older: older, entry: last}
	kept(promised)

	for range rounds {
		for range 2 { // so that a segment may end between two snapshots
			last++
			if err := w.Save(walpb.HardState{Term: 1, Vote: 1, Commit: last}, []walpb.Entry{{Term: 1, Index: last, Data: command(last)}}); err != nil {
				return err
			}
		}
		promised.entry = last
		kept(promised)
		settle()
		of := walpb.Snapshot{Index: last, Term: 1, ConfState: []byte{8, 1}}
		for _, step := range p.steps {
			switch step {
			case file:
				err = p.save(store, of, 0)
			case again:
				err = p.save(store, of, 1)
			case record:
				if err = w.SaveSnapshot(of); err == nil {
					promised.older, promised.snapshot = promised.snapshot, last
					kept(promised)
				}
			case newest:
				err = w.Release(last)
			case release:
				var oldest uint64
				if oldest, err = store.Oldest(p.keep, of); err == nil {
					err = w.Release(oldest)
				}
			case keep:
				if err = store.Keep(p.keep, of); errors.Is(err, fs.ErrNotExist) {
					err = nil // of a program that is wrong on purpose
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", step, err)
			}
			settle()
		}
	}
	return nil
}

// restart returns from which of the recorded snapshots the program goes on, and the last entry
// after it.
func (p *program) restart(store *snap.Store, records []walpb.Snapshot, opts *wal.Options) (from, last uint64, err error) {
	newest, err := p.load(store, records)
	if err != nil {
		return 0, 0, err
	}
	log, err := wal.Replay(wal.Records("data/wal", newest.Index, opts), newest)
	if err != nil {
		return 0, 0, err
	}
	last = newest.Index
	for _, e := range log.Entries {
		last++
		if e.Index != last || !bytes.Equal(e.Data, command(last)) {
			return 0, 0, fmt.Errorf("entry %d is %d with %d bytes", last, e.Index, len(e.Data))
		}
	}
	return newest.Index, last, nil
}

func (p *program) save(store *snap.Store, of walpb.Snapshot, variant byte) error {
	data := p.data(of.Index, variant)
	if p.state != "snapshot" {
		w, err := store.Resume(bodyOf(of, variant))
		if err != nil {
			return err
		}
		defer w.Close()
		if _, err := w.Write(data[w.Size():]); err != nil {
			return err
		}
		if err := w.Commit(); err != nil {
			return err
		}
	}
	if p.state == "body" {
		return nil
	}
	s := snap.Snapshot{Index: of.Index, Term: of.Term, ConfState: of.ConfState, Data: data}
	if p.state == "both" {
		s.Data = []byte("see the body")
	}
	return store.Save(s)
}

// load is what a restart finds, which must be what was saved at that index.
func (p *program) load(store *snap.Store, records []walpb.Snapshot) (walpb.Snapshot, error) {
	check := func(of walpb.Snapshot, data []byte) error {
		same := bytes.Equal(data, p.data(of.Index, 0)) || bytes.Equal(data, p.data(of.Index, 1))
		if of.Index > 0 && (!same || !bytes.Equal(of.ConfState, []byte{8, 1})) {
			return fmt.Errorf("snapshot %d has %d bytes, and not those that were saved", of.Index, len(data))
		}
		return nil
	}
	if p.state == "body" {
		r, err := store.NewestBody(records)
		if err != nil {
			return walpb.Snapshot{}, err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return r.Body().Record(), errors.Join(err, check(r.Body().Record(), data))
	}
	s, err := store.Newest(records)
	if err != nil || p.state == "snapshot" || s.Index == 0 {
		return s.Record(), errors.Join(err, check(s.Record(), s.Data))
	}
	r, err := store.OpenBody(s.Index)
	if err != nil {
		return walpb.Snapshot{}, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return s.Record(), errors.Join(err, check(s.Record(), data))
}

// data is the state at an index, in one of two forms.
func (p *program) data(index uint64, variant byte) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "state at %d%c", index, ";,"[variant]), p.size/10+1)[:p.size]
}

func command(index uint64) []byte { return bytes.Repeat(fmt.Appendf(nil, "command %d;", index), 80) }

func bodyOf(of walpb.Snapshot, variant byte) snap.Body {
	b := snap.Body{Index: of.Index, Term: of.Term, ConfState: of.ConfState}
	b.ID[0], b.ID[1] = byte(of.Index), variant
	return b
}

// crashes returns the ways to crash a file system: all, none, each pending change lost or kept
// alone, each prefix of them, and some of every random kind. Above a number the single ones are a
// sample.
func crashes(fsys *crashfs.FS, rng *rand.Rand, limit int) (all []crashfs.Chooser) {
	all = append(all, crashfs.DropAll, crashfs.KeepAll)
	places, changes := len(fsys.Pending()), fsys.Changes()
	for _, i := range sample(rng, places, limit) {
		all = append(all, crashfs.DropOne(i), crashfs.KeepOne(i))
	}
	for _, n := range sample(rng, changes, limit) {
		all = append(all, crashfs.Prefix(n))
	}
	if places > 0 {
		for range 2 {
			all = append(all, crashfs.Random(rng), crashfs.Tear(rng), crashfs.Garbage(rng))
		}
	}
	return all
}

func sample(rng *rand.Rand, n, limit int) []int {
	p := rng.Perm(n)
	return p[:min(n, limit)]
}

// everywhere runs one life and crashes it around every operation, in every way. It returns how many
// states it tried, and the first that broke a promise.
func (p *program) everywhere(rounds, limit int) (states int, failure error) {
	rng := rand.New(rand.NewPCG(*seed, 0))
	fsys := crashfs.New()
	var (
		mu       sync.Mutex
		promised promises
		ops      int
	)
	fsys.SetHook(nil, func(op crashfs.Op) {
		mu.Lock()
		defer mu.Unlock()
		ops++
		for i, choose := range crashes(fsys, rng, limit) {
			if failure != nil {
				return
			}
			states++
			const twoMoreRounds = 2 // whatever is found must also be good to go on with
			if err := p.life(fsys.Crash(choose), promised, twoMoreRounds*(states&1), func(promises) {}); err != nil {
				failure = fmt.Errorf("after operation %d, %v, crash %d: %w", ops, op, i, err)
			}
		}
	})
	err := p.life(fsys, promises{}, rounds, func(now promises) {
		mu.Lock()
		defer mu.Unlock()
		promised = now
	})
	if failure == nil {
		failure = err
	}
	return states, failure
}

// lives runs histories of several lives, each of which ends with a crash at an operation chosen by
// chance, of the process or of the machine.
func (p *program) lives(histories int) (lives int, failure error) {
	for h := range histories {
		rng := rand.New(rand.NewPCG(*seed, uint64(h)+1))
		fsys := crashfs.New()
		var promised promises
		for n := range 6 {
			lives++
			var (
				mu       sync.Mutex
				end      = 1 + rng.IntN(60)
				ops      int
				next     *crashfs.FS
				now      = promised
				atTheEnd promises
			)
			crash := func() {
				ops++
				if ops != end {
					return
				}
				atTheEnd = now
				switch rng.IntN(6) {
				case 0:
					next = fsys.Clone()
				case 1:
					next = fsys.Crash(crashfs.Prefix(rng.IntN(fsys.Changes() + 1)))
				case 2:
					next = fsys.Crash(crashfs.Tear(rng))
				case 3:
					next = fsys.Crash(crashfs.Garbage(rng))
				default:
					next = fsys.Crash(crashfs.Random(rng))
				}
			}
			fsys.SetHook(nil, func(crashfs.Op) {
				mu.Lock()
				defer mu.Unlock()
				crash()
			})
			err := p.life(fsys, promised, 4, func(p promises) {
				mu.Lock()
				defer mu.Unlock()
				now = p
			})
			if err != nil {
				return lives, fmt.Errorf("history %d, life %d: %w", h, n, err)
			}
			if next == nil {
				end, ops = 1, 0
				crash()
			}
			fsys, promised = next, atTheEnd
		}
	}
	return lives, nil
}

func TestSnapshotThenRecordThenReleaseSurviveEveryCrash(t *testing.T) {
	for _, p := range []program{
		{state: "snapshot", size: 700, keep: 1},
		{state: "snapshot", size: 700, keep: 2},
		{state: "body", size: 700, keep: 1},
		{state: "body", size: snap.BlockSize + 700, keep: 2},
		{state: "both", size: 700, keep: 1},
	} {
		p.steps = rightOrder
		t.Run(fmt.Sprintf("%s of %d, keep %d", p.state, p.size, p.keep), func(t *testing.T) {
			rounds, limit, histories := 3, 6, 20
			if long() {
				rounds, limit, histories = 6, 1000, 1000
			}
			states, err := p.everywhere(rounds, limit)
			if err != nil {
				t.Errorf("-seed %d: %v", *seed, err)
			}
			lives, err := p.lives(histories)
			if err != nil {
				t.Errorf("-seed %d: %v", *seed, err)
			}
			t.Logf("seed %d: %d states, %d lives", *seed, states, lives)
			if states < 500 {
				t.Errorf("only %d states", states)
			}
		})
	}
	if !long() {
		t.Log("a sample of the single changes; -long tries all")
	}
}

// The test above would pass if it saw nothing. So it is given programs and file systems that are
// wrong.
func TestSaboteursAreCaught(t *testing.T) {
	inSnap := func(name string) bool { return strings.Contains(name, "snap") }
	for _, state := range []string{"snapshot", "body", "both"} {
		for name, p := range map[string]program{
			"record before file":                 {steps: []step{record, file, keep, release}},
			"keep before record":                 {steps: []step{file, keep, record, release}},
			"release to the newest of two":       {steps: []step{file, record, keep, newest}, keep: 2},
			"files are not synced":               {steps: rightOrder, wrap: func(f fileutil.FS) fileutil.FS { return &saboteur{FS: f, noData: inSnap} }},
			"directory is not synced":            {steps: rightOrder, wrap: func(f fileutil.FS) fileutil.FS { return &saboteur{FS: f, noDir: inSnap} }},
			"file gets its name before its sync": {steps: rightOrder, wrap: func(f fileutil.FS) fileutil.FS { return &saboteur{FS: f, late: inSnap} }},
		} {
			p.state, p.size, p.keep = state, 700, max(p.keep, 1)
			rounds := 3
			if p.keep > 1 {
				rounds = 5 // until a segment is released
			}
			states, err := p.everywhere(rounds, 6)
			if err == nil || states == 0 { // states of 0: it does not even run
				t.Errorf("%s, %s: not caught in %d states: %v", state, name, states, err)
			} else {
				t.Logf("%s, %s: caught in state %d: %v", state, name, states, err)
			}
		}
	}
}

// Nor may a file that no record names take the place of one that is kept.
func TestARestartWithoutPruneIsCaught(t *testing.T) {
	p := program{state: "snapshot", size: 700, keep: 2, steps: rightOrder, noPrune: true}
	lives, err := p.lives(100)
	if err == nil {
		t.Errorf("not caught in %d lives", lives)
	}
	t.Log(err)
}

// A saboteur is a file system that leaves out what it should do.
type saboteur struct {
	fileutil.FS
	noData func(name string) bool // SyncData of these returns nil
	noDir  func(name string) bool // Sync of these directories returns nil
	late   func(name string) bool // these are synced only after they were renamed

	mu      sync.Mutex
	pending []*saboteurFile
}

type saboteurFile struct {
	fileutil.File
	s      *saboteur
	closed bool
}

func (s *saboteur) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := s.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &saboteurFile{File: f, s: s}, nil
}

func (s *saboteur) OpenDir(name string) (fileutil.Dir, error) {
	d, err := s.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &saboteurDir{d, s, name}, nil
}

type saboteurDir struct {
	fileutil.Dir
	s    *saboteur
	name string
}

func (d *saboteurDir) Sync() error {
	s := d.s
	if s.noDir != nil && s.noDir(d.name) {
		return nil
	}
	err := d.Dir.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.pending {
		err = errors.Join(err, f.File.SyncData())
		if f.closed {
			f.File.Close()
		}
	}
	s.pending = nil
	return err
}

func (f *saboteurFile) SyncData() error {
	switch s := f.s; {
	case s.noData != nil && s.noData(f.Name()):
		return nil
	case s.late != nil && s.late(f.Name()):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pending = append(s.pending, f)
		return nil
	}
	return f.File.SyncData()
}

func (f *saboteurFile) Close() error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.closed = true
	if slices.Contains(f.s.pending, f) {
		return nil
	}
	return f.File.Close()
}
