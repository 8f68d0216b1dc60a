package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A History is a store through its lives. It depends on nothing but its seed and on what crashes
// leave.
type History struct {
	rng   *rand.Rand
	size  int64
	plain bool
}

// NewHistory returns the History of a seed.
func NewHistory(seed uint64) *History {
	rng := rand.New(rand.NewPCG(seed, 0x57e1e))
	return &History{rng: rng, size: []int64{8 << 10, 16 << 10, 64 << 10}[rng.IntN(3)], plain: rng.IntN(4) == 0}
}

// Options returns those of the log.
func (h *History) Options(fsys fileutil.FS) *wal.Options {
	return &wal.Options{SegmentSize: h.size, PlainEtcd: h.plain, FS: fsys}
}

// A life is a store from where it is opened to its end.
type life struct {
	*History
	*marks
	dir   string
	fsys  fileutil.FS
	w     *wal.Writer
	store *snap.Store
}

// Live goes on with the store in dir, of which owed is owed, until it has made steps calls or so.
// position tells where the disk's trace is. It returns what was owed when; with an error too, which
// is an *oracle.Failure.
func (h *History) Live(dir string, fsys fileutil.FS, owed Owed, steps int, position func() int) ([]Mark, error) {
	l := &life{History: h, marks: &marks{position: position, now: owed}, dir: dir, fsys: fsys}
	err := l.open()
	for i := 0; i < steps && err == nil; i++ {
		err = l.step()
	}
	if l.w != nil {
		if err2 := l.close(); err == nil {
			err = err2
		}
	}
	return l.all, err
}

// open creates or opens the store, and takes what is there for what must stay.
func (l *life) open() (err error) {
	if l.w != nil { // an attempt before came no further
		l.w.Close()
	}
	l.w, err = wal.Open(walDir(l.dir), l.Options(l.fsys))
	if errors.Is(err, fs.ErrNotExist) && l.now.model == nil {
		if l.w, err = wal.Create(walDir(l.dir), oracle.Metadata, l.Options(l.fsys)); err != nil {
			return oracle.Failf(oracle.Refused, "create: %v", err)
		}
		l.change(func(now *Owed) { *now = created() })
	}
	if err != nil {
		return oracle.Failf(oracle.Refused, "open: %v", err)
	}
	if l.store, err = snap.Open(snapDir(l.dir), &snap.Options{FS: l.fsys}); err != nil {
		return oracle.Failf(oracle.Refused, "open the snapshots: %v", err)
	}
	if l.now.model == nil { // a crash came between the end of Create and its acknowledgement
		l.now = created()
	}
	s, err := observe(l.dir)
	if err == nil {
		err = l.now.judge(l.dir, s)
	}
	if err != nil {
		return err
	}
	l.change(func(now *Owed) { now.model.Settle(s.Count) })
	// A snapshot that was being installed is installed now, as the leader would.
	if m := l.meaning(); m.Pending >= 0 {
		return l.commit(l.now.model.Records[m.Pending])
	}
	return nil
}

func (l *life) close() error {
	err := l.w.Close()
	l.w = nil
	if err != nil {
		return oracle.Failf(oracle.Refused, "close: %v", err)
	}
	l.ack(len(l.now.model.Records))
	return nil
}

// step does one thing that a consensus system does with its store.
func (l *life) step() error {
	m := l.meaning()
	switch n := l.rng.IntN(24); {
	case n < 8:
		return l.follow(&m)
	case n < 11:
		return l.burst(&m)
	case n < 13:
		return l.overwrite(&m)
	case n < 15:
		return l.commitOnly(&m)
	case n < 16:
		return l.vote(&m)
	case n < 19:
		return l.compact(&m)
	case n < 20:
		return l.install(&m)
	case n < 21:
		return l.interrupted(&m)
	case n < 22:
		count := len(l.now.model.Records)
		if err := l.w.Sync(); err != nil {
			return oracle.Failf(oracle.Refused, "sync: %v", err)
		}
		l.ack(count)
		return nil
	case n < 23:
		if err := l.close(); err != nil {
			return err
		}
		return l.open()
	default:
		return l.release(&m)
	}
}

// save saves entries and a hard state.
func (l *life) save(state walpb.HardState, entries []walpb.Entry) error {
	before := l.state()
	count := l.attempt(l.records(state, entries)...)
	if err := l.w.Save(state, entries); err != nil {
		return oracle.Failf(oracle.Refused, "save: %v", err)
	}
	if len(entries) > 0 || !state.IsZero() && (state.Term != before.Term || state.Vote != before.Vote) {
		l.ack(count)
	}
	return nil
}

