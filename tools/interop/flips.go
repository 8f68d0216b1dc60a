package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	etcdpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// An Outcome is what one way of opening a log made of a flipped bit.
type Outcome uint8

// The outcomes, from good to bad.
const (
	Same     Outcome = iota // what was saved, and nothing said
	Refused                 // an error
	Trimmed                 // said to be a torn tail; nothing that was saved is gone
	Lost                    // said to be a torn tail, and what was saved is gone
	Silent                  // other content, and nothing said
	Panicked                // a panic
	outcomes
)

// Counts are how many flips had which outcome.
type Counts [outcomes]int

// Flips is a log that is to be damaged: three segments, closed cleanly, whose last batch was
// acknowledged.
type Flips struct {
	Files map[string][]byte
	Want  Content
}

// Bits returns how many bits the log has.
func (f *Flips) Bits() int {
	n := 0
	for _, b := range f.Files {
		n += 8 * len(b)
	}
	return n
}

// flip returns the file that the bit is in, and its bytes with the bit flipped.
func (f *Flips) flip(bit int) (name string, b []byte) {
	for _, name := range f.names() {
		if n := 8 * len(f.Files[name]); bit >= n {
			bit -= n
			continue
		}
		b := bytes.Clone(f.Files[name])
		b[bit/8] ^= 1 << (bit % 8)
		return name, b
	}
	panic(fmt.Sprintf("interop: the log has no bit %d", bit))
}

