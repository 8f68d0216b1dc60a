//go:build unix

package stele_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
)

// TestEtcdLogsTakeLittleDisk: a test that unpacks a log of 64 MB must not cost 64 MB.
func TestEtcdLogsTakeLittleDisk(t *testing.T) {
	dirs := testlogs.Etcd(t)
	for name, dir := range dirs {
		limit := int64(256 << 10)
		if name == "3.4/cut" {
			limit = 74e6 // its entries are large: 64 MB and 8 MB of records
		}
		var used, size int64
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			size += info.Size()
			used += info.Sys().(*syscall.Stat_t).Blocks * 512
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if size < 64e6 {
			t.Errorf("%s: %d bytes long, want at least one segment of 64 MB", name, size)
		}
		if used > limit {
			t.Errorf("%s: takes %d bytes of disk, want at most %d", name, used, limit)
		}
	}
}