// records returns the records that a Save makes.
func (l *life) records(state walpb.HardState, entries []walpb.Entry) []oracle.Record {
	var records []oracle.Record
	for _, e := range entries {
		records = append(records, oracle.EntryRecord(e))
	}
	if !state.IsZero() {
		records = append(records, oracle.StateRecord(state))
	}
	return records
}

// next returns entries that follow, and the hard state for them.
func (l *life) next(m *oracle.Meaning, count int) (walpb.HardState, []walpb.Entry) {
	state := oracle.HardState(m.State)
	state.Term = max(state.Term, m.Term(m.Last()), 1)
	var entries []walpb.Entry
	for i := range count {
		entries = append(entries, entry(m.Last()+1+uint64(i), state.Term))
	}
	return state, entries
}

// follow appends what the leader sends; now and then a commit comes with it. Only what is durable
// is ever committed, so what is committed is never overwritten.
func (l *life) follow(m *oracle.Meaning) error {
	state, entries := l.next(m, 1+l.rng.IntN(4))
	if l.rng.IntN(2) == 0 && m.Last() > state.Commit && l.now.model.Acked == len(l.now.model.Records) {
		state.Commit += uint64(l.rng.IntN(int(m.Last()-state.Commit) + 1))
	}
	return l.save(state, entries)
}

// burst appends several times without waiting, so that appends gather while others are being
// synced.
func (l *life) burst(m *oracle.Meaning) error {
	n := 2 + l.rng.IntN(6)
	state, entries := l.next(m, n)
	done := make(chan error, n)
	var err error
	for i, e := range entries {
		st := walpb.HardState{}
		if i == 0 {
			st = state
		}
		count := l.attempt(l.records(st, []walpb.Entry{e})...)
		err = l.w.Append(st, []walpb.Entry{e}, func(err error) {
			if err == nil {
				l.ack(count)
			}
			done <- err
		})
		if err != nil {
			n = i
			break
		}
	}
	for range n {
		err = errors.Join(err, <-done)
	}
	if err != nil {
		return oracle.Failf(oracle.Refused, "append: %v", err)
	}
	return nil
}

// overwrite replaces entries that were not committed by those of a leader of a higher term.
func (l *life) overwrite(m *oracle.Meaning) error {
	lowest := max(m.State.Index, m.Base) + 1
	if lowest > m.Last() {
		return l.follow(m)
	}
	first := lowest + uint64(l.rng.IntN(int(m.Last()-lowest)+1))
	state := oracle.HardState(m.State)
	state.Term = max(state.Term, m.Term(m.Last())) + 1
	var entries []walpb.Entry
	for i := range 1 + l.rng.IntN(3) {
		entries = append(entries, entry(first+uint64(i), state.Term))
	}
	return l.save(state, entries)
}

func (l *life) commitOnly(m *oracle.Meaning) error {
	state := oracle.HardState(m.State)
	if m.Last() <= state.Commit || state.Term == 0 || l.now.model.Acked < len(l.now.model.Records) {
		return l.follow(m)
	}
	state.Commit += 1 + uint64(l.rng.IntN(int(m.Last()-state.Commit)))
	return l.save(state, nil)
}

func (l *life) vote(m *oracle.Meaning) error {
	state := oracle.HardState(m.State)
	state.Term = max(state.Term, m.Term(m.Last())) + 1
	state.Vote = 1 + uint64(l.rng.IntN(3))
	return l.save(state, nil)
}

// commit commits what a snapshot record that waits for it stands for.
func (l *life) commit(pending oracle.Record) error {
	state := oracle.HardState(l.state())
	state.Term, state.Commit = max(state.Term, pending.Term), pending.Index
	if err := l.save(state, nil); err != nil {
		return err
	}
	count := len(l.now.model.Records)
	if err := l.w.Sync(); err != nil {
		return oracle.Failf(oracle.Refused, "sync: %v", err)
	}
	l.ack(count)
	return nil
}

// compact takes a snapshot, records it, and removes what it makes unnecessary, in the order that
// package snap prescribes.
func (l *life) compact(m *oracle.Meaning) error {
	newest := m.Base
	for _, s := range m.Snapshots {
		newest = max(newest, s.Index)
	}
	if m.State.Index <= newest || l.now.model.Acked < len(l.now.model.Records) {
		return l.follow(m)
	}
	index := newest + 1 + uint64(l.rng.IntN(int(m.State.Index-newest)))
	f := file{index, m.Term(index)}
	if err := l.record(f); err != nil || l.rng.IntN(4) == 0 {
		return err
	}
	if err := l.releaseTo(index); err != nil {
		return err
	}
	return l.keep(f)
}

