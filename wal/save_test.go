package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D17, R23, D24. What a log cannot hold is refused, and nothing of it is written.
func TestWhatALogCannotHoldIsRefusedWhole(t *testing.T) {
	l, w := create(t, func(o *wal.Options) { o.MaxRecord = 2000 })
	must(t, w.Save(state(2, 0), entries(2, 1, 5, 10)))
	must(t, w.Save(state(2, 3), nil))
	must(t, w.Sync())
	before := l.Tree()
	l.did()
	e := func(term, index uint64) walpb.Entry { return walpb.Entry{Term: term, Index: index} }
	for _, c := range []struct {
		name    string
		state   walpb.HardState
		entries []walpb.Entry
		is      error
		says    string
	}{
		{"gap after the log", state(2, 3), []walpb.Entry{e(2, 7)}, wal.ErrInvalid, "gap after 5"},
		{"gap inside", state(2, 3), []walpb.Entry{e(2, 6), e(2, 8)}, wal.ErrInvalid, "2/8"},
		{"twice inside", state(2, 3), []walpb.Entry{e(2, 6), e(2, 6)}, wal.ErrInvalid, "2/6"},
		{"backwards inside", state(2, 3), []walpb.Entry{e(2, 6), e(2, 5)}, wal.ErrInvalid, "2/5"},
		{"index 0", state(2, 3), []walpb.Entry{e(2, 0)}, wal.ErrInvalid, "index 0"},
		{"committed entry", state(2, 3), []walpb.Entry{e(3, 3)}, wal.ErrInvalid, "committed up to 3"},
		{"term falls", state(2, 3), []walpb.Entry{e(1, 6)}, wal.ErrInvalid, "lower term"},
		{"term falls inside", state(3, 3), []walpb.Entry{e(3, 6), e(2, 7)}, wal.ErrInvalid, "lower term"},
		{"hard state's term falls", state(1, 3), nil, wal.ErrInvalid, "falls from 2 to 1"},
		{"vote changes", walpb.HardState{Term: 2, Vote: 7, Commit: 3}, nil, wal.ErrInvalid, "vote in term 2 changes from 1 to 7"},
		{"vote vanishes", walpb.HardState{Term: 2, Commit: 3}, nil, wal.ErrInvalid, "vote in term 2 changes from 1 to 0"},
		{"commit falls", state(2, 2), nil, wal.ErrInvalid, "falls from 3 to 2"},
		{"commit beyond the log", state(2, 6), nil, wal.ErrInvalid, "last entry is 5"},
		{"commit beyond what overwrites", state(3, 5), []walpb.Entry{e(3, 4)}, wal.ErrInvalid, "last entry is 4"},
		{"last of many too large", state(2, 3), append(entries(2, 6, 8, 10), entries(2, 9, 9, 2001)...), wal.ErrTooLarge, "limit is 2000"},
		{"largest index", state(2, 3), []walpb.Entry{e(2, 1<<64-1)}, wal.ErrInvalid, "gap"},
	} {
		if err := w.Save(c.state, c.entries); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: Save: %v, want %q", c.name, err, c.says)
		}
		if err := w.Append(c.state, c.entries, func(error) { t.Errorf("%s: done was called", c.name) }); !errors.Is(err, c.is) {
			t.Errorf("%s: Append: %v", c.name, err)
		}
	}
	if err := w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 9}); !errors.Is(err, wal.ErrInvalid) {
		t.Errorf("snapshot that contradicts an entry: %v", err)
	}
	if err := w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 2, ConfState: make([]byte, 2000)}); !errors.Is(err, wal.ErrTooLarge) {
		t.Errorf("snapshot record that is too large: %v", err)
	}
	must(t, w.Sync())
	if ops := l.did(); len(ops) > 0 || len(onlyDiffer(before, l.Tree())) > 0 {
		t.Errorf("refusals wrote: %v", ops)
	}
	// A refusal is no failure, and what was refused does not count.
	l.save(t, w, state(2, 4), entries(2, 6, 6, 10))
	must(t, w.Close())
	if log, err := replay(l.FS, walpb.Snapshot{}); err != nil || text(log.Entries) != text(entries(2, 1, 6, 0)) {
		t.Errorf("the log holds %v, %v", log, err)
	}
	if _, err := wal.Create("other", make([]byte, 2000), &wal.Options{FS: l.FS, MaxRecord: 2000}); !errors.Is(err, wal.ErrTooLarge) {
		t.Errorf("metadata that is too large: %v", err)
	}
	if _, err := l.FS.Stat("other"); err == nil {
		t.Error("a refused Create made a directory")
	}
}

