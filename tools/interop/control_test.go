package interop

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

var long = flag.Bool("long", false, "run these campaigns over every bit and 20000 crashes, which takes minutes")

// controlSeed is that of the campaigns, 1 unless the flag says another.
func controlSeed() uint64 { return max(*seedFlag, 1) }

func controlConfig(t *testing.T) ControlConfig {
	t.Helper()
	if *long {
		return ControlConfig{Seed: controlSeed(), Every: 1, States: 20_000, Workers: 2}
	}
	t.Log("SHORT: one of each 256 bits, 3000 crashes; -long runs all and 20000")
	return ControlConfig{Seed: controlSeed(), Every: 256, States: 3000, Workers: 2}
}

// of returns the tally of one program.
func of(t *testing.T, tallies []Tally, by string) Tally {
	t.Helper()
	for _, tally := range tallies {
		if tally.By == by {
			return tally
		}
	}
	t.Fatalf("%s was not judged", by)
	return Tally{}
}

func TestRotThatIsSilentInEtcdIsNotInOurs(t *testing.T) {
	tallies, err := ControlRot(controlConfig(t))
	t.Logf("seed %d\n%s", controlSeed(), Tallies(tallies))
	if err != nil {
		t.Fatalf("%v\n\tto see it again: go test -run %s -seed %d", err, t.Name(), controlSeed())
	}
	if ours := of(t, tallies, "stele"); ours.Silent+ours.Lost+ours.Panics+ours.Excused > 0 || ours.Refused == 0 {
		t.Errorf("ours: %+v", ours)
	}
	if plain := of(t, tallies, "stele, etcd's bytes"); plain.Silent+plain.Panics > 0 || plain.Refused == 0 {
		t.Errorf("ours, of etcd's bytes: %+v", plain)
	}
	// A campaign that finds nothing in etcd would find nothing in ours.
	server, read := of(t, tallies, "etcd"), of(t, tallies, "etcd, ReadAll")
	if server.Silent == 0 || server.Lost == 0 || read.Silent == 0 {
		t.Errorf("etcd is not found to lose or get wrong anything: %+v, %+v", server, read)
	}
	if plain := of(t, tallies, "stele, etcd's bytes"); server.States != plain.States || read.States != plain.States {
		t.Errorf("the damage was not the same")
	}
}

func TestCrashesThatEtcdDoesNotSurviveOursDoes(t *testing.T) {
	tallies, err := ControlCrashes(controlConfig(t))
	t.Logf("seed %d\n%s", controlSeed(), Tallies(tallies))
	if err != nil {
		t.Fatalf("%v\n\tto see it again: go test -run %s -seed %d", err, t.Name(), controlSeed())
	}
	ours, theirs := of(t, tallies, "stele, etcd's bytes"), of(t, tallies, "etcd")
	if ours.Lost+ours.Refused+ours.Silent+ours.Panics > 0 || ours.States != theirs.States {
		t.Errorf("ours: %+v, of %d states", ours, theirs.States)
	}
	if theirs.Lost+theirs.Refused+theirs.Silent+theirs.Panics == 0 {
		t.Errorf("etcd survives all: %+v", theirs)
	}
}

func TestEtcdStartsFromWhatOursOpensAfterACrash(t *testing.T) {
	cfg := controlConfig(t)
	opened, err := ControlOpened(cfg)
	t.Logf("seed %d\n%s", controlSeed(), Tallies([]Tally{opened}))
	if err != nil {
		t.Fatalf("%v\n\tto see it again: go test -run %s -seed %d", err, t.Name(), controlSeed())
	}
	// A gap is rare: see TestEtcdStartsAfterEveryCrashInRelease.
	if opened.Lost+opened.Refused+opened.Silent+opened.Panics > 0 || opened.Excused > opened.States/50 || *long && opened.Gaps == 0 {
		t.Errorf("%+v", opened)
	}
}

func TestAControlLeavesNothingBehind(t *testing.T) {
	c, err := NewControl()
	if err != nil {
		t.Fatal(err)
	}
	disk := crashfs.Load(map[string][]byte{"log/x": nil, "log/sub/": nil})
	if _, _, err := c.Start(disk, "log"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a directory without a log: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", c.root, err)
	}
}
