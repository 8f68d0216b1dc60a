//go:build linux

package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loopMajor is the device number that loop devices have.
const loopMajor = 7

// attach makes a block device of a file and returns it. When it is closed and not mounted it is
// free again.
func attach(file *os.File, temp string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	const attempts = 50 // others take loop devices too
	for range attempts {
		var n int
		if n, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		var device *os.File
		if device, err = openLoop(n, temp); err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: 512, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:], "powercut")
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return nil, fmt.Errorf("attach a loop device: %w", err)
}

// openLoop opens a loop device, under a name of its own where there is none.
func openLoop(n int, temp string) (*os.File, error) {
	device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return device, err
	}
	name := filepath.Join(temp, fmt.Sprintf("loop%d", n))
	if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.OpenFile(name, os.O_RDWR, 0)
}

// zeroDevice makes a block device zero, and the kernel forget what it knows of it.
func zeroDevice(device *os.File, size int64) error {
	extent := [2]uint64{0, uint64(size)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&extent))); errno != 0 {
		return errno
	}
	return nil
}
