package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var life = flag.Duration("life", 10*time.Second, "for how long a cluster of processes is to live through everything")

// roomy gives each founder a file system of its own, which can be filled. It reports whether it
// could.
func (w *world) roomy() bool {
	if os.Geteuid() != 0 {
		return false
	}
	for _, name := range w.founders() {
		m := w.members[name]
		if err := os.MkdirAll(m.dir, 0o700); err != nil {
			w.t.Fatal(err)
		}
		if err := unix.Mount("none", m.dir, "tmpfs", 0, "size=64m"); err != nil {
			w.t.Logf("no file system can be mounted here: %v", err)
			return false
		}
		w.t.Cleanup(func() {
			_ = m.end(syscall.SIGKILL)
			if err := unix.Unmount(m.dir, 0); err != nil {
				w.t.Error(err)
			}
		})
	}
	return true
}

// fullDisk is the misfortune of a member that can write no more: it ends on its own, the others go
// on, and it comes back once there is room.
func fullDisk(name, says string, fill func(w *world, m *testMember) (empty func())) misfortune {
	return misfortune{name, func(w *world) func() {
		m := w.members[w.victim()]
		empty := fill(w, m)
		said := len(m.log.String())
		if err := w.ends(m.name); err == nil {
			w.t.Errorf("%s cannot write, and ended as if nothing was wrong", m.name)
		}
		if !strings.Contains(m.log.String()[said:], says) {
			w.t.Errorf("%s does not say %q:\n%s", m.name, says, tail(m.log.String(), 1000))
		}
		w.leads(w.running()...)
		w.outcomes(50)
		return func() {
			empty()
			w.start(m.name)
			w.caughtUp(m.name)
		}
	}}
}

var (
	fullFileSystem = fullDisk("a full file system", unix.ENOSPC.Error(), func(w *world, m *testMember) func() {
		ballast := filepath.Join(m.dir, "ballast")
		if err := os.WriteFile(ballast, make([]byte, 128<<20), 0o600); err == nil {
			w.t.Error("it was not filled")
		}
		return func() {
			if err := os.Remove(ballast); err != nil {
				w.t.Error(err)
			}
		}
	})
	fullFiles = fullDisk("a limit on the size of files", unix.EFBIG.Error(), func(w *world, m *testMember) func() {
		limit := unix.Rlimit{Cur: 4096, Max: 4096}
		if err := unix.Prlimit(m.cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
			w.t.Error(err)
		}
		return func() {} // the limit was the process's
	})
)

// A long life, in epochs. Each has misfortunes, keys and a history of its own, since what is open
// in one history would be so for ever, and after each all members hold the same. In the end the
// keys of all epochs are read once more: nothing was lost since.
func TestAClusterLivesThroughKillsPartitionsFullDisksAndReplacements(t *testing.T) {
	first := firstSeed(t)
	w := newWorld(t, first, 3)
	w.net = newMesh(w.testCluster)
	all := slices.Concat(deaths, partitions, joins, joins, []misfortune{fullFiles})
	if w.roomy() {
		all = append(all, fullFileSystem)
	} else {
		t.Log("SKIPPED: full file systems: not root, which alone can mount small ones")
	}
	w.start()
	w.leads(w.founders()...)
	w.settle()
	const each = 4
	var (
		past       []*history
		deck       []misfortune
		met, known = map[string]int{}, 0
		rng        = rand.New(rand.NewPCG(first, 2))
	)
	for end := time.Now().Add(*life); len(past) == 0 || time.Now().Before(end); {
		for len(deck) < each {
			more := slices.Clone(all)
			rng.Shuffle(len(more), func(i, j int) { more[i], more[j] = more[j], more[i] })
			deck = append(deck, more...)
		}
		w.history = &history{began: time.Now(), prefix: fmt.Sprintf("epoch%d/", len(past))}
		w.endure(deck[:each])
		w.same()
		past = append(past, w.history)
		known += w.history.outcomes()
		for _, m := range deck[:each] {
			met[m.name]++
		}
		deck = deck[each:]
		if t.Failed() {
			break
		}
	}
	for _, h := range past {
		w.readAll(h, w.leads(w.founders()...))
	}
	w.agree()
	for _, h := range past {
		check(t, h)
	}
	t.Logf("%d epochs, %d operations with a known outcome, misfortunes: %v", len(past), known, met)
}
