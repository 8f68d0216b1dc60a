package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

func restoreCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a member of a new cluster from a saved snapshot",
		Long: "Restore makes the data directory of one member of a new cluster, which starts with the keys in FILE, as etcdctl snapshot save\n" +
			"wrote it from a raftkv. Run it once for each member, with the same file and the flags that raftkv serve will be given.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := environment(cmd.Flags(), os.Environ()); err != nil {
				return err
			}
			if err := o.checkValues(); err != nil {
				return err
			}
			return restore(args[0], &o)
		},
	}
	o.register(c.Flags())
	return c
}

func restore(file string, o *options) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := verify(f); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	all, self, err := o.members()
	if err != nil {
		return err
	}
	_, view, err := node.ReadState(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	cluster := member.NewSet(all...).ClusterID()
	if err := node.Seed(o.dir(), self.ID, cluster, all, view); err != nil {
		return err
	}
	fmt.Printf("restored revision %d into %s: member %x of cluster %x\n", view.Rev(), o.dir(), self.ID, cluster)
	return nil
}

// verify checks that a file ends with the SHA-256 of what is before, and leaves it at its
// beginning.
func verify(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	n := info.Size() - sha256.Size
	if n <= 0 || n%512 != 0 {
		return errors.New("not a whole snapshot: its length does not fit")
	}
	h := sha256.New()
	if _, err := io.CopyN(h, bufio.NewReader(f), n); err != nil {
		return err
	}
	var sum [sha256.Size]byte
	if _, err := f.ReadAt(sum[:], n); err != nil {
		return err
	}
	if [sha256.Size]byte(h.Sum(nil)) != sum {
		return errors.New("the snapshot is damaged: its checksum does not match")
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
