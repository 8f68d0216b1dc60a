package wal_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func tempDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "stele")
	if err != nil {
		log.Fatal(err)
	}
	return filepath.Join(dir, "wal"), func() { os.RemoveAll(dir) }
}

// A log that is made, appended to, closed, and read again.
func Example() {
	dir, remove := tempDir()
	defer remove()
	w, err := wal.Create(dir, []byte("member 1"), nil)
	if err != nil {
		log.Fatal(err)
	}
	state := walpb.HardState{Term: 1, Vote: 1, Commit: 1}
	err = w.Save(state, []walpb.Entry{{Term: 1, Index: 1, Data: []byte("a")}, {Term: 1, Index: 2, Data: []byte("b")}})
	if err != nil { // both entries survive any crash from here on
		log.Fatal(err)
	}
	w.Close()

	l, err := wal.Replay(wal.Records(dir, 0, nil), walpb.Snapshot{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: committed %d of %d entries\n", l.Metadata, l.State.Commit, len(l.Entries))
	// Output: member 1: committed 1 of 2 entries
}

// A restart, in full: one pass over the log, and its end once more.
func ExampleRecover() {
	dir, remove := tempDir()
	defer remove()
	write(dir)

	// choose says from which of its snapshots the program goes on: the newest that it has a file
	// for. Package snap's Store.Newest finds that.
	choose := func(snapshots []walpb.Snapshot) (walpb.Snapshot, error) {
		newest, ok := wal.Newest(snapshots)
		if !ok {
			return newest, wal.ErrSnapshotNotFound
		}
		return newest, nil
	}
	w, l, err := wal.Recover(dir, nil, choose) // lock the log, remove what a crash left half done
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	for _, e := range l.Entries {
		fmt.Printf("%d/%d %s\n", e.Term, e.Index, e.Data)
	}
	// Output:
	// 1/3 c
	// 1/4 d
}

// A program that keeps no entries in memory opens the log, and reads it record by record.
func ExampleOpen() {
	dir, remove := tempDir()
	defer remove()
	write(dir)
	w, err := wal.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	newest, _ := wal.Newest(w.Snapshots())
	entries := 0
	for r, err := range wal.Records(dir, newest.Index, nil) {
		if err != nil {
			log.Fatal(err)
		}
		if r.Type == walpb.TypeEntry {
			entries++
		}
	}
	fmt.Printf("%d entries in the segments from %d on\n", entries, newest.Index)
	// Output: 4 entries in the segments from 2 on
}

// A Writer knows the snapshot records that Open has read, so that they need not be read again.
func ExampleWriter_Snapshots() {
	dir, remove := tempDir()
	defer remove()
	write(dir)
	w, err := wal.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	for _, s := range w.Snapshots() {
		fmt.Printf("%d/%d\n", s.Term, s.Index)
	}
	// Output:
	// 0/0
	// 1/2
}

func ExampleNewest() {
	newest, ok := wal.Newest([]walpb.Snapshot{{Term: 1, Index: 2}, {Term: 2, Index: 9}, {Term: 2, Index: 5}})
	fmt.Println(newest.Index, ok)
	// Output: 9 true
}

// write makes a log of four entries and a snapshot of the first two.
func write(dir string) {
	w, err := wal.Create(dir, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	var entries []walpb.Entry
	for i, s := range []string{"a", "b", "c", "d"} {
		entries = append(entries, walpb.Entry{Term: 1, Index: uint64(i + 1), Data: []byte(s)})
	}
	if err := w.Save(walpb.HardState{Term: 1, Commit: 3}, entries); err != nil {
		log.Fatal(err)
	}
	if err := w.SaveSnapshot(walpb.Snapshot{Index: 2, Term: 1}); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
}

// Many callers share a sync, and are called back in order.
func ExampleWriter_Append() {
	dir, remove := tempDir()
	defer remove()
	w, err := wal.Create(dir, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	for i := range uint64(3) {
		entry := walpb.Entry{Term: 1, Index: i + 1, Data: []byte("x")}
		err := w.Append(walpb.HardState{Term: 1}, []walpb.Entry{entry}, func(err error) { fmt.Println(entry.Index, "is durable:", err == nil) })
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 is durable: true
	// 2 is durable: true
	// 3 is durable: true
}

// A program that keeps two snapshots releases the log up to the older one: should the file of the
// newer be damaged, it goes on from there.
func ExampleWriter_Release() {
	dir, remove := tempDir()
	defer remove()
	w, err := wal.Create(dir, nil, &wal.Options{SegmentSize: 4096})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	var kept []walpb.Snapshot // that there are files of
	for i := uint64(1); i <= 100; i++ {
		entry := walpb.Entry{Term: 1, Index: i, Data: make([]byte, 500)}
		if err := w.Save(walpb.HardState{Term: 1, Commit: i}, []walpb.Entry{entry}); err != nil {
			log.Fatal(err)
		}
		if i%20 != 0 {
			continue
		}
		s := walpb.Snapshot{Index: i, Term: 1}
		if err := w.SaveSnapshot(s); err != nil { // its file is durable already
			log.Fatal(err)
		}
		if kept = append(kept, s); len(kept) < 2 {
			continue
		}
		kept = kept[len(kept)-2:] // and older files are removed
		if err := w.Release(kept[0].Index); err != nil {
			log.Fatal(err)
		}
	}
	for _, s := range kept {
		l, err := wal.Replay(wal.Records(dir, s.Index, nil), s)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("from %d: %d entries\n", s.Index, len(l.Entries))
	}
	// Output:
	// from 80: 20 entries
	// from 100: 0 entries
}

func ExampleRecords() {
	dir, remove := tempDir()
	defer remove()
	write(dir)
	for r, err := range wal.Records(dir, 0, nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%3d %-8s %08x\n", r.Offset, r.Type, r.CRC)
	}
	// Output:
	//   0 crc      00000000
	//  24 metadata 00000000
	//  48 snapshot 81e6d9a0
	//  80 entry    b9ab30a1
	// 112 entry    5a739961
	// 144 entry    b3f9b5d3
	// 176 entry    739934f0
	// 208 state    588bac1b
	// 240 snapshot 04c05600
	// 272 crc      04c05600
}

func ExampleCheck() {
	dir, remove := tempDir()
	defer remove()
	write(dir)
	report, err := wal.Check(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Verdict, report.LastIndex, report.State.Commit)
	// Output: clean 4 3
}
