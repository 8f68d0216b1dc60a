//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/tools/powercut/rig"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(memberDir); dir != "" {
		os.Exit(member(dir, os.Stdout, os.Stderr))
	}
	if args := os.Getenv(mainArgs); args != "" {
		os.Unsetenv(mainArgs)
		os.Args = append(os.Args[:1], strings.Fields(args)...)
		main()
	}
	if os.Geteuid() == 0 && !rig.Isolated() {
		code, err := rig.Isolate()
		// Without permission, tests are skipped.
		if err != nil && !errors.Is(err, rig.ErrNotPermitted) {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if err == nil || code != 0 {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// powercut runs the program and returns what it prints.
func powercut(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, complaints bytes.Buffer
	a := &app{stdout: &out, stderr: &complaints, progress: &progress{out: &complaints}}
	code = a.run(t.Context(), args)
	return code, out.String(), complaints.String()
}

// mainArgs are, in the environment of the test, the arguments of the program that it is to be.
const mainArgs = "POWERCUT_TEST_MAIN"

// Root of a container is root that may not mount. What needs no mount is tested there, and the rest
// is no failure.
func TestRootThatMayNotMountSkipsWhatNeedsAMount(t *testing.T) {
	for _, kind := range rig.FileSystems() {
		present(t, kind.Name)
	}
	for _, c := range []struct{ name, env string }{
		{"no namespace", "POWERCUT_ISOLATED="},
		{"a namespace, and no mount in it", "POWERCUT_ISOLATED=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			var out, complaints bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &complaints
			cmd.Env = append(os.Environ(), mainArgs+"=-cuts 3 -fsync 1 -kills 1", c.env)
			if err := withoutMounts(cmd); err != nil {
				t.Fatalf("%v\n%s%s", err, &out, &complaints)
			}
			if n := strings.Count(out.String(), "SKIPPED, nothing was tested: "); n != 6 {
				t.Errorf("%d of 6 stages are skipped:\n%s", n, &out)
			}
			last := lastLine(out.String())
			if !strings.Contains(out.String(), "kill             1 states") || !strings.Contains(last, "no permission to mount") {
				t.Errorf("%s%s", &out, &complaints)
			}
		})
	}
}

// withoutMounts runs a command that cannot get the capability to mount.
func withoutMounts(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks it: the thread ends with the goroutine
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err != nil {
			done <- err
			return
		}
		done <- cmd.Run()
	}()
	return <-done
}

// lastLine returns the last line of what was printed.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// present skips a test of a file system that cannot be tested here.
func present(t *testing.T, name string) {
	t.Helper()
	for _, kind := range rig.FileSystems() {
		if why := kind.Missing(); kind.Name == name && why != "" {
			t.Skipf("SKIPPED, %s was not tested: %s", name, why)
		}
	}
}

var fileSystems = []string{"ext4", "xfs", "btrfs"}

func TestNoPowerCutLosesAnything(t *testing.T) {
	for _, name := range fileSystems {
		t.Run(name, func(t *testing.T) {
			present(t, name)
			code, out, complaints := powercut(t, "-fs", name, "-cuts", "30", "-fsync", "0", "-kills", "0")
			if code != exitHeld || !strings.Contains(out, "   30 states") {
				t.Errorf("exit code %d\n%s%s", code, out, complaints)
			}
			t.Log(out)
		})
	}
}

func TestWhatIsAcknowledgedAfterAFailedSyncSurvivesAPowerCut(t *testing.T) {
	for _, name := range fileSystems {
		t.Run(name, func(t *testing.T) {
			present(t, name)
			code, out, complaints := powercut(t, "-fs", name, "-cuts", "0", "-fsync", "4", "-kills", "0")
			if code != exitHeld || !strings.Contains(out, "write: went on") || strings.Contains(out, "unhurt") {
				t.Errorf("exit code %d\n%s%s", code, out, complaints)
			}
			t.Log(out)
		})
	}
}

func TestNoKillLosesAnything(t *testing.T) {
	code, out, complaints := powercut(t, "-cuts", "0", "-fsync", "0", "-kills", "10")
	if code != exitHeld || !strings.Contains(out, "   10 states") || strings.Contains(out, "(0 entries") {
		t.Errorf("exit code %d\n%s%s", code, out, complaints)
	}
	t.Log(out)
}

func TestAKillBeforeTheStoreIsOpenIsNoFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	life, err := runMember(t.Context(), dir, true, 0)
	if err != nil || life.opened {
		t.Fatalf("opened %v, %v", life.opened, err)
	}
	if life, err = runMember(t.Context(), dir, false, 0); err != nil || !life.opened {
		t.Fatalf("the next: opened %v, %v", life.opened, err)
	}
	if err := os.WriteFile(dir+"2", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runMember(t.Context(), dir+"2", true, time.Hour); !errors.As(err, new(*oracle.Failure)) {
		t.Errorf("a process that could not open its store: %v", err)
	}
}

// TestEverySaboteurIsCaught is why a count of zero means something.
func TestEverySaboteurIsCaught(t *testing.T) {
	present(t, "ext4")
	code, out, complaints := powercut(t, "-fs", "ext4", "-cuts", "240", "-fsync", "4", "-saboteur", "all")
	if code != exitHeld || strings.Contains(out, "NOT CAUGHT") {
		t.Errorf("exit code %d\n%s", code, complaints)
	}
	t.Log(out)
}

func TestASaboteurThatDoesNoHarmIsAFailure(t *testing.T) {
	present(t, "ext4")
	code, out, _ := powercut(t, "-fs", "ext4", "-cuts", "1", "-seed", "3", "-saboteur", "nodirsync")
	if code != exitBroken || !strings.Contains(lastLine(out), "NOT CAUGHT") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestWhatCannotBeTestedIsSaidOnTheLastLine(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, progress: &progress{out: &out}, cuts: 3, failures: 1, kills: 1, seed: 1}
	a.kinds = []rig.FileSystem{{Name: "zfs", Package: "zfsutils", Make: []string{"mkfs.of-which-there-is-none"}}}
	code := a.prove(t.Context())
	last := lastLine(out.String())
	if code != exitHeld || !strings.Contains(last, "SKIPPED") || !strings.Contains(last, "power zfs") || !strings.Contains(last, "fsync zfs") {
		t.Errorf("exit code %d, last line %q", code, last)
	}
	if rig.Isolated() && !strings.Contains(last, "apt-get install zfsutils") {
		t.Errorf("the last line does not say how to get it: %q", last)
	}
}

func TestEachStageIsAnObjectWithJSON(t *testing.T) {
	code, out, complaints := powercut(t, "-json", "-cuts", "0", "-fsync", "0", "-kills", "1")
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitHeld {
		t.Fatalf("exit code %d, %v:\n%s%s", code, err, out, complaints)
	}
	for _, key := range []string{"stage", "states", "seconds", "lost", "refused", "silent"} {
		if _, ok := got[key]; !ok {
			t.Errorf("no %q in %s", key, out)
		}
	}
}

func TestAStopIsNoSuccess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, progress: &progress{out: &out}}
	if code := a.run(ctx, nil); code != exitBroken {
		t.Errorf("exit code %d\n%s", code, &out)
	}
}

func TestAWrongCommandLineIsRefused(t *testing.T) {
	for _, args := range [][]string{{"-fs", "fat"}, {"-saboteur", "none"}, {"-nonsense"}} {
		if code, _, _ := powercut(t, args...); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}
