//go:build linux

package rig

import (
	"context"
	"errors"
	"io"
	"log"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stele-wal/stele/tools/powercut/disk"
	"golang.org/x/sys/unix"
)

// diskName is the name of the only file.
const diskName = "disk"

// serve mounts a file system that has the disk as its only file.
func serve(d *disk.Disk, dir string) (*fuse.Server, error) {
	forever := time.Hour
	return fs.Mount(dir, &root{disk: d}, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, // no fusermount needed
			FsName:            "powercut",
			Name:              "powercut",
			MaxWrite:          1 << 20,
			DisableXAttrs:     true,
			Logger:            log.New(io.Discard, "", 0),
		},
		AttrTimeout:  &forever,
		EntryTimeout: &forever,
	})
}

type root struct {
	fs.Inode
	disk *disk.Disk
}

var _ fs.NodeOnAdder = (*root)(nil)

func (r *root) OnAdd(ctx context.Context) {
	r.AddChild(diskName, r.NewPersistentInode(ctx, &file{disk: r.disk}, fs.StableAttr{}), false)
}

// file is a Disk as a file. What is written to it is written when the write returns: nothing is
// kept in the kernel's cache.
type file struct {
	fs.Inode
	disk *disk.Disk
}

var (
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeAllocater = (*file)(nil)
)

func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o600
	out.Size = uint64(f.disk.Size())
	return 0
}

func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *file) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n := f.disk.ReadAt(dest, off)
	return fuse.ReadResultData(dest[:n]), 0
}

func (f *file) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if err := f.disk.WriteAt(data, off); err != nil {
		return 0, errno(err)
	}
	return uint32(len(data)), 0
}

func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return errno(f.disk.Flush())
}

// Allocate is what the loop device makes of a discard and of a request to write zeros.
func (f *file) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) == 0 {
		return syscall.EOPNOTSUPP
	}
	f.disk.Zero(int64(off), int64(size))
	return 0
}

// errno returns what the kernel is told.
func errno(err error) syscall.Errno {
	var number syscall.Errno
	if err != nil && !errors.As(err, &number) {
		return syscall.EIO
	}
	return number
}
