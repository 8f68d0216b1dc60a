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

// A snapshot takes the place of the log before it, and a restart begins with it: with the newest
// or, if that is damaged, with the one before.
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
	for i, command := range []string{"a=1", "b=2", "a=3", "c=4", "b=5"} {
		index := uint64(i + 1)
		if err := w.Save(walpb.HardState{Term: 1, Commit: index}, []walpb.Entry{{Term: 1, Index: index, Data: []byte(command)}}); err != nil {
			log.Fatal(err)
		}
		state, due := map[uint64]string{2: "a=1 b=2", 4: "a=3 b=2 c=4"}[index]
		if !due {
			continue
		}
		// The order is what matters: file, record, and only then what they make unnecessary.
		s := snap.Snapshot{Index: index, Term: 1, Data: []byte(state)}
		if err := store.Save(s); err != nil {
			log.Fatal(err)
		}
		if err := w.SaveSnapshot(s.Record()); err != nil {
			log.Fatal(err)
		}
		if err := store.Keep(2, s.Record()); err != nil {
			log.Fatal(err)
		}
		oldest, err := store.Oldest(2, s.Record())
		if err != nil {
			log.Fatal(err)
		}
		if err := w.Release(oldest); err != nil {
			log.Fatal(err)
		}
	}
	w.Close()

	// A restart. The second time the newest file is damaged.
	restart := func() {
		walDir := filepath.Join(dir, "wal")
		var newest snap.Snapshot
		w, l, err := wal.Recover(walDir, nil, func(recorded []walpb.Snapshot) (from walpb.Snapshot, err error) {
			if newest, err = store.Newest(recorded); err != nil {
				return from, err
			}
			return newest.Record(), nil
		})
		if err != nil {
			log.Fatal(err)
		}
		defer w.Close()
		if err := store.Prune(w.Snapshots()); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s, then", newest.Index, newest.Data)
		for _, e := range l.Entries {
			fmt.Printf(" %s", e.Data)
		}
		fmt.Println()
	}
	restart()
	if err := os.Truncate(filepath.Join(dir, "snap", "0000000000000001-0000000000000004.snap"), 10); err != nil {
		log.Fatal(err)
	}
	restart()
	// Output:
	// 4: a=3 b=2 c=4, then b=5
	// 2: a=1 b=2, then a=3 c=4 b=5
}

// A program that only looks, beside the one that writes or after its crash, leaves everything as it
// is.
func ExampleReadOnly() {
	dir, remove := tempDir()
	defer remove()
	store, err := snap.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	for index := uint64(1); index <= 3; index++ {
		s := snap.Snapshot{Index: index, Term: 1, Data: fmt.Appendf(nil, "state at %d", index)}
		if err := store.Save(s); err != nil {
			log.Fatal(err)
		}
	}

	looking := snap.ReadOnly(dir, nil)
	list, err := looking.List()
	if err != nil {
		log.Fatal(err)
	}
	for _, file := range list.Snapshots {
		info, err := file.Info()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d/%d: %s, %d bytes\n", file.Term, file.Index, file.Name(), info.Size())
	}
	recorded := []walpb.Snapshot{{Index: 2, Term: 1}} // what wal.Snapshots returns
	newest, err := looking.Newest(recorded)
	fmt.Printf("%s, %v\n", newest.Data, err)
	// Output:
	// 1/3: 0000000000000001-0000000000000003.snap, 26 bytes
	// 1/2: 0000000000000001-0000000000000002.snap, 26 bytes
	// 1/1: 0000000000000001-0000000000000001.snap, 25 bytes
	// state at 2, <nil>
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
	if err := w.Commit(); err != nil { // from here on it survives a crash, and may be recorded
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

// A leader sends a body to a follower, whose first attempt was interrupted, at no more than 100 MB
// a second.
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
