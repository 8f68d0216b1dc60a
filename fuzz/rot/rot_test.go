package rot_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/rot"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

var (
	seed = flag.Uint64("seed", 1, "the `seed` of the campaign")
	long = flag.Bool("long", false, "do all damage, which takes minutes")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // a state is a short-lived file system of a few pages
	os.Exit(m.Run())
}

var rotted = flag.String("rot", "", "the one `fault` that the rot campaign does, as log/number")

// damaged damages logs and fails the test for each failure. In short runs it tries every nth of the
// single bits, words and lengths; -long tries all.
func damaged(t *testing.T, logs []*rot.Log, short int) rot.Result {
	t.Helper()
	cfg := rot.Config{Seed: *seed, Logs: logs, Every: short, Workers: 2}
	if *long {
		cfg.Every = 1
	} else {
		t.Logf("SHORT: one of each %d bits, words and lengths; -long tries all", short)
	}
	if log, number, ok := strings.Cut(*rotted, "/"); ok {
		var err error
		if cfg.Fault, err = strconv.Atoi(number); err != nil {
			t.Fatal(err)
		}
		cfg.Logs = named(logs, log)
	}
	r, err := rot.Run(cfg)
	if err != nil && len(r.Failures) == 0 {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Logs)) {
		t.Logf("%s: %v", name, r.Logs[name])
	}
	t.Logf("seed %d, %.1f s: %v", *seed, r.Took.Seconds(), r.Counts)
	for _, f := range r.Failures {
		longer := ""
		if *long {
			longer = " -long"
		}
		t.Errorf("%v\n\tto see it again: go test ./fuzz/rot -run %s -seed %d -rot '%s/%d'%s", &f, t.Name(), *seed, f.Log, f.Number, longer)
	}
	if err == nil && r.Failed > 0 {
		t.Errorf("%d failures", r.Failed)
	}
	if err := r.Bounds(); err != nil {
		t.Error(err)
	}
	return r
}

func named(logs []*rot.Log, name string) []*rot.Log {
	return slices.DeleteFunc(slices.Clone(logs), func(l *rot.Log) bool { return l.Name != name })
}