func (f *Flips) names() []string {
	var names []string
	for name := range f.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

const flipSegment = 4096 // bytes, the least there is

// NewFlips writes the same content with etcd and with ours, below root.
func NewFlips(root string) (ours, theirs *Flips, err error) {
	const sync, cut, never = false, false, false
	metadata := []byte("flip me")
	e, err := CreateEtcd(filepath.Join(root, "etcd"), metadata, flipSegment, sync)
	if err != nil {
		return nil, nil, err
	}
	o, err := CreateOurs(filepath.Join(root, "ours"), metadata, wal.Options{SegmentSize: flipSegment, FS: NoSync{}})
	if err != nil {
		return nil, nil, errors.Join(err, e.Close())
	}
	save := func(s walpb.HardState, entries []walpb.Entry) error {
		return errors.Join(e.Save(s, entries, cut, never), o.Save(s, entries))
	}
	want := Content{Metadata: metadata}
	for index := uint64(1); index <= 100 && err == nil; index += 2 {
		var entries []walpb.Entry
		for i := range uint64(2) {
			data := bytes.Repeat([]byte{byte(index), 0xa5}, int(10+index*7%40))
			entries = append(entries, walpb.Entry{Type: walpb.EntryType(index % 5 / 4), Term: 1 + index/20, Index: index + i, Data: data})
		}
		want.Entries = append(want.Entries, entries...)
		want.State = walpb.HardState{Term: 1 + index/20, Vote: 1, Commit: index}
		err = save(want.State, entries)
		if index%16 == 15 {
			s := walpb.Snapshot{Index: index, Term: 1 + index/20, ConfState: []byte{8, 1, 8, 2, 8, 3}}
			err = errors.Join(err, e.SaveSnapshot(s), o.SaveSnapshot(s))
		}
	}
	if err = errors.Join(err, e.Close(), o.Close()); err != nil {
		return nil, nil, err
	}
	if ours, err = load(filepath.Join(root, "ours"), want); err != nil {
		return nil, nil, err
	}
	theirs, err = load(filepath.Join(root, "etcd"), want)
	return ours, theirs, err
}

func load(dir string, want Content) (*Flips, error) {
	names, err := SegmentNames(dir)
	if err != nil {
		return nil, err
	}
	if len(names) != 3 {
		return nil, fmt.Errorf("%s: the log was to have three segments: %q", dir, names)
	}
	f := &Flips{Files: map[string][]byte{}, Want: want}
	for _, name := range names {
		if f.Files[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// outcome compares contents.
func outcome(want, got Content, torn bool) Outcome {
	switch same := equalContent(want, got); {
	case torn && same:
		return Trimmed
	case torn:
		return Lost
	case same:
		return Same
	}
	return Silent
}

func equalContent(a, b Content) bool {
	return bytes.Equal(a.Metadata, b.Metadata) && a.State == b.State && slices.EqualFunc(a.Entries, b.Entries, func(x, y walpb.Entry) bool {
		return x.Type == y.Type && x.Term == y.Term && x.Index == y.Index && bytes.Equal(x.Data, y.Data)
	})
}

// guarded runs fn, and turns a panic into an outcome.
func guarded(fn func() Outcome) (o Outcome) {
	defer func() {
		if recover() != nil {
			o = Panicked
		}
	}()
	return fn()
}

// FlipOurs flips every bit of our log, or every stride-th, one at a time, each in a fresh copy in
// memory: once for Check, whose verdict is to be the truth about what Replay then says, and once
// for Open and then Replay. worst tells of each flip with an outcome that must not be, and may be
// nil.
func FlipOurs(f *Flips, stride int, worst func(bit int, o Outcome)) (check, open Counts) {
	var (
		mu      sync.Mutex
		workers sync.WaitGroup
		bits    = make(chan int)
	)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for bit := range bits {
				a := guarded(func() Outcome { return f.checkOurs(bit) })
				b := guarded(func() Outcome { return f.openOurs(bit) })
				mu.Lock()
				check[a]++
				open[b]++
				if worst != nil && max(a, b) >= Silent {
					worst(bit, max(a, b))
				}
				mu.Unlock()
			}
		})
	}
	for bit := 0; bit < f.Bits(); bit += stride {
		bits <- bit
	}
	close(bits)
	workers.Wait()
	return check, open
}

const flipDir = "wal"

func (f *Flips) inMemory(bit int) *crashfs.FS {
	fsys := crashfs.New()
	for name, b := range f.Files {
		fsys.WriteFile(path.Join(flipDir, name), b)
	}
	name, b := f.flip(bit)
	fsys.WriteFile(path.Join(flipDir, name), b)
	return fsys
}

func (f *Flips) checkOurs(bit int) Outcome {
	opts := &wal.Options{SegmentSize: flipSegment, FS: f.inMemory(bit)}
	report, err := wal.Check(flipDir, opts)
	if err != nil || report.Verdict >= wal.Passed {
		return Refused
	}
	got, _, err := ReadOurs(flipDir, 0, walpb.Snapshot{}, opts)
	if err != nil {
		return Refused
	}
	return outcome(f.Want, got, report.Verdict != wal.Clean)
}

func (f *Flips) openOurs(bit int) Outcome {
	torn := false
	opts := &wal.Options{SegmentSize: flipSegment, FS: f.inMemory(bit)}
	opts.Observer.Trimmed = func(string, int64, int64, string) { torn = true }
	w, err := wal.Open(flipDir, opts)
	if err != nil {
		return Refused
	}
	defer w.Close()
	got, _, err := ReadOurs(flipDir, 0, walpb.Snapshot{}, opts)
	if err != nil {
		return Refused
	}
	return outcome(f.Want, got, torn)
}

// FlipEtcd flips every stride-th bit of etcd's log, in files in dir: once for OpenForRead and
// ReadAll, and once for what an etcd server does when it starts: Open and ReadAll, and if that says
// "unexpected EOF" Repair, and again.
func FlipEtcd(f *Flips, dir string, stride int) (read, start Counts, err error) {
	etcd.SegmentSizeBytes = flipSegment
	for n, bit := 0, 0; bit < f.Bits(); n, bit = n+1, bit+stride {
		if err := f.restore(dir, bit); err != nil {
			return read, start, err
		}
		read[guarded(func() Outcome {
			got, err := ReadEtcd(dir, walpb.Snapshot{})
			if err != nil {
				return Refused
			}
			return outcome(f.Want, got, false)
		})]++
		start[guarded(func() Outcome { return f.startEtcd(dir) })]++
		if n%256 == 255 {
			runtime.GC() // etcd leaves files open when it fails
		}
	}
	return read, start, nil
}

// restore makes dir the log with one bit flipped.
func (f *Flips) restore(dir string, bit int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range there {
		if _, ours := f.Files[e.Name()]; !ours {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	flipped, changed := f.flip(bit)
	for name, b := range f.Files {
		if name == flipped {
			b = changed
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *Flips) startEtcd(dir string) Outcome {
	got, err := openReadAll(dir, walpb.Snapshot{})
	repaired := false
	if errors.Is(err, io.ErrUnexpectedEOF) {
		if !etcd.Repair(zap.NewNop(), dir) {
			return Refused
		}
		repaired = true
		got, err = openReadAll(dir, walpb.Snapshot{})
	}
	if err != nil {
		return Refused
	}
	return outcome(f.Want, got, repaired)
}

func openReadAll(dir string, from walpb.Snapshot) (Content, error) {
	w, err := etcd.Open(zap.NewNop(), dir, &etcdpb.Snapshot{Index: new(from.Index), Term: new(from.Term)})
	if err != nil {
		return Content{}, err
	}
	defer w.Close()
	return readAll(w)
}

// Table puts counts beside each other, a line for each outcome.
func Table(names []string, counts []Counts) string {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\t\n", strings.Join(names, "\t"))
	labels := [outcomes]string{"same content", "reported: error", "reported: torn, nothing lost", "reported: torn, saved entries lost", "SILENT: other content", "panic"}
	total := make([]int, len(counts))
	for o, label := range labels {
		fmt.Fprintf(w, "%s\t", label)
		for i, c := range counts {
			total[i] += c[o]
			fmt.Fprintf(w, "%d\t", c[o])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "flips\t")
	for _, n := range total {
		fmt.Fprintf(w, "%d\t", n)
	}
	fmt.Fprintln(w)
	w.Flush()
	return s.String()
}
