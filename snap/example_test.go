package snap_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func tempDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "stele")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// A snapshot takes the place of the log before it, and a restart begins with it.
func Example() {
	dir, remove := tempDir()
	defer remove()
	w, err := wal.Create(filepath.Join(dir, "wal"), nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	store, err := snap.Open(filepath.Join(dir, "snap"), nil)
	if err != nil {
		log.Fatal(err)
	}
	var entries []walpb.Entry
	for i, s := range []string{"a=1", "b=2", "a=3"} {
		entries = append(entries, walpb.Entry{Term: 1, Index: uint64(i + 1), Data: []byte(s)})
	}
	if err := w.Save(walpb.HardState{Term: 1, Commit: 3}, entries); err != nil {
		log.Fatal(err)
	}

	// The order is what matters: file, record, release.
	s := snap.Snapshot{Index: 2, Term: 1, Data: []byte("a=1 b=2")}
	if err := store.Save(s); err != nil {
		log.Fatal(err)
	}
	if err := w.SaveSnapshot(s.Record()); err != nil {
		log.Fatal(err)
	}
	if err := w.Release(s.Index); err != nil {
		log.Fatal(err)
	}
	if err := store.Keep(2, s.Record()); err != nil {
		log.Fatal(err)
	}
	w.Close()

	// The restart.
	walDir := filepath.Join(dir, "wal")
	w, err = wal.Open(walDir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	records, err := wal.Snapshots(wal.Records(walDir, 0, nil))
	if err != nil {
		log.Fatal(err)
	}
	newest, err := store.Newest(records)
	if err != nil {
		log.Fatal(err)
	}
	l, err := wal.Replay(wal.Records(walDir, newest.Index, nil), newest.Record())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d: %s\n", newest.Index, newest.Data)
	for _, e := range l.Entries {
		fmt.Printf("%d: %s\n", e.Index, e.Data)
	}
	// Output:
	// 2: a=1 b=2
	// 3: a=3
}

// State larger than memory is streamed into a body and out of it.
func ExampleStore_Create() {
	dir, remove := tempDir()
	defer remove()
	store, err := snap.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	record := walpb.Snapshot{Index: 7, Term: 2}
	w, err := store.Create(record)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Discard() // does nothing after Commit
	if _, err := io.Copy(w, strings.NewReader(strings.Repeat("state ", 100_000))); err != nil {
		log.Fatal(err)
	}
	if err := w.Commit(); err != nil { // it survives a crash from here on, and may be recorded in the log
		log.Fatal(err)
	}

	r, err := store.NewestBody([]walpb.Snapshot{record})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	fmt.Println(r.Body().Index, n, err)
	// Output: 7 600000 <nil>
}

// A leader sends a body to a follower, whose first attempt was interrupted, at no more than 100 MB a second.
func ExampleStore_Resume() {
	dir, remove := tempDir()
	defer remove()
	leader, err := snap.Open(filepath.Join(dir, "leader"), nil)
	if err != nil {
		log.Fatal(err)
	}
	follower, err := snap.Open(filepath.Join(dir, "follower"), nil)
	if err != nil {
		log.Fatal(err)
	}
	w, err := leader.Create(walpb.Snapshot{Index: 7, Term: 2})
	if err != nil {
		log.Fatal(err)
	}
	w.Write(bytes.Repeat([]byte("state "), 100_000))
	if err := w.Commit(); err != nil {
		log.Fatal(err)
	}

	limit := snap.NewLimiter(100 << 20)
	from, err := leader.OpenBody(7)
	if err != nil {
		log.Fatal(err)
	}
	defer from.Close()
	send := func(n int64) *snap.Writer {
		to, err := follower.Resume(from.Body())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("goes on from", to.Size())
		if _, err := from.Seek(to.Size(), io.SeekStart); err != nil {
			log.Fatal(err)
		}
		if _, err := io.CopyN(limit.Writer(context.Background(), to), from, n); err != nil && err != io.EOF {
			log.Fatal(err)
		}
		return to
	}
	send(200_000).Close() // the connection breaks
	to := send(from.Size())
	if to.Sum() != from.Sum() {
		log.Fatal("what arrived is not what was sent")
	}
	fmt.Println(to.Size(), to.Commit())
	// Output:
	// goes on from 0
	// goes on from 196608
	// 600000 <nil>
}
