//go:build linux

// Package rig shows a disk in memory to the kernel, which makes a real file system on it and mounts
// it.
//
// The disk is the only file of a FUSE file system that this process serves. A loop device makes a
// block device of the file. So what the file system writes comes back to this process, request by
// request, and so do its flushes: the loop device passes a flush on as an fsync of the file, and a
// write that must be durable on its own (FUA), which it does not know, comes as a write and a
// flush.
//
// All of it needs root, and goes away with the process: mounts belong to a mount namespace of the
// process's own, see [Isolate], and the loop device frees itself when nothing has it open any more.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stele-wal/stele/tools/powercut/disk"
	"golang.org/x/sys/unix"
)

// A FileSystem is a kind of file system, and how to make and mount one.
type FileSystem struct {
	Name    string
	Package string   // the Debian package that has mkfs
	Size    int64    // of the disk in bytes: next to the smallest that mkfs takes
	Make    []string // the command, without the device
	Options string   // of mount

	// Whole reports whether the file system takes for granted that a write is whole: of its
	// superblock, or of all that is not data of a file, which hasData tells.
	Whole func(op disk.Op, hasData bool) bool
}

// FileSystems are those that can be tested.
func FileSystems() []FileSystem {
	return []FileSystem{
		{
			Name: "ext4", Package: "e2fsprogs", Size: 48 << 20,
			Make: []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"},
			// After an error it goes on, as most systems have it, so that what comes after a failed
			// fsync can be seen.
			Options: "errors=continue",
			Whole:   within(0, 4096),
		},
		{
			Name: "xfs", Package: "xfsprogs", Size: 304 << 20,
			Make:    []string{"mkfs.xfs", "-q", "-f", "-K"},
			Options: "nouuid",
			// Whether to write a block of metadata again it decides by its first sector alone. So
			// it cannot mount a disk that has this sector and not the others; its log it reads
			// sector by sector.
			Whole: func(op disk.Op, hasData bool) bool { return !hasData && !bytes.HasPrefix(op.Data, []byte(xfsLog)) },
		},
		{
			Name: "btrfs", Package: "btrfs-progs", Size: 128 << 20,
			Make:  []string{"mkfs.btrfs", "-q", "-f", "-K", "--mixed", "-m", "single", "-d", "single"},
			Whole: within(64<<10, 4096),
		},
	}
}

// xfsLog is what each record of the log of xfs begins with.
const xfsLog = "\xfe\xed\xba\xbe"

// within returns a function that reports whether a write is to a range.
func within(off, n int64) func(disk.Op, bool) bool {
	return func(op disk.Op, _ bool) bool { return op.Off < off+n && off < op.Off+op.Len }
}

// Missing returns why the file system cannot be tested here and what to do about it; "" if it can.
func (f FileSystem) Missing() string {
	if os.Geteuid() != 0 {
		return "needs root: sudo -E go run ./tools/powercut"
	}
	if !Isolated() {
		return "no permission to mount: root lacks CAP_SYS_ADMIN, as in most containers"
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return "there is no /dev/fuse: modprobe fuse"
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "there is no /dev/loop-control: modprobe loop"
	}
	if _, err := exec.LookPath(f.Make[0]); err != nil {
		return fmt.Sprintf("there is no %s: apt-get install %s", f.Make[0], f.Package)
	}
	if !known(f.Name) && exec.Command("modprobe", f.Name).Run() != nil && !known(f.Name) {
		return "this kernel has no " + f.Name
	}
	return ""
}

// known reports whether the kernel has a file system.
func known(name string) bool {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == name {
			return true
		}
	}
	return false
}

// A Rig is a Disk that the kernel sees, and a place to mount it. It is used by one goroutine at a
// time, except for the Disk.
type Rig struct {
	Disk *disk.Disk
	kind FileSystem

	temp    string // everything below is in it
	point   string // where the disk is mounted
	server  *fuse.Server
	device  *os.File // the loop device
	mounted bool
}

