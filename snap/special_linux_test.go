package snap_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/walpb"
)

// A pipe under the name of a snapshot is as good as a damaged one: the next is loaded. Nothing
// opens the pipe, which would wait for its other end.
func TestAPipeIsNoSnapshot(t *testing.T) {
	dir := t.TempDir()
	store, err := snap.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := snap.Snapshot{Index: 3, Term: 1, Data: []byte("state")}
	if err := store.Save(good); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "0000000000000001-0000000000000007.snap")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	recorded := []walpb.Snapshot{{Index: 3, Term: 1}, {Index: 7, Term: 1}}
	for _, newest := range []func([]walpb.Snapshot) (snap.Snapshot, error){snap.ReadOnly(dir, nil).Newest, store.Newest} {
		if got, err := newest(recorded); err != nil || got.Index != 3 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if _, err := os.Lstat(pipe + ".broken"); err != nil {
		t.Errorf("the pipe was not set aside: %v", err)
	}
}