func rotLogs(t *testing.T) []*rot.Log {
	t.Helper()
	logs, err := rot.Logs()
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

func TestNoRotIsSilent(t *testing.T) {
	logs := rotLogs(t)
	r := damaged(t, logs, 32)
	bits := 0
	for _, l := range logs {
		bits += 8 * l.Bytes()
	}
	if *rotted == "" && (r.Flips < bits/40 || *long && r.Flips < max(bits, 262_144)) {
		t.Errorf("%v: too few, of %d bits", r.Counts, bits)
	}
}

// Real logs have no witnesses and no mark.
func TestNoRotOfEtcdsLogsIsSilent(t *testing.T) {
	names := []string{"3.4/small", "3.7/kill9"}
	if *long {
		names = append(names, "3.5/small", "3.7/small")
		names = append(names, "3.4/cut")
	}
	dirs := map[string]string{}
	for name, dir := range testlogs.Etcd(t, names...) {
		dirs[name] = filepath.Join(dir, "member", "wal")
	}
	// These commit a snapshot before they record it, or have entries before it.
	maps.Copy(dirs, testlogs.Writers(t, "etcd/3.3.20/lagged", "fabric/snapshot-and-entries", "members/backup-35"))
	var logs []*rot.Log
	for name, dir := range dirs {
		paths, err := filepath.Glob(filepath.Join(dir, "*.wal"))
		if err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, p := range paths {
			if files[filepath.Base(p)], err = os.ReadFile(p); err != nil {
				t.Fatal(err)
			}
		}
		l, err := rot.NewLog(strings.ReplaceAll(name, "/", "-"), files)
		if err != nil {
			t.Fatal(err)
		}
		l.Every = max(1, l.Bytes()/20_000) // of 3.4-cut, 120 MB, it is one of thousands
		l.Every *= l.Every
		logs = append(logs, l)
	}
	slices.SortFunc(logs, func(a, b *rot.Log) int { return strings.Compare(a.Name, b.Name) })
	damaged(t, logs, 32)
}

func TestNoRotOfASnapshotIsSilent(t *testing.T) {
	r, err := rot.Snapshots(*seed)
	t.Logf("%v", r.Counts)
	if err != nil {
		t.Errorf("seed %d: %v", *seed, err)
	}
	if err := r.Bounds(); err != nil {
		t.Error(err)
	}
}

func TestARotCampaignDependsOnItsSeedAlone(t *testing.T) {
	run := func(workers int) string {
		r, err := rot.Run(rot.Config{Seed: *seed, Logs: rotLogs(t)[:1], Every: 1000, Workers: workers})
		if err != nil {
			t.Error(err)
		}
		return r.Counts.String()
	}
	if a, b := run(1), run(3); a != b {
		t.Errorf("%v with one worker, %v with three", a, b)
	}
}

// What is bounded is what another Every, or another log, would let through.
func TestARotCampaignThatIsTooWeakOrExcusesTooMuchIsOutOfBounds(t *testing.T) {
	logs := rotLogs(t)
	good := func() rot.Result {
		r, err := rot.Run(rot.Config{Seed: *seed, Logs: logs, Every: 100, Workers: 2})
		if err == nil {
			err = r.Bounds()
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}()
	for name, spoil := range map[string]func(r *rot.Result, closed, plain *rot.Counts){
		"an excuse that a marked log does not have": func(_ *rot.Result, closed, _ *rot.Counts) {
			closed.Excused = map[rot.Excuse]int{rot.EndGone: 1}
		},
		"an excuse too often": func(_ *rot.Result, _, plain *rot.Counts) {
			plain.Excused = map[rot.Excuse]int{rot.StateAsEntry: 4}
		},
		"a loss that the mark knows of": func(_ *rot.Result, closed, _ *rot.Counts) { closed.Lost = 1 },
		"little is refused":             func(_ *rot.Result, closed, _ *rot.Counts) { closed.Refused = closed.States() / 4 },
		"few bits":                      func(r *rot.Result, _, _ *rot.Counts) { r.Flips /= 4 },
		"few sectors":                   func(r *rot.Result, _, _ *rot.Counts) { r.Sectors = 100 },
	} {
		r := good
		r.Logs = maps.Clone(good.Logs)
		closed, plain := r.Logs["closed"], r.Logs["plain"]
		spoil(&r, &closed, &plain)
		r.Logs["closed"], r.Logs["plain"] = closed, plain
		if r.Bounds() == nil {
			t.Errorf("%s is in bounds", name)
		}
	}
}

func TestARotFaultIsSeenAgainByItsNumber(t *testing.T) {
	careless := func(disk *crashfs.FS, dir string) (*wal.Log, bool, error) {
		log, err := wal.Replay(wal.Records(dir, 0, &wal.Options{FS: disk}), walpb.Snapshot{})
		if log == nil {
			return nil, false, err
		}
		return log, false, nil
	}
	log := *named(rotLogs(t), "closed")[0]
	log.Every = 7
	cfg := rot.Config{Seed: *seed, Logs: []*rot.Log{&log}, Every: 500, Recover: careless}
	r, err := rot.Run(cfg)
	if err == nil {
		t.Fatalf("not caught: %v", r)
	}
	log.Every = 0
	for _, every := range []int{1, 500, 100_000} {
		cfg.Fault, cfg.Every = r.Failures[0].Number, every
		again, err := rot.Run(cfg)
		if again.States() != 1 || err == nil || err.Error() != r.Failures[0].Error() {
			t.Errorf("one of %d: %v, and then %v of %d states", every, &r.Failures[0], err, again.States())
		}
	}
	cfg.Fault = 1 << 40
	if r, err := rot.Run(cfg); err == nil {
		t.Errorf("a fault that is not there: %v", r)
	}
	cfg.Fault, cfg.Logs = 1, named(rotLogs(t), "no such log")
	if r, err := rot.Run(cfg); err == nil {
		t.Errorf("a log that is not there: %v", r)
	}
}

// A campaign that finds nothing in what follows would find nothing in the log.
func TestARotCampaignFindsACarelessReader(t *testing.T) {
	logs := rotLogs(t)
	replay := func(disk *crashfs.FS, dir string) (*wal.Log, error) {
		return wal.Replay(wal.Records(dir, 0, &wal.Options{FS: disk}), walpb.Snapshot{})
	}
	careful := func(disk *crashfs.FS, dir string) (*wal.Log, bool, error) {
		report, err := wal.Check(dir, &wal.Options{FS: disk})
		if err != nil {
			return nil, false, err
		}
		l, err := replay(disk, dir)
		return l, report.Verdict != wal.Clean, err
	}
	for _, c := range []struct {
		name    string
		log     string
		recover rot.Recover
		finds   func(c rot.Counts) (found, all int)
	}{
		{"careful", "closed", careful, func(c rot.Counts) (int, int) { return c.Same + c.Reported + c.Refused, c.States() }},
		{"does not say that the end is torn", "closed, unmarked", func(disk *crashfs.FS, dir string) (*wal.Log, bool, error) {
			l, err := replay(disk, dir)
			return l, false, err
		}, func(c rot.Counts) (int, int) { return c.Silent, 10 }},
		{"takes any damage for a torn end", "closed", func(disk *crashfs.FS, dir string) (*wal.Log, bool, error) {
			l, err := replay(disk, dir)
			if l == nil {
				return nil, false, err
			}
			return l, err != nil, nil
		}, func(c rot.Counts) (int, int) { return c.Lost, 500 }},
		{"says nothing of any damage", "closed", func(disk *crashfs.FS, dir string) (*wal.Log, bool, error) {
			l, err := replay(disk, dir)
			if l == nil {
				return nil, false, err
			}
			return l, false, nil
		}, func(c rot.Counts) (int, int) { return c.Silent, 500 }},
		{"panics", "closed", func(disk *crashfs.FS, dir string) (*wal.Log, bool, error) {
			l, said, err := careful(disk, dir)
			if err != nil {
				err = fmt.Errorf("%w: index out of range", rot.ErrPanicked)
			}
			return l, said, err
		}, func(c rot.Counts) (int, int) { return c.Panicked, 500 }},
	} {
		r, err := rot.Run(rot.Config{Seed: *seed, Logs: named(logs, c.log), Every: 1000, Recover: c.recover})
		found, want := c.finds(r.Counts)
		t.Logf("%s: %v", c.name, r.Counts)
		if r.States() == 0 || found < want || (r.Silent+r.Panicked > 0) != (err != nil) {
			t.Errorf("%s: %v, %d found, want %d at the least", c.name, err, found, want)
		}
	}
}

func TestARotCampaignIsOfLogsThatAreGood(t *testing.T) {
	ours, plain, err := rot.Pair()
	if err != nil {
		t.Fatal(err)
	}
	no := func(*crashfs.FS, string) (*wal.Log, bool, error) { return nil, false, errors.New("no") }
	if r, err := rot.Run(rot.Config{Logs: []*rot.Log{ours, plain}, Recover: no}); err == nil || r.States() > 0 {
		t.Errorf("%v, %v of a program that reads nothing", r, err)
	}
	disk := crashfs.New()
	w, err := wal.Create("log", nil, &wal.Options{FS: disk, SegmentSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, b := range disk.Tree() {
		if base, ok := strings.CutPrefix(name, "log/"); ok && base != "" {
			files[base] = b
		}
	}
	if _, err := rot.NewLog("good", files); err != nil {
		t.Error(err)
	}
	files["0000000000000000-0000000000000000.wal"][9] ^= 1
	if _, err := rot.NewLog("bad", files); err == nil {
		t.Error("a log was taken for good that is not")
	}
}