// D24. The limit is the writer's: what is there can be read, whatever the limit is now.
func TestLimitDoesNotBindReaders(t *testing.T) {
	l, w := create(t, func(o *wal.Options) { o.MaxRecord = 1 << 20 })
	must(t, w.Save(state(1, 0), entries(1, 1, 1, 1<<20-100)))
	must(t, w.Close())
	o := l.options()
	o.MaxRecord = 100
	w, err := wal.Open(labDir, o)
	must(t, err)
	must(t, w.Close())
	if log, err := wal.Replay(wal.Records(labDir, 0, o), walpb.Snapshot{}); err != nil || len(log.Entries[0].Data) != 1<<20-100 {
		t.Errorf("%v, %v", log, err)
	}
}

// R13. A commit alone costs no sync, and is durable with the next one.
func TestCommitAloneIsNotSyncedUntilSync(t *testing.T) {
	for name, sync := range map[string]func(w *wal.Writer) error{
		"Sync":  (*wal.Writer).Sync,
		"Close": (*wal.Writer).Close,
		"Save":  func(w *wal.Writer) error { return w.Save(walpb.HardState{}, entries(1, 3, 3, 10)) },
	} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t)
			must(t, w.Save(walpb.HardState{Term: 1}, entries(1, 1, 2, 10)))
			l.did()
			must(t, w.Save(walpb.HardState{Term: 1, Commit: 1}, nil))
			if ops := l.did(); len(ops) > 0 {
				t.Errorf("a commit alone did %v", ops)
			}
			must(t, sync(w))
			log, err := replay(l.Crash(crashfs.DropAll), walpb.Snapshot{})
			if err != nil || log.State.Commit != 1 {
				t.Errorf("after %s and a power cut: %v, %v", name, log, err)
			}
			// But a vote alone is.
			if name != "Close" {
				must(t, w.Save(walpb.HardState{Term: 1, Vote: 7, Commit: 1}, nil))
				log, err = replay(l.Crash(crashfs.DropAll), walpb.Snapshot{})
				if err != nil || log.State.Vote != 7 {
					t.Errorf("a vote was saved, and after a power cut it is: %v, %v", log, err)
				}
			}
		})
	}
}

// D12. etcd keeps a pointer to the hard state that it is given.
func TestCallersMayReuseWhatTheyPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		spoil := func(list []walpb.Entry) {
			for i := range list {
				for j := range list[i].Data {
					list[i].Data[j] = 0xee
				}
				list[i] = walpb.Entry{Term: 99, Index: 99}
			}
		}
		s := walpb.HardState{Term: 1}
		list := entries(1, 1, 3, 2000)
		must(t, h.w.Append(s, list, func(error) {}))
		spoil(list) // not yet written
		s.Vote, s.Term = 9, 9
		snapshot := walpb.Snapshot{Index: 3, Term: 1, ConfState: []byte{8, 1, 8, 2}}
		close(h.gate)
		must(t, h.w.SaveSnapshot(snapshot))
		snapshot.ConfState[0] = 0xee
		list = entries(1, 4, 4, 10)
		must(t, h.w.Save(walpb.HardState{Term: 1, Commit: 3}, list))
		spoil(list)
		// Only the vote changes: it is compared with what was saved, not with what the caller has
		// made of it.
		before := h.syncs
		s = walpb.HardState{Term: 1, Vote: 2, Commit: 3}
		must(t, h.w.Save(s, nil))
		if h.syncs == before {
			t.Error("a vote that changed was not synced")
		}
		f := h.Crash(crashfs.DropAll)
		must(t, h.w.Close())
		log, err := replay(f, walpb.Snapshot{})
		must(t, err)
		want := slices.Concat(entries(1, 1, 3, 2000), entries(1, 4, 4, 10))
		if text(log.Entries) != text(want) || log.State != s {
			t.Fatalf("the log holds %s, %v", text(log.Entries), log.State)
		}
		for i := range want {
			if !bytes.Equal(log.Entries[i].Data, want[i].Data) {
				t.Errorf("entry %d changed after it was saved", i+1)
			}
		}
		snapshots, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: f}))
		must(t, err)
		if last := snapshots[len(snapshots)-1]; !bytes.Equal(last.ConfState, []byte{8, 1, 8, 2}) {
			t.Errorf("the snapshot record holds %v", last.ConfState)
		}
	})
}