// ErrNotPermitted is in the error of what the system does not let this process do, though it is
// root: mount, or use a loop device.
var ErrNotPermitted = errors.New("no permission to mount")

// notPermitted adds ErrNotPermitted to an error that is one of permissions.
func notPermitted(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %w", ErrNotPermitted, err)
	}
	return err
}

// New sets up a Rig. Close it. The error may be ErrNotPermitted.
func New(kind FileSystem) (*Rig, error) {
	temp, err := os.MkdirTemp("", "powercut-")
	if err != nil {
		return nil, err
	}
	r := &Rig{Disk: disk.New(kind.Size), kind: kind, temp: temp, point: filepath.Join(temp, "mnt")}
	if err := r.setUp(); err != nil {
		return nil, errors.Join(fmt.Errorf("set up a disk: %w", notPermitted(err)), r.Close())
	}
	return r, nil
}

func (r *Rig) setUp() (err error) {
	served := filepath.Join(r.temp, "fuse")
	for _, dir := range []string{r.point, served} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if r.server, err = serve(r.Disk, served); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(served, diskName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close() // the loop device keeps it
	r.device, err = attach(file, r.temp)
	return err
}

// Make makes a new file system and returns its image.
func (r *Rig) Make() (*disk.Image, error) {
	if err := r.load(disk.NewImage(r.kind.Size)); err != nil {
		return nil, err
	}
	args := append(r.kind.Make[1:len(r.kind.Make):len(r.kind.Make)], r.device.Name())
	if out, err := exec.Command(r.kind.Make[0], args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", r.kind.Make[0], err, strings.TrimSpace(string(out)))
	}
	if err := r.device.Sync(); err != nil {
		return nil, err
	}
	return r.Disk.Save(), nil
}

// load makes an image the content of the disk, and the kernel forget what it knows of the content
// before. Nothing is recorded until Disk.Record.
func (r *Rig) load(m *disk.Image) error {
	// A request to flush its buffers lets the kernel keep those that are in use at that
	// moment. A request to write zeros makes it drop them all.
	if err := zeroDevice(r.device, r.kind.Size); err != nil {
		return fmt.Errorf("forget the content of %s: %w", r.device.Name(), err)
	}
	r.Disk.Load(m)
	return nil
}

// Mount mounts an image. If record is given, that and what follows is recorded.
func (r *Rig) Mount(m *disk.Image, record Recording) error {
	if err := r.load(m); err != nil {
		return err
	}
	if record {
		r.Disk.Record()
	}
	return r.Remount()
}

// Recording tells Mount whether to record.
type Recording bool

// The two values of a Recording.
const (
	Quiet    Recording = false
	Recorded Recording = true
)

// Remount mounts the disk with what is on it.
func (r *Rig) Remount() error {
	if err := unix.Mount(r.device.Name(), r.point, r.kind.Name, unix.MS_NOATIME, r.kind.Options); err != nil {
		return fmt.Errorf("mount %s: %w", r.kind.Name, err)
	}
	r.mounted = true
	return nil
}

// Unmount unmounts the disk.
func (r *Rig) Unmount() error {
	if !r.mounted {
		return nil
	}
	if err := unix.Unmount(r.point, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", r.kind.Name, err)
	}
	r.mounted = false
	return nil
}

// Dir returns where the disk is mounted.
func (r *Rig) Dir() string { return r.point }

// Close takes everything down. It can be called in any state.
func (r *Rig) Close() error {
	var errs []error
	if err := r.Unmount(); err != nil {
		errs = append(errs, err, unix.Unmount(r.point, unix.MNT_DETACH))
	}
	if r.device != nil {
		errs = append(errs, r.device.Close()) // frees itself
	}
	if r.server != nil {
		if err := r.server.Unmount(); err != nil {
			errs = append(errs, err, unix.Unmount(filepath.Join(r.temp, "fuse"), unix.MNT_DETACH))
		}
	}
	if len(errs) == 0 || errors.Join(errs...) == nil {
		errs = append(errs, os.RemoveAll(r.temp))
	}
	return errors.Join(errs...)
}
