package history

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stele-wal/stele/walpb"
	"pgregory.net/rapid"
)

// What the Writer writes, readers believe; and what it refuses, they would not believe either, as
// far as they can tell: where a snapshot record may have replaced the log they take entries for
// either.
func TestBothSidesRefuseTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h History
		h.TakeSnapshot(walpb.Snapshot{})
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			var entries []walpb.Entry
			first, count := rapid.Uint64Range(0, 6).Draw(t, "first"), rapid.IntRange(0, 3).Draw(t, "count")
			for i := range count {
				entries = append(entries, walpb.Entry{Index: first + uint64(i)*rapid.SampledFrom([]uint64{1, 1, 1, 2}).Draw(t, "stride"), Term: rapid.Uint64Range(0, 3).Draw(t, "term")})
			}
			var state walpb.HardState
			if rapid.Bool().Draw(t, "state") {
				state = walpb.HardState{Term: rapid.Uint64Range(0, 3).Draw(t, "term"), Commit: rapid.Uint64Range(0, 5).Draw(t, "commit")}
			}
			if rapid.IntRange(0, 4).Draw(t, "snap") == 0 {
				_ = h.Snapshot(walpb.Snapshot{Index: rapid.Uint64Range(0, 6).Draw(t, "index"), Term: rapid.Uint64Range(0, 3).Draw(t, "term")})
			}
			refused := h.Admits(state, entries)
			reader := clone(h)
			var disbelieved error // by a reader
			for i, e := range entries {
				if i > 0 && e.Index != entries[i-1].Index+1 {
					// Save does not take them, and a reader cannot see that they are of one call.
					disbelieved = errors.New("two calls' worth of entries")
				}
				disbelieved = cmpErr(disbelieved, reader.Entry(e))
			}
			if !state.IsZero() {
				disbelieved = cmpErr(disbelieved, reader.HardState(state))
			}
			disbelieved = cmpErr(disbelieved, reader.Owes())
			if refused == nil && disbelieved != nil || refused != nil && disbelieved == nil && h.pending == nil {
				t.Fatalf("%+v: writing %v %v: the writer says %v, the reader %v", h, state, entries, refused, disbelieved)
			}
			if refused != nil {
				continue
			}
			// What was admitted is taken, and comes to the same on both sides.
			h.Take(state, entries)
			if diff := cmp.Diff(reader, h, cmp.AllowUnexported(History{}, line{}, run{}, install{}), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("(-reader +writer):\n%s", diff)
			}
		}
	})
}

// Entries that begin at or below a snapshot that waits for its commit end the log after it too,
// from the first on that follows on it. The Writer let them come with a commit beyond both logs'
// ends, and no reader would have taken that.
func TestACommitBeyondBothLogsIsRefused(t *testing.T) {
	var h History
	h.TakeSnapshot(walpb.Snapshot{})
	for _, e := range []walpb.Entry{{Index: 1, Term: 1}, {Index: 2, Term: 1}, {Index: 3, Term: 1}} {
		if err := h.Entry(e); err != nil {
			t.Fatal(err)
		}
	}
	// Another entry than the one that the log holds.
	h.TakeSnapshot(walpb.Snapshot{Index: 1, Term: 0})
	for _, e := range []walpb.Entry{{Index: 2, Term: 1}, {Index: 3, Term: 1}} {
		if err := h.Entry(e); err != nil {
			t.Fatal(err)
		}
	}
	entries := []walpb.Entry{{Index: 1, Term: 1}, {Index: 2, Term: 1}}
	if err := h.Admits(walpb.HardState{Term: 1, Commit: 3}, entries); err == nil {
		t.Error("a commit of 3 was admitted, where both logs end with 2")
	}
	if err := h.Admits(walpb.HardState{Term: 1}, entries); err != nil {
		t.Error(err)
	}
}

// A commit that reaches a snapshot that waits for it replaces a log that has another entry there.
// Then it must not be beyond the log that follows the snapshot, even if it was not beyond the log
// before: the Writer would be stuck, and so would every reader.
func TestACommitBeyondTheLogThatItInstallsIsRefused(t *testing.T) {
	var h History
	h.TakeSnapshot(walpb.Snapshot{})
	for i := range uint64(5) {
		if err := h.Entry(walpb.Entry{Index: 1 + i, Term: 4}); err != nil {
			t.Fatal(err)
		}
	}
	h.TakeSnapshot(walpb.Snapshot{Index: 3, Term: 5})
	if err := h.Admits(walpb.HardState{Term: 5, Commit: 5}, nil); err == nil {
		t.Error("a commit of 5 was admitted, which would leave a log that ends with 3")
	}
	if err := h.Admits(walpb.HardState{Term: 5, Commit: 5}, []walpb.Entry{{Index: 4, Term: 5}, {Index: 5, Term: 5}}); err != nil {
		t.Error(err) // both logs have 5
	}
	if err := h.Admits(walpb.HardState{Term: 5, Commit: 2}, nil); err != nil {
		t.Error(err)
	}
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func clone(h History) History {
	h.line.runs = slices.Clone(h.line.runs)
	if h.pending != nil {
		p := *h.pending
		p.line.runs = slices.Clone(p.line.runs)
		h.pending = &p
	}
	return h
}