// The caller may reuse the metadata too.
func TestMetadataIsCopied(t *testing.T) {
	l := newLab(crashfs.New())
	metadata := []byte("meta")
	w, err := wal.Create(labDir, metadata, l.options())
	must(t, err)
	must(t, l.settle())
	copy(metadata, "XXXX")
	l.fill(t, w, 3)
	must(t, w.Close())
	log, err := replay(l.FS, walpb.Snapshot{})
	if err != nil || string(log.Metadata) != "meta" {
		t.Errorf("metadata %v, %v", log, err)
	}
}

// Nil and empty are different: in the data of an entry, the ConfState of a snapshot record, and the
// metadata.
func TestNothingAndEmptyAreKeptApart(t *testing.T) {
	for _, empty := range [][]byte{nil, {}} {
		fs := crashfs.New()
		o := &wal.Options{FS: fs, SegmentSize: 4096}
		w, err := wal.Create("/log", empty, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Save(walpb.HardState{Term: 1, Commit: 1}, []walpb.Entry{{Term: 1, Index: 1, Data: empty}, {Term: 1, Index: 2, Data: empty}}); err != nil {
			t.Fatal(err)
		}
		s := walpb.Snapshot{Index: 1, Term: 1, ConfState: empty}
		if err := w.SaveSnapshot(s); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		snapshots, err := wal.Snapshots(wal.Records("/log", 0, o))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]walpb.Snapshot{{}, s}, snapshots); diff != "" {
			t.Errorf("snapshots (-want +got):\n%s", diff)
		}
		log, err := wal.Replay(wal.Records("/log", 1, o), s)
		if err != nil {
			t.Fatal(err)
		}
		want := &wal.Log{Metadata: empty, State: walpb.HardState{Term: 1, Commit: 1}, Snapshot: s, Entries: []walpb.Entry{{Term: 1, Index: 2, Data: empty}}}
		if diff := cmp.Diff(want, log); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		report, err := wal.Check("/log", o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]walpb.Snapshot{{}, s}, report.Snapshots); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}
	}
}

// T27. 2^64-1 is an index. What is computed from it must not begin again at 0: neither the name of
// a segment, nor what may come next.
func TestTheLastIndexIsAnIndexLikeAnyOther(t *testing.T) {
	l, w := create(t)
	// This one is never committed.
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: math.MaxUint64, Term: 1}))
	last := l.fill(t, w, 3)
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 3, Term: 1}))
	must(t, w.Close())
	if log, err := replay(l.FS, walpb.Snapshot{Index: 3, Term: 1}); err != nil || text(log.Entries) != text(entries(1, 4, last, 0)) {
		t.Errorf("a snapshot of the last index is recorded; from 3 on: %v, %v", log, err)
	}

	l, w = create(t)
	at := walpb.Snapshot{Index: math.MaxUint64 - 1, Term: 1}
	must(t, w.SaveSnapshot(at))
	must(t, w.Save(state(1, at.Index), nil))
	must(t, w.Save(walpb.HardState{}, []walpb.Entry{{Index: math.MaxUint64, Term: 1}}))
	must(t, w.Save(state(2, at.Index), []walpb.Entry{{Index: math.MaxUint64, Term: 2}}))
	must(t, w.Close())
	if log, err := replay(l.FS, at); err != nil || text(log.Entries) != "2/18446744073709551615" {
		t.Errorf("the last index, written twice: %v, %v", log, err)
	}
}

// T27. After the highest index there is none: 0 does not follow it. Whatever Save takes at the end
// of all indexes, Open and Replay take.
func TestIndexesDoNotWrap(t *testing.T) {
	const end = math.MaxUint64
	for base := uint64(end - 2); base != 0; base++ {
		disk := crashfs.New()
		o := &wal.Options{FS: disk, SegmentSize: 4096}
		w, err := wal.Create(labDir, nil, o)
		must(t, err)
		must(t, w.SaveSnapshot(walpb.Snapshot{Index: base, Term: end}))
		must(t, w.Save(walpb.HardState{Term: end, Vote: end, Commit: base}, nil))
		for _, first := range []uint64{0, 1, base, base + 1} {
			for count := range uint64(4) {
				var list []walpb.Entry
				for i := range count + 1 {
					list = append(list, walpb.Entry{Term: end, Index: first + i})
				}
				err := w.Save(walpb.HardState{}, list)
				fits := first == base+1 && first != 0 && end-first >= count
				if (err == nil) != fits || err != nil && !errors.Is(err, wal.ErrInvalid) {
					t.Errorf("after %d, %d entries from %d on: %v", base, count+1, first, err)
				}
			}
		}
		must(t, w.Close())
		w, err = wal.Open(labDir, o)
		must(t, err)
		must(t, w.Close())
		log, err := replay(disk, walpb.Snapshot{Index: base, Term: end})
		if err != nil || len(log.Entries) > 0 && log.Entries[0].Index != base+1 {
			t.Errorf("after %d: %v, %v", base, log, err)
		}
	}
}