// install takes a snapshot that a leader has sent, and commits it.
func (l *life) install(m *oracle.Meaning) error {
	f := file{index: max(m.State.Index, m.Last()) + 1 + uint64(l.rng.IntN(5)), term: max(m.State.Term, m.Term(m.Last()), 1)}
	if err := l.record(f); err != nil {
		return err
	}
	return l.commit(oracle.Record{Index: f.index, Term: f.term})
}

// record saves a snapshot and then its record.
func (l *life) record(f file) error {
	l.change(func(now *Owed) {
		// One of the same index and another term may be replaced; it was never recorded.
		now.files = slices.DeleteFunc(slices.Clone(now.files), func(o file) bool { return o.index == f.index && o != f })
	})
	if err := l.writeSnapshot(f); err != nil {
		return oracle.Failf(oracle.Refused, "save the snapshot %d/%d: %v", f.term, f.index, err)
	}
	l.saved(f)
	s := walpb.Snapshot{Index: f.index, Term: f.term, ConfState: confState(f.index)}
	count := l.attempt(oracle.SnapshotRecord(s))
	if err := l.w.SaveSnapshot(s); err != nil {
		return oracle.Failf(oracle.Refused, "save the snapshot record %d/%d: %v", f.term, f.index, err)
	}
	l.ack(count)
	return nil
}

// confState is raft's message with one voter.
func confState(index uint64) []byte { return binary.AppendUvarint([]byte{0x08}, index%5+1) }

// state is what the snapshot of a file holds.
func state(f file) []byte {
	h := mix(f.index, f.term)
	size := h % 3000
	if kindOf(f.index) == body {
		size = h % (3 * snap.BlockSize)
	}
	return fill(size, h)
}

func (l *life) writeSnapshot(f file) error {
	data := state(f)
	if kindOf(f.index) == value {
		return l.store.Save(snap.Snapshot{Index: f.index, Term: f.term, ConfState: confState(f.index), Data: data})
	}
	w, err := l.store.Create(walpb.Snapshot{Index: f.index, Term: f.term, ConfState: confState(f.index)})
	if err != nil {
		return err
	}
	half := len(data) / 2
	if _, err = w.Write(data[:half]); err == nil && l.rng.IntN(3) == 0 {
		// The transfer is interrupted, and resumed from the last whole block.
		of := w.Body()
		if err = w.Close(); err == nil {
			w, err = l.store.Resume(of)
		}
		half = 0
		if err == nil {
			half = int(w.Size())
		}
	}
	if err == nil {
		_, err = w.Write(data[half:])
	}
	if err == nil {
		err = w.Commit()
	}
	if err != nil && w != nil {
		return errors.Join(err, w.Close())
	}
	return err
}

// interrupted begins a body that never comes to be.
func (l *life) interrupted(m *oracle.Meaning) error {
	w, err := l.store.Create(walpb.Snapshot{Index: m.Last() + 1000, Term: 1})
	if err == nil {
		_, err = w.Write(make([]byte, snap.BlockSize+l.rng.IntN(snap.BlockSize)))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return oracle.Failf(oracle.Refused, "interrupted body: %v", err)
	}
	return nil
}

func (l *life) release(m *oracle.Meaning) error { return l.releaseTo(m.State.Index) }

func (l *life) releaseTo(index uint64) error {
	before, err := observe(l.dir)
	if err == nil {
		err = l.now.judge(l.dir, before)
	}
	if err != nil {
		return err
	}
	l.change(func(now *Owed) { now.model.MayRelease(before.Seen, index) })
	return l.remove("release", func() error { return l.w.Release(index) })
}

// keep removes snapshots older than the second newest of those up to f.
func (l *life) keep(f file) error {
	l.change(func(now *Owed) {
		files := slices.Clone(now.files)
		slices.SortFunc(files, func(a, b file) int { return int(b.index) - int(a.index) })
		now.files = files[:min(len(files), 2)]
	})
	return l.remove("keep", func() error { return l.store.Keep(2, walpb.Snapshot{Index: f.index, Term: f.term}) })
}

// remove calls what removes files, and says which must not come back.
func (l *life) remove(what string, f func() error) error {
	before, err := observe(l.dir)
	if err == nil {
		err = f()
	}
	if err != nil {
		return oracle.Failf(oracle.Refused, "%s: %v", what, err)
	}
	after, err := observe(l.dir)
	if err != nil {
		return err
	}
	l.change(func(now *Owed) {
		gone := slices.Clone(now.gone)
		for _, name := range before.names {
			if !slices.Contains(after.names, name) {
				gone = append(gone, name)
			}
		}
		now.gone = gone
	})
	return nil
}

// String says what the history is like.
func (h *History) String() string { return fmt.Sprintf("segments of %d, plain %v", h.size, h.plain) }
