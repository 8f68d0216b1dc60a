package load

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fuzz/oracle"
)

// counter is a position that goes on with every look, as that of a disk under load does.
func counter() func() int {
	n := 0
	return func() int { n++; return n }
}

// unsyncedFS is the operating system's without syncs: nothing crashes here.
var unsyncedFS = saboteur{fileutil.OS{}, cuts{data: always, dir: true}}

// lives takes a store through some lives and returns where it is and what is owed in the end.
func lives(t *testing.T, seed uint64, n int) (dir string, owed Owed) {
	t.Helper()
	dir = t.TempDir()
	h := NewHistory(seed)
	for range n {
		marks, err := h.Live(dir, unsyncedFS, owed, 40, counter())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		owed = marks[len(marks)-1].Owed
	}
	return dir, owed
}

func TestWithoutACrashNothingIsLost(t *testing.T) {
	for seed := range uint64(12) {
		dir, owed := lives(t, seed, 3)
		if owed.acked() < 30 || owed.acked() != len(owed.model.Records) {
			t.Errorf("seed %d: %d of %d records acknowledged", seed, owed.acked(), len(owed.model.Records))
		}
		if err := Recover(dir, owed, false); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if err := Recover(dir, owed, true); err != nil {
			t.Errorf("seed %d: go on: %v", seed, err)
		}
	}
}

// TestWhatIsMissingIsSeen takes something away without the store: Recover must say so.
func TestWhatIsMissingIsSeen(t *testing.T) {
	tests := []struct {
		name string
		harm func(t *testing.T, dir string, owed *Owed)
		want []oracle.Verdict
	}{
		{"the log", func(t *testing.T, dir string, _ *Owed) { remove(t, walDir(dir)) }, []oracle.Verdict{oracle.Lost}},
		{"the snapshots", func(t *testing.T, dir string, _ *Owed) { remove(t, snapDir(dir)) }, []oracle.Verdict{oracle.Lost}},
		{"all segments but the first", func(t *testing.T, dir string, _ *Owed) {
			for _, name := range segments(t, dir)[1:] {
				remove(t, filepath.Join(walDir(dir), name))
			}
		}, []oracle.Verdict{oracle.Lost, oracle.Refused}},
		{"a byte", func(t *testing.T, dir string, _ *Owed) {
			name := filepath.Join(walDir(dir), segments(t, dir)[0])
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b[8] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []oracle.Verdict{oracle.Refused}},
		{"more was owed", func(_ *testing.T, _ string, owed *Owed) {
			owed.model.Attempt(oracle.Record{Index: 1 << 40})
			owed.model.Acked++
		}, []oracle.Verdict{oracle.Lost}},
		{"less was attempted", func(_ *testing.T, _ string, owed *Owed) {
			owed.model.Settle(len(owed.model.Records) - 1)
		}, []oracle.Verdict{oracle.Invented}},
		{"a segment had been released", func(t *testing.T, dir string, owed *Owed) {
			owed.gone = append(slices.Clone(owed.gone), segments(t, dir)[0])
		}, []oracle.Verdict{oracle.Invented}},
		{"another term was saved", func(_ *testing.T, _ string, owed *Owed) {
			owed.model.Records[len(owed.model.Records)-1].Term += 5
		}, []oracle.Verdict{oracle.Lost}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			// When segments are cut is not in the hand of the seed: the spare is made in the
			// background.
			dir, owed := lives(t, 0, 2)
			for seed := uint64(1); len(segments(t, dir)) < 3 || len(owed.files) == 0; seed++ {
				dir, owed = lives(t, seed, 2)
			}
			test.harm(t, dir, &owed)
			var f *oracle.Failure
			if err := Recover(dir, owed, false); !errors.As(err, &f) || !slices.Contains(test.want, f.Verdict) {
				t.Errorf("Recover says %v, want %v", err, test.want)
			}
		})
	}
}

func TestEveryCallIsMade(t *testing.T) {
	var bursts, snapshots, bodies, released, gone int
	for seed := range uint64(12) {
		_, owed := lives(t, seed, 3)
		for _, f := range owed.files {
			if kindOf(f.index) == value {
				snapshots++
			} else {
				bodies++
			}
		}
		if len(owed.model.Starts) > 0 {
			released++
		}
		gone += len(owed.gone)
		for _, r := range owed.model.Records {
			if r.Vote != 0 {
				bursts++
				break
			}
		}
	}
	if snapshots == 0 || bodies == 0 || released == 0 || gone == 0 || bursts == 0 {
		t.Errorf("%d snapshots, %d bodies, %d released, %d gone, %d votes", snapshots, bodies, released, gone, bursts)
	}
}

func TestWhatIsOwedDoesNotChange(t *testing.T) {
	m := &marks{position: counter(), now: created()}
	m.attempt(oracle.Record{Index: 1}, oracle.Record{Index: 2})
	m.saved(file{1, 1})
	before := m.all[len(m.all)-1].Owed
	m.attempt(oracle.Record{Index: 3})
	m.saved(file{2, 1})
	m.ack(4)
	if r := before.model.Records; len(r) != 3 || len(before.files) != 1 || before.acked() != 1 || r[2].Index != 2 {
		t.Errorf("what was owed has become %+v", before)
	}
	if got := At(m.all, 0, created()).acked(); got != 1 {
		t.Errorf("before the first mark %d are owed", got)
	}
	if got := At(m.all, 1<<30, Owed{}).acked(); got != 4 {
		t.Errorf("after the last mark %d are owed", got)
	}
}

func segments(t *testing.T, dir string) (segments []string) {
	t.Helper()
	s, err := observe(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s.Segments
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
}
