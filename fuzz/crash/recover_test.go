package crash_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/crash"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// restart is the recovery of package wal, as a program does it that knows nothing but the log.
func restart(disk *crashfs.FS, dir string) (*wal.Log, error) {
	o := &wal.Options{FS: disk}
	w, err := wal.Open(dir, o)
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	snapshots, err := wal.Snapshots(wal.Records(dir, 0, o))
	if err != nil {
		return nil, err
	}
	newest, _ := wal.Newest(snapshots)
	return wal.Replay(wal.Records(dir, newest.Index, o), newest)
}

// edited is restart, with a change to what it returns.
func edited(edit func(*wal.Log) error) crash.Recover {
	return func(disk *crashfs.FS, dir string) (*wal.Log, error) {
		l, err := restart(disk, dir)
		if err != nil {
			return nil, err
		}
		return l, edit(l)
	}
}

func TestARecoverIsJudgedByWhatItReturns(t *testing.T) {
	for _, c := range []struct {
		name    string
		recover crash.Recover
		want    oracle.Verdict
	}{
		{"package wal's", restart, ""},
		{"says no", edited(func(*wal.Log) error { return errors.New("no") }), oracle.Refused},
		{"finds nothing", func(*crashfs.FS, string) (*wal.Log, error) { return nil, fs.ErrNotExist }, oracle.Refused},
		{"forgets an entry", edited(func(l *wal.Log) error { l.Entries = l.Entries[:max(0, len(l.Entries)-1)]; return nil }), oracle.Lost},
		{"forgets everything", edited(func(l *wal.Log) error {
			l.State, l.Entries, l.Snapshot = walpb.HardState{}, nil, walpb.Snapshot{}
			return nil
		}), oracle.Lost},
		{"makes up an entry", edited(func(l *wal.Log) error {
			l.Entries = append(l.Entries, walpb.Entry{Index: l.Snapshot.Index + uint64(len(l.Entries)) + 1, Term: 1000})
			return nil
		}), oracle.Invented},
		{"takes another's metadata", edited(func(l *wal.Log) error { l.Metadata = nil; return nil }), oracle.Invented},
		{"starts from a snapshot that is not there", edited(func(l *wal.Log) error { l.Snapshot.Term += 9; return nil }), oracle.Invented},
	} {
		const states = 600
		r, err := crash.Run(crash.Config{Seed: *seed, States: states, PlainEtcd: true, Recover: c.recover})
		t.Logf("%s: %v", c.name, r)
		counts := map[oracle.Verdict]int{oracle.Refused: r.Refused, oracle.Lost: r.Lost, oracle.Invented: r.Invented}
		switch {
		case c.want == "" && (err != nil || r.Bad() > 0):
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || counts[c.want] < states/10):
			t.Errorf("%s: only %d of %d states are %s", c.name, counts[c.want], r.States, c.want)
		}
		if r.States < states {
			t.Errorf("%s: the campaign stopped after %d states", c.name, r.States)
		}
	}
}

func TestACampaignTellsHowFarItIs(t *testing.T) {
	var last crash.Result
	r, err := crash.Run(crash.Config{Seed: *seed, States: 10_000, Workers: 2, Progress: func(r crash.Result) {
		if r.States < last.States || r.Lives < last.Lives || r.Took < last.Took {
			t.Errorf("%v, and before %v", r, last)
		}
		last = r
	}})
	if err != nil {
		t.Error(err)
	}
	if last.String() != r.String() || r.States < 10_000 {
		t.Errorf("%v is told last, and returned %v", last, r)
	}
}
