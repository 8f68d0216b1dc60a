package crashfs_test

import (
	"fmt"
	"os"

	"github.com/stele-wal/stele/fileutil/crashfs"
)

// A program replaces a file in place, and finds out what a power cut makes of it.
func ExampleFS_Crash() {
	fsys := crashfs.Load(map[string][]byte{"vote": []byte("term 1, for A")})

	states := map[string]bool{}
	fsys.SetHook(nil, func(crashfs.Op) { // after each operation that changes anything
		for i := range fsys.Pending() {
			for _, choose := range []crashfs.Chooser{crashfs.DropOne(i), crashfs.KeepOne(i)} {
				b, err := fsys.Crash(choose).ReadFile("vote")
				states[fmt.Sprintf("%q %v", b, err)] = true
			}
		}
	})
	f, err := fsys.OpenFile("vote", os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("term 2, for B"), 0); err != nil {
		fmt.Println(err)
		return
	}
	if err := f.SyncData(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(states[`"" <nil>`], "it can lose both votes")
	fmt.Printf("%v\n", len(fsys.Pending()))
	// Output:
	// true it can lose both votes
	// 0
}
