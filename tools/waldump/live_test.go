package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A log that is being written has no damage, whenever it is looked at, and however slowly.
func TestLiveLogIsClean(t *testing.T) {
	for _, plain := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "log")
		w, err := wal.Create(dir, []byte("live"), &wal.Options{SegmentSize: 1 << 20, NoSync: true, PlainEtcd: plain})
		if err != nil {
			t.Fatal(err)
		}
		var index uint64
		data := bytes.Repeat([]byte("x"), 200)
		save := func() error {
			for range 1000 {
				index++
				if err := w.Save(walpb.HardState{Term: 1, Vote: 1, Commit: index - 1}, []walpb.Entry{{Term: 1, Index: index, Data: data}}); err != nil {
					return err
				}
			}
			return nil
		}
		for look := range 5 {
			for _, command := range []string{"verify", "dump", "info", "repair"} {
				written := make(chan error)
				go func() { written <- save() }()
				var out, errs bytes.Buffer
				code := run([]string{command, dir}, &out, &errs)
				if err := <-written; err != nil {
					t.Fatal(err)
				}
				if code != exitClean {
					text := out.String()
					t.Fatalf("plain %v: look %d: %s: exit %d: %s%s", plain, look, command, code, text[max(0, len(text)-1000):], errs.String())
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
