package crashfs_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

func TestDirectWritesAreOfWholePagesOfAlignedMemory(t *testing.T) {
	memory := make([]byte, 4*4096)
	skip := -int(uintptr(unsafe.Pointer(&memory[0]))) & 4095
	pages := memory[skip : skip+2*4096]
	original := crashfs.New()
	original.SetDirect(func(name string) bool { return strings.HasSuffix(name, ".wal") })
	for _, f := range []*crashfs.FS{original, original.Clone(), original.Crash(crashfs.DropAll)} {
		for _, test := range []struct {
			name string
			b    []byte
			off  int64
			want error
		}{
			{"a.wal", pages, 0, nil},
			{"a.wal", pages, 3 * 4096, nil},
			{"a.wal", pages, 512, syscall.EINVAL},
			{"a.wal", pages[:4096+512], 0, syscall.EINVAL},
			{"a.wal", pages[512:][:4096], 0, syscall.EINVAL},
			{"a.tmp", pages[1:][:1], 1, nil},
		} {
			file, err := f.OpenFile(test.name, os.O_RDWR|os.O_CREATE, 0o600)
			must(t, err)
			before, _ := f.ReadFile(test.name)
			n, err := file.WriteAt(test.b, test.off)
			if test.want != nil && (!errors.Is(err, test.want) || n != 0) || test.want == nil && err != nil {
				t.Errorf("%s: %d bytes at %d: %d, %v", test.name, len(test.b), test.off, n, err)
			}
			if after, _ := f.ReadFile(test.name); err != nil && len(after) != len(before) {
				t.Errorf("%s: a write that failed has made it %d bytes long", test.name, len(after))
			}
			must(t, file.Close())
		}
	}
}
