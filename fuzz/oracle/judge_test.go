package oracle

import (
	"errors"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// written returns a log, and the model of it: everything in it was acknowledged.
func written(t *testing.T) (*crashfs.FS, *Model) {
	t.Helper()
	disk, m, s := crashfs.New(), NewModel(), Source{}
	w, err := wal.Create("log", Metadata, &wal.Options{FS: disk, SegmentSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	state := walpb.HardState{Term: 1, Vote: 1}
	for i := uint64(1); i <= 20; i++ {
		e := s.Entry(i, 1, 2048)
		if IsOwn(e.Type) {
			e.Type = walpb.EntryNormal
		}
		state.Commit = i - 1
		if err := w.Save(state, []walpb.Entry{e}); err != nil {
			t.Fatal(err)
		}
		m.Attempt(EntryRecord(e))
		m.Attempt(StateRecord(state))
	}
	of := walpb.Snapshot{Index: 10, Term: 1, ConfState: ConfState(10)}
	if err := errors.Join(w.SaveSnapshot(of), w.Close()); err != nil {
		t.Fatal(err)
	}
	m.Attempt(SnapshotRecord(of))
	m.Settle(len(m.Records))
	return disk, m
}

func TestWhatIsWrongIsJudged(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(m *Model, s *Seen)
		want Verdict
	}{
		{"nothing", func(*Model, *Seen) {}, ""},
		{"a record is missing at the end", func(_ *Model, s *Seen) { s.Records = s.Records[:len(s.Records)-1] }, Lost},
		{"a record that was acknowledged is another", func(_ *Model, s *Seen) { s.Records[5].Term++ }, Lost},
		{"a record that was not acknowledged is another", func(m *Model, s *Seen) { m.Acked = 5; s.Records[5].Term++ }, Invented},
		{"a record was never attempted", func(m *Model, s *Seen) { m.Settle(len(m.Records) - 1) }, Invented},
		{"a segment has come back", func(m *Model, s *Seen) { m.Gone[s.First] = true }, Invented},
		{"the log begins later", func(_ *Model, s *Seen) { s.First = "0000000000000001-0000000000000005.wal" }, Lost},
		{"a snapshot is not listed", func(_ *Model, s *Seen) { s.Snapshots = s.Snapshots[:1] }, Invented},
		{"an entry is not replayed", func(_ *Model, s *Seen) { s.logs[0].Entries = s.logs[0].Entries[1:] }, Lost},
		{"another entry is replayed", func(_ *Model, s *Seen) { s.logs[0].Entries[3].Term++ }, Invented},
		{"another hard state is replayed", func(_ *Model, s *Seen) { s.Log.State.Vote++ }, Invented},
		{"the metadata is another's", func(_ *Model, s *Seen) { s.Log.Metadata = nil }, Lost},
	} {
		disk, m := written(t)
		s, err := Observe(disk, "log", AsARestart)
		if err != nil {
			t.Fatal(err)
		}
		test.harm(m, s)
		err = m.Judge(s)
		var f *Failure
		if got := errors.As(err, &f); got != (test.want != "") || got && f.Verdict != test.want {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestMeaningIsThatOfReplay(t *testing.T) {
	disk, m := written(t)
	s, err := Observe(disk, "log", ItsMeaning)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Judge(s); err != nil {
		t.Fatal(err)
	}
	if want := Fold(m.Records); !want.Is(s.Log) || m.JudgeLog(s.Log) != nil || m.JudgeRecovered(s.Log, s) != nil {
		t.Errorf("%+v is not what Replay gives", want)
	}
	s.Log.Entries = s.Log.Entries[:3]
	if want := Fold(m.Records); want.Is(s.Log) || m.JudgeLog(s.Log) == nil || m.JudgeRecovered(s.Log, s) == nil {
		t.Error("a log without its last entries is taken for whole")
	}
}
