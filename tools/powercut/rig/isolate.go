//go:build linux

package rig

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// isolated is set in the environment of a process that has a mount namespace of its own.
const isolated = "POWERCUT_ISOLATED"

// Isolated reports whether this process was started by Isolate.
func Isolated() bool { return os.Getenv(isolated) != "" }

// Isolate runs this program again, with the same arguments, in a mount namespace of its own, and
// returns its exit code: no other process sees what it mounts, and that is gone with the process.
// The process is asked to end by SIGTERM when this one ends, and by the signals that ask this one
// to. It is not killed: a thread that is killed while it waits for the disk, which the same process
// serves, keeps waiting, and with it the loop device, until the connection is aborted in
// /sys/fs/fuse/connections.
//
// The error is ErrNotPermitted where root may have no such namespace, as in most containers.
func Isolate() (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	runtime.LockOSThread() // the process is asked to end when the thread that started it ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM, Setpgid: true}
	asked := make(chan os.Signal, 2)
	signal.Notify(asked, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(asked)
	if err := cmd.Start(); err != nil {
		return 0, notPermitted(err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-asked:
				cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}
