package crashfs_test

import "golang.org/x/sys/unix"

func mountSmall(dir string) error   { return unix.Mount("none", dir, "tmpfs", 0, "size=64k") }
func unmountSmall(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }
