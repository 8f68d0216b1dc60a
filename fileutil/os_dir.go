//go:build unix

package fileutil

import (
	"os"

	"golang.org/x/sys/unix"
)

func openDir(name string) (Dir, error) {
	d, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return d, nil
}
