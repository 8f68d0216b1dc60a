package fuzz_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
	"pgregory.net/rapid"
)

// A machine is a log beside a slice, for rapid to drive. Unlike the campaign's histories, those of
// rapid shrink.
type machine struct {
	disk *crashfs.FS
	w    *wal.Writer

	base     walpb.Snapshot // the newest snapshot record
	entries  []walpb.Entry  // all from index 1 on
	state    walpb.HardState
	unsynced bool // the last hard state may be lost in a crash: it changed nothing but the commit
	synced   walpb.HardState
}

func (m *machine) options() *wal.Options { return &wal.Options{FS: m.disk, SegmentSize: 4096} }

func (m *machine) must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) wrote() { m.unsynced, m.synced = false, m.state }

// save appends entries from an index on.
func (m *machine) save(t *rapid.T, first int) {
	term := max(m.state.Term, 1)
	if first <= len(m.entries) {
		term++
	}
	m.state.Term = term
	m.entries = m.entries[:first-1]
	fresh := len(m.entries)
	for range rapid.IntRange(1, 5).Draw(t, "count") {
		data := make([]byte, rapid.SampledFrom([]int{0, 1, 7, 100, 511, 512, 2000, 5000}).Draw(t, "size"))
		for i := range data {
			data[i] = byte(len(m.entries) + i)
		}
		m.entries = append(m.entries, walpb.Entry{Index: uint64(len(m.entries) + 1), Term: term, Data: data})
	}
	if rapid.Bool().Draw(t, "commit too") {
		m.state.Commit = uint64(rapid.IntRange(int(m.state.Commit), len(m.entries)).Draw(t, "commit"))
	}
	m.must(t, m.w.Save(m.state, m.entries[fresh:]))
	m.wrote()
}

func (m *machine) Extend(t *rapid.T) { m.save(t, len(m.entries)+1) }

func (m *machine) Overwrite(t *rapid.T) {
	if int(m.state.Commit) == len(m.entries) {
		t.Skip("all is committed")
	}
	m.save(t, rapid.IntRange(int(m.state.Commit)+1, len(m.entries)).Draw(t, "from"))
}

func (m *machine) Commit(t *rapid.T) {
	if m.state.Term == 0 {
		t.Skip("no term")
	}
	m.state.Commit = uint64(rapid.IntRange(int(m.state.Commit), len(m.entries)).Draw(t, "commit"))
	m.must(t, m.w.Save(m.state, nil))
	m.unsynced = true
}

func (m *machine) Vote(t *rapid.T) {
	m.state.Term++
	m.state.Vote = rapid.Uint64Range(1, 3).Draw(t, "vote")
	m.must(t, m.w.Save(m.state, nil))
	m.wrote()
}

func (m *machine) Snapshot(t *rapid.T) {
	if m.state.Commit <= m.base.Index {
		t.Skip("nothing new is committed")
	}
	i := uint64(rapid.IntRange(int(m.base.Index)+1, int(m.state.Commit)).Draw(t, "index"))
	m.base = walpb.Snapshot{Index: i, Term: m.entries[i-1].Term, ConfState: []byte{8, 1}}
	m.must(t, m.w.SaveSnapshot(m.base))
	m.wrote()
}

// Install records a snapshot that a leader sent, from beyond the log or with another term than the
// log's entry, and commits it. What stood before is gone; the slice keeps the place of the entries,
// which no reader asks for any more.
func (m *machine) Install(t *rapid.T) {
	i := rapid.Uint64Range(m.state.Commit+1, uint64(len(m.entries))+5).Draw(t, "index")
	m.state.Term++
	m.base = walpb.Snapshot{Index: i, Term: m.state.Term, ConfState: []byte{8, 2}}
	m.must(t, m.w.SaveSnapshot(m.base))
	m.entries = m.entries[:0:0]
	for n := uint64(1); n <= i; n++ {
		m.entries = append(m.entries, walpb.Entry{Index: n, Term: m.state.Term})
	}
	m.state.Commit = i
	m.must(t, m.w.Save(m.state, nil))
	m.wrote()
}

func (m *machine) Release(t *rapid.T) {
	m.must(t, m.w.Release(rapid.Uint64Range(0, m.state.Commit).Draw(t, "index")))
	m.wrote()
}

func (m *machine) Sync(t *rapid.T) {
	m.must(t, m.w.Sync())
	m.wrote()
}

func (m *machine) Reopen(t *rapid.T) {
	m.must(t, m.w.Close())
	m.wrote()
	m.open(t)
}

func (m *machine) Crash(t *rapid.T) {
	seed := rapid.Uint64().Draw(t, "crash")
	after := m.disk.Crash(crashfs.Random(rand.New(rand.NewPCG(seed, seed))))
	m.must(t, m.w.Close()) // on the disk that is gone
	m.disk = after
	m.open(t)
	// A commit that came alone may be lost.
	log, err := wal.Replay(wal.Records("wal", m.base.Index, m.options()), m.base)
	m.must(t, err)
	if m.unsynced && log.State.Commit >= m.synced.Commit && log.State.Commit <= m.state.Commit {
		m.state.Commit = log.State.Commit
	}
	m.wrote()
}

func (m *machine) open(t *rapid.T) {
	var err error
	m.w, err = wal.Open("wal", m.options())
	m.must(t, err)
}

// Check compares what a restart would find with the slice.
func (m *machine) Check(t *rapid.T) {
	if m.w == nil {
		return
	}
	clone := m.disk.Clone() // a process that dies now; the commit alone may still be in its memory
	w, err := wal.Open("wal", &wal.Options{FS: clone, SegmentSize: 4096})
	m.must(t, err)
	defer w.Close()
	o := &wal.Options{FS: clone}
	snapshots, err := wal.Snapshots(wal.Records("wal", 0, o))
	m.must(t, err)
	s, ok := wal.Newest(snapshots)
	if !ok {
		t.Fatal("no snapshot record")
	}
	if s.Index != m.base.Index || s.Term != m.base.Term {
		t.Fatalf("the newest snapshot record is %d/%d, not %d/%d", s.Term, s.Index, m.base.Term, m.base.Index)
	}
	log, err := wal.Replay(wal.Records("wal", s.Index, o), s)
	m.must(t, err)
	same := func(a, b walpb.Entry) bool {
		return a.Index == b.Index && a.Term == b.Term && bytes.Equal(a.Data, b.Data)
	}
	if want := m.entries[s.Index:]; !slices.EqualFunc(log.Entries, want, same) {
		t.Fatalf("%d entries after %d, not %d", len(log.Entries), s.Index, len(want))
	}
	if log.State == m.state {
		return
	}
	if !m.unsynced || log.State.Term != m.state.Term || log.State.Vote != m.state.Vote ||
		log.State.Commit < m.synced.Commit || log.State.Commit > m.state.Commit {
		t.Fatalf("hard state %v, not %v", log.State, m.state)
	}
}

func TestALogIsASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{disk: crashfs.New()}
		w, err := wal.Create("wal", []byte("metadata"), m.options())
		if err != nil {
			t.Fatal(err)
		}
		m.w = w
		defer func() { m.w.Close() }()
		t.Repeat(rapid.StateMachineActions(m))
	})
}