// R23. A caller may be wrong in any way: what Save does not refuse as invalid, every reader takes.
// The values are few, so that many calls are taken.
func TestWhatSaveTakesEveryReaderTakes(t *testing.T) {
	sequences := uint64(3000)
	if testing.Short() {
		sequences = 300
	}
	taken := 0
	for seed := range sequences {
		rng := rand.New(rand.NewPCG(seed, 0))
		c := &careless{rng: rng, o: &wal.Options{FS: crashfs.New(), SegmentSize: 4096, PlainEtcd: rng.IntN(3) == 0}}
		if err := c.live(); err != nil {
			t.Fatalf("seed %d: %v, after\n%q", seed, err, c.did)
		}
		taken += len(c.did)
	}
	if taken < 2*int(sequences) {
		t.Errorf("only %d calls were taken", taken)
	}
}

// careless saves what it likes.
type careless struct {
	rng *rand.Rand
	o   *wal.Options
	did []string // what was taken
}

func (c *careless) number(n int) uint64 {
	if c.rng.IntN(40) == 0 {
		return math.MaxUint64 - c.number(2)
	}
	return uint64(c.rng.IntN(n))
}

func (c *careless) state() walpb.HardState {
	return walpb.HardState{Term: c.number(4), Vote: c.number(3), Commit: c.number(9)}
}

func (c *careless) entries() (list []walpb.Entry) {
	first, term := c.number(8), c.number(4)
	for i := range uint64(c.rng.IntN(4)) {
		list = append(list, walpb.Entry{Type: walpb.EntryType(c.number(4)), Term: term, Index: first + i, Data: make([]byte, 700*c.rng.IntN(2))})
		term += uint64(c.rng.IntN(5) / 4)
	}
	return list
}

func (c *careless) confState() []byte {
	return [][]byte{nil, {}, {8, 1}, {0x0a, 1, 1}, {8}, {0x2a, 0}, []byte("none")}[c.rng.IntN(7)]
}

// live makes a log and calls it, and looks at what it left.
func (c *careless) live() error {
	w, err := wal.Create(labDir, nil, c.o)
	if err != nil {
		return err
	}
	for range 1 + c.rng.IntN(14) {
		var what string
		var err error
		switch c.rng.IntN(6) {
		case 0:
			s := walpb.Snapshot{Index: c.number(8), Term: c.number(4), ConfState: c.confState()}
			what, err = fmt.Sprint("snapshot ", s), w.SaveSnapshot(s)
		case 1:
			s := c.state()
			what, err = fmt.Sprint("state ", s), w.Save(s, nil)
		case 2:
			index := c.number(8)
			what, err = fmt.Sprint("release ", index), w.Release(index)
		case 3:
			what, err = "open again", w.Close()
			if err == nil {
				w, err = wal.Open(labDir, c.o)
			}
		default:
			s, list := walpb.HardState{}, c.entries()
			if c.rng.IntN(2) == 0 {
				s = c.state()
			}
			what, err = fmt.Sprint("save ", s, " ", text(list)), w.Save(s, list)
		}
		if err == nil {
			c.did = append(c.did, what)
		} else if !errors.Is(err, wal.ErrInvalid) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.read()
}

func (c *careless) read() error {
	w, err := wal.Open(labDir, c.o)
	if err != nil {
		return err
	}
	w.Close()
	report, err := wal.Check(labDir, c.o)
	if err != nil || report.Verdict != wal.Clean {
		return fmt.Errorf("check: %+v, %v", report, err)
	}
	snapshots, err := wal.Snapshots(wal.Records(labDir, 0, c.o))
	if err != nil || len(snapshots) == 0 {
		return fmt.Errorf("%d snapshots, %w", len(snapshots), err)
	}
	for _, s := range snapshots {
		if _, err := wal.Replay(wal.Records(labDir, s.Index, c.o), s); err != nil {
			return fmt.Errorf("replay from %d/%d: %w", s.Term, s.Index, err)
		}
	}
	return nil
}
