package interop

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/crash"
	"github.com/stele-wal/stele/fuzz/rot"
	"github.com/stele-wal/stele/wal"
)

// A Tally is what one program made of the states of one campaign.
type Tally struct {
	Stage   string  `json:"stage"` // "rot", "model" or "opened"
	By      string  `json:"by"`    // the program
	States  int     `json:"states"`
	Seconds float64 `json:"seconds"`

	// Of a crash alone all four have to be 0. Of rot Refused is what is right of most states, and
	// Lost is what was cut off as a torn tail and had been saved.
	Lost    int `json:"lost"`
	Refused int `json:"refused"`
	// Of rot: other content than was saved, or less, and nothing said. Of a crash: what was never
	// there.
	Silent int `json:"silent"`
	Panics int `json:"panics"`

	// Of rot: same content, nothing said; said to be torn, nothing lost; and what FORMAT.md says
	// that no reader of such a log can see.
	Same    int `json:"same"`
	Torn    int `json:"torn"`
	Excused int `json:"excused"`

	Gaps int `json:"gaps"` // of crashes: in how many states segments were missing between others
}

// ControlConfig says what to do in a comparison. Its zero fields are defaults.
type ControlConfig struct {
	Seed    uint64
	Every   int // of rot: see rot.Config. The default is 64
	States  int // of crashes, for each program. The default is 2000
	Workers int // see rot.Config
}

func (c ControlConfig) withDefaults() ControlConfig {
	if c.Every <= 0 {
		c.Every = 64
	}
	if c.States <= 0 {
		c.States = 2000
	}
	return c
}

// ControlRot does the same damage to the same content as ours and as etcd's bytes, and counts what
// is made of it by package wal, of the first and of the second; and of the second by etcd's
// package, when it starts as a server does and when it reads all. The error is a failure of package
// wal, or that etcd does not read the log before it is damaged; what etcd makes of damage is none.
func ControlRot(cfg ControlConfig) ([]Tally, error) {
	cfg = cfg.withDefaults()
	control, err := NewControl()
	if err != nil {
		return nil, err
	}
	defer control.Close()
	ours, plain, err := rot.Pair()
	if err != nil {
		return nil, err
	}
	var tallies []Tally
	for _, p := range []struct {
		by   string
		log  *rot.Log
		open rot.Recover
	}{
		{"stele", ours, nil},
		{"stele, etcd's bytes", plain, nil},
		{"etcd", plain, control.Start},
		{"etcd, ReadAll", plain, control.Read},
	} {
		r, err := rot.Run(rot.Config{Seed: cfg.Seed, Logs: []*rot.Log{p.log}, Every: cfg.Every, Workers: cfg.Workers, Recover: p.open})
		var failure *rot.Failure
		if err != nil && (p.open == nil || !errors.As(err, &failure)) {
			return tallies, err
		}
		t := Tally{Stage: "rot", By: p.by, States: r.States(), Seconds: r.Took.Seconds(),
			Lost: r.Lost, Refused: r.Refused, Silent: r.Silent, Panics: r.Panicked, Same: r.Same, Torn: r.Reported - r.Lost}
		for _, n := range r.Excused {
			t.Excused += n
		}
		tallies = append(tallies, t)
	}
	return tallies, nil
}

// ControlCrashes has package wal and etcd's open the same states that crashes left of logs with
// etcd's bytes. The histories are those of crash.Run; the states of etcd's column may be more than
// were asked for, as there. The error is a failure of package wal; what etcd makes of a crash is
// none.
func ControlCrashes(cfg ControlConfig) ([]Tally, error) {
	cfg = cfg.withDefaults()
	control, err := NewControl()
	if err != nil {
		return nil, err
	}
	defer control.Close()
	var tallies []Tally
	for _, p := range []struct {
		by   string
		open crash.Recover
	}{{"stele, etcd's bytes", restart}, {"etcd", control.Crashed}} {
		r, err := crash.Run(crash.Config{Seed: cfg.Seed, States: cfg.States, PlainEtcd: true, Workers: cfg.Workers, Recover: p.open})
		tallies = append(tallies, Tally{Stage: "model", By: p.by, States: r.States, Seconds: r.Took.Seconds(),
			Lost: r.Lost, Refused: r.Refused - control.Panics(), Silent: r.Invented, Panics: control.Panics()})
		if err != nil && p.by != "etcd" {
			return tallies, err
		}
	}
	return tallies, nil
}

// ControlOpened has package wal open the states that crashes left of its logs, in a Release and
// elsewhere, and then etcd start from what that leaves. etcd has to take the directory, and to read
// in it what ours reads; but for entries that were overwritten at or below the snapshot that it
// starts from, which etcd brings back: see [EtcdWould]. The error is the first state in which it
// does not.
func ControlOpened(cfg ControlConfig) (Tally, error) {
	cfg = cfg.withDefaults()
	control, err := NewControl()
	if err != nil {
		return Tally{}, err
	}
	defer control.Close()
	r, err := crash.Run(crash.Config{Seed: cfg.Seed, States: cfg.States, SegmentSize: openedSegment, Workers: cfg.Workers, Recover: control.Opened})
	return Tally{Stage: "opened", By: "stele, then etcd", States: r.States, Seconds: r.Took.Seconds(),
		Lost: r.Lost, Refused: r.Refused - control.Panics(), Silent: r.Invented, Panics: control.Panics(), Excused: int(control.excused.Load()), Gaps: int(control.gaps.Load())}, err
}

// openedSegment is as small as can be, so that a Release has many segments to remove.
const openedSegment = 4 << 10

// restart opens a log with package wal, in the steps of a program that knows nothing but the log.
func restart(disk *crashfs.FS, dir string) (*wal.Log, error) {
	o := &wal.Options{FS: disk, PlainEtcd: true, SegmentSize: controlSegment}
	w, err := wal.Open(dir, o)
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return replayNewest(dir, o)
}

// replayNewest replays a log from the newest snapshot that it can be replayed from.
func replayNewest(dir string, o *wal.Options) (*wal.Log, error) {
	snapshots, err := wal.Snapshots(wal.Records(dir, 0, o))
	if err != nil {
		return nil, err
	}
	newest, ok := wal.Newest(snapshots)
	if !ok {
		return nil, fmt.Errorf("no usable snapshot record: %w", fs.ErrInvalid)
	}
	return wal.Replay(wal.Records(dir, newest.Index, o), newest)
}

// Tallies puts tallies below each other, one in a line.
func Tallies(tallies []Tally) string {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "stage\tby\tstates\tseconds\tsame\ttorn\trefused\tlost\tsilent\tpanics\tnot to be seen\tgaps")
	for _, t := range tallies {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", t.Stage, t.By, t.States, t.Seconds, t.Same, t.Torn, t.Refused, t.Lost, t.Silent, t.Panics, t.Excused, t.Gaps)
	}
	w.Flush()
	return s.String()
}
