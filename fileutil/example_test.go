package fileutil_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/fileutil"
)

// A file is durable when its data are and its name is.
func ExampleFS() {
	dir, err := os.MkdirTemp("", "stele")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	var fsys fileutil.FS = fileutil.OS{}
	f, err := fsys.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	if err := f.Lock(); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := f.WriteAt([]byte("what must not be forgotten"), 0); err != nil {
		fmt.Println(err)
		return
	}
	if err := f.SyncData(); err != nil {
		fmt.Println(err)
		return
	}
	if err := fileutil.SyncDir(fsys, dir); err != nil {
		fmt.Println(err)
		return
	}
	// From here on the file survives a crash.
	size, err := f.Size()
	fmt.Println(size, err)
	// Output: 26 <nil>
}

func ExampleReplaceFile() {
	dir, err := os.MkdirTemp("", "stele")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	name := filepath.Join(dir, "config")
	err = fileutil.ReplaceFile(fileutil.OS{}, name, 0o600, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, "voters: 1 2 3")
		return err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := os.ReadFile(name)
	fmt.Printf("%s%v", b, err)
	// Output:
	// voters: 1 2 3
	// <nil>
}
