package rot

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
)

// A Kind is a kind of damage.
type Kind string

// The kinds of damage.
const (
	Flip Kind = "flip" // one bit of a segment is another
	Word Kind = "word" // eight bytes of a segment are zero
	// 512 bytes of a segment, at a multiple of 512, are others; or several such run.
	Sector Kind = "sector"
	Cut    Kind = "cut" // a segment is shorter, or longer by zeros
	// Files are lost, swapped, doubled, old, of another log; some are there that should not be.
	File Kind = "file"
)

// fault is damage to the files of a log, done once.
type fault struct {
	kind    Kind
	what    func() string
	edits   []edit
	foreign bool // it puts good records of another log in the place of this one's
	renames bool // it gives a segment another number
}

func (f *fault) String() string { return string(f.kind) + ": " + f.what() }

// edit is a change to one file.
type edit struct {
	name string // in the log's directory
	do   action
	at   int64 // an offset, or a size
	data []byte
}

type action uint8

const (
	write  action = iota // data at an offset
	resize               // the file has this size
	remove               // there is no such file
	put                  // the file holds data
	mkdir                // the name is that of a directory
)

// oneFault is damage to one file.
func oneFault(kind Kind, e edit, what func() string) fault {
	return fault{kind: kind, what: what, edits: []edit{e}}
}

// sectorFault is damage to sectors, from an offset on. It copies b.
func sectorFault(name string, at int, b []byte, what string) fault {
	f := oneFault(Sector, edit{name, write, int64(at), slices.Clone(b)}, func() string { return fmt.Sprintf("%s: %d: %s", name, at, what) })
	f.foreign = strings.Contains(what, anotherLog)
	return f
}

// fileFault is damage to whole files.
func fileFault(what string, edits ...edit) fault {
	return fault{kind: File, what: func() string { return what }, edits: edits, foreign: strings.Contains(what, anotherLog)}
}

// idle reports whether it is a write that changes nothing.
func (f *fault) idle(files map[string][]byte) bool {
	e := &f.edits[0]
	return e.do == write && bytes.HasPrefix(files[e.name][e.at:], e.data)
}

// apply does the damage to the files in a directory, durably.
func (f *fault) apply(disk *crashfs.FS, dir string) error {
	for _, e := range f.edits {
		if err := e.apply(disk, path.Join(dir, e.name)); err != nil {
			return err
		}
	}
	return nil
}

func (e *edit) apply(disk *crashfs.FS, name string) error {
	switch e.do {
	case remove:
		if err := disk.Remove(name); err != nil {
			return err
		}
		return fileutil.SyncDir(disk, path.Dir(name))
	case put:
		disk.WriteFile(name, e.data)
		return nil
	case mkdir:
		disk.WriteFile(path.Join(name, "file"), nil)
		return nil
	}
	file, err := disk.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if e.do == resize {
		err = file.Truncate(e.at)
	} else {
		_, err = file.WriteAt(e.data, e.at)
	}
	if err != nil {
		return err
	}
	return file.SyncData()
}

// faults yields all the damage there is, in an order that depends on the log and the seed alone,
// and numbers it. Of bits, words and lengths it leaves out all but one of each every. If only is
// not 0, it yields the fault of that number and no other.
func (l *Log) faults(seed uint64, every, only int) iter.Seq2[int, fault] {
	return func(yield func(int, fault) bool) {
		n := 0
		all := func(faults iter.Seq[fault]) bool {
			for f := range faults {
				if n++; only != 0 && n != only {
					continue
				}
				if !yield(n, f) {
					return false
				}
			}
			return true
		}
		some := func(count int, fault func(int) fault) bool {
			every := uint64(max(every, 1) * max(l.Every, 1))
			for i := range count {
				if n++; only != 0 && n != only {
					continue
				}
				if only == 0 && every > 1 && mix(uint64(n)^seed<<32)%every != 0 {
					continue
				}
				if f := fault(i); !f.idle(l.files) && !yield(n, f) {
					return false
				}
			}
			return true
		}
		for _, s := range l.segments {
			if !some(8*min(s.end+64, len(l.files[s.name])), func(bit int) fault { return l.flip(s.name, bit) }) ||
				!some(s.end/8, func(word int) fault { return l.word(s.name, word) }) ||
				!some(s.end+9+8, func(size int) fault { return l.cut(s, size) }) {
				return
			}
		}
		_ = all(l.sectors(seed)) && all(l.losses()) && all(l.replaced()) && all(l.renamed()) && all(l.strays()) && all(l.marks())
	}
}

// mix spreads the bits of a number.
func mix(n uint64) uint64 {
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

func (l *Log) flip(name string, bit int) fault {
	b := l.files[name][bit/8] ^ 1<<(bit%8)
	return oneFault(Flip, edit{name, write, int64(bit / 8), []byte{b}}, func() string {
		return fmt.Sprintf("%s: byte %d, bit %d", name, bit/8, bit%8)
	})
}

func (l *Log) word(name string, word int) fault {
	return oneFault(Word, edit{name, write, int64(8 * word), make([]byte, 8)}, func() string {
		return fmt.Sprintf("%s: zeros at %d", name, 8*word)
	})
}

// cut makes a segment shorter. The last lengths are those of a longer one.
func (l *Log) cut(s segment, size int) fault {
	if more := size - s.end - 9; more >= 0 {
		size = len(l.files[s.name]) + 1<<(2*more) - 1
	}
	return resized(s.name, size)
}

// resized makes a file another length.
func resized(name string, size int) fault {
	return oneFault(Cut, edit{name, resize, int64(size), nil}, func() string { return fmt.Sprintf("%s: %d bytes long", name, size) })
}

const (
	sectorSize = 512
	anotherLog = "another log"
)

// sectorStep returns how far from each other the sectors are that are damaged: in a large segment
// it is not every one.
func (s *segment) sectorStep() int {
	const all, few = 256, 6
	if n := s.end / sectorSize; n > all {
		return n / few * sectorSize
	}
	return sectorSize
}

// sectorsOf yields the sectors of a segment up to the one after the last record's, or a few if
// there are many.
func (l *Log) sectorsOf(s segment) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for at := 0; at < s.end+sectorSize; at += s.sectorStep() {
			if b := sectorAt(l.files[s.name], at); len(b) == 0 || !yield(at, b) {
				return
			}
		}
	}
}

func sectorAt(file []byte, at int) []byte {
	return file[min(at, len(file)):min(at+sectorSize, len(file))]
}

// sectors yields damage to sectors: one that is zero, whole or in part, set, random, as it was
// earlier, or what ought to be elsewhere; and several in a row that are zero, or as they were
// earlier.
func (l *Log) sectors(seed uint64) iter.Seq[fault] {
	return func(yield func(fault) bool) {
		rng := rand.New(rand.NewPCG(seed, uint64(l.Bytes())))
		for _, s := range l.segments {
			for at, good := range l.sectorsOf(s) {
				tried := map[string]bool{string(good): true}
				try := func(b []byte, what string) bool {
					b = b[:min(len(b), len(good))]
					if len(b) == 0 || tried[string(b)] {
						return true
					}
					tried[string(b)] = true
					return yield(sectorFault(s.name, at, b, what))
				}
				if !l.sectorBecomes(s.name, at, rng, try) {
					return
				}
			}
			if !l.runs(s, yield) {
				return
			}
		}
	}
}

// sectorBecomes calls try with all that a sector may become.
func (l *Log) sectorBecomes(name string, at int, rng *rand.Rand, try func(b []byte, what string) bool) bool {
	b := make([]byte, sectorSize)
	if !try(b, "zeros") || !try(bytes.Repeat([]byte{0xff}, sectorSize), "ones") {
		return false
	}
	good := sectorAt(l.files[name], at)
	for _, n := range []int{8, 64, 200, 256, 448} {
		head, tail := make([]byte, len(good)), make([]byte, len(good))
		copy(head, good[:min(n, len(good))])
		copy(tail[min(n, len(good)):], good[min(n, len(good)):])
		if !try(head, fmt.Sprintf("zeros after the first %d bytes", n)) || !try(tail, fmt.Sprintf("zeros in the first %d bytes", n)) {
			return false
		}
	}
	for range 3 {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if !try(b, "garbage") {
			return false
		}
	}
	for i, then := range l.moments {
		if !try(sectorAt(then[name], at), fmt.Sprintf("as it was after call %d", i)) {
			return false
		}
	}
	for _, s := range l.segments {
		for from, other := range l.sectorsOf(s) {
			if !try(other, fmt.Sprintf("that of %s at %d", s.name, from)) {
				return false
			}
		}
	}
	for _, other := range slices.Sorted(maps.Keys(l.twin)) {
		if !try(sectorAt(l.twin[other], at), "that of "+anotherLog+", in "+other) {
			return false
		}
	}
	return try(sectorAt(l.twin[name], rng.IntN(1+len(l.twin[name])/sectorSize)*sectorSize), "one of "+anotherLog)
}

// runs yields damage to several sectors in a row.
func (l *Log) runs(s segment, yield func(fault) bool) bool {
	file, step := l.files[s.name], s.sectorStep()
	for from := 0; from < s.end; from += step {
		for to := from + 2*sectorSize; to < s.end+sectorSize; to += step {
			b := make([]byte, min(to, len(file))-from)
			if !yield(sectorFault(s.name, from, b, fmt.Sprintf("up to %d: zeros", to))) {
				return false
			}
		}
		// Nothing was written after a place since some moment.
		for i, then := range l.moments {
			if i%4 > 0 || len(then[s.name]) <= from+sectorSize || bytes.Equal(then[s.name][from:], file[from:]) {
				continue
			}
			b := make([]byte, len(file)-from)
			copy(b, then[s.name][from:])
			if !yield(sectorFault(s.name, from, b, fmt.Sprintf("up to its end: as after call %d", i))) {
				return false
			}
		}
	}
	return true
}

// losses yields every set of segments that can be lost, or the small ones and the ends if there are
// many.
func (l *Log) losses() iter.Seq[fault] {
	return func(yield func(fault) bool) {
		n := min(len(l.segments), 10)
		for set := 1; set < 1<<n; set++ {
			var edits []edit
			what := "lost:"
			for i := range n {
				if set>>i&1 == 1 {
					edits = append(edits, edit{name: l.segments[i].name, do: remove})
					what += " " + l.segments[i].name
				}
			}
			if !yield(fileFault(what, edits...)) {
				return
			}
		}
	}
}

// replaced yields segments that hold what another holds, or held, or should.
func (l *Log) replaced() iter.Seq[fault] {
	return func(yield func(fault) bool) {
		put := func(name string, b []byte) edit { return edit{name: name, do: put, data: b} }
		for i, s := range l.segments {
			file := l.files[s.name]
			for _, other := range l.segments[i+1:] {
				if !yield(fileFault(s.name+" and "+other.name+" swapped", put(s.name, l.files[other.name]), put(other.name, file))) ||
					!yield(fileFault(s.name+" is a copy of "+other.name, put(s.name, l.files[other.name]))) ||
					!yield(fileFault(other.name+" is a copy of "+s.name, put(other.name, file))) {
					return
				}
			}
			for j, then := range l.moments {
				if old, ok := then[s.name]; ok && !bytes.Equal(old, file) && !yield(fileFault(fmt.Sprintf("%s as it was after call %d", s.name, j), put(s.name, old))) {
					return
				}
			}
			if !yield(fileFault(s.name+" is empty", put(s.name, nil))) ||
				!yield(fileFault(s.name+" is zeros", put(s.name, make([]byte, len(file))))) ||
				!yield(fileFault(s.name+" is ones", put(s.name, bytes.Repeat([]byte{0xff}, len(file))))) {
				return
			}
			if twin, ok := l.twin[s.name]; ok && !yield(fileFault(s.name+" is that of "+anotherLog, put(s.name, twin))) {
				return
			}
		}
	}
}

// renamed yields segments under other names than theirs, beside their own or instead.
func (l *Log) renamed() iter.Seq[fault] {
	return func(yield func(fault) bool) {
		for i, s := range l.segments {
			var seq, index uint64
			fmt.Sscanf(s.name, "%x-%x.wal", &seq, &index)
			others := []string{
				fmt.Sprintf("%016x-%016x.wal", seq, index+1), fmt.Sprintf("%016x-%016x.wal", seq, index/2),
				fmt.Sprintf("%016x-%016x.wal", seq+uint64(len(l.segments)), index), fmt.Sprintf("%016x-%016x.wal", seq+1000, index),
				fmt.Sprintf("%016X-%016x.wal", seq+0xabc, index), fmt.Sprintf("%x-%x.wal", seq, index), s.name + ".wal", s.name + "~", fmt.Sprintf("%d.tmp", i),
			}
			for _, other := range others {
				if _, taken := l.files[other]; taken {
					continue
				}
				double := edit{name: other, do: put, data: l.files[s.name]}
				beside := fileFault(s.name+" is also called "+other, double)
				instead := fileFault(s.name+" is called "+other, edit{name: s.name, do: remove}, double)
				beside.renames, instead.renames = true, true
				if !yield(beside) || !yield(instead) {
					return
				}
			}
		}
	}
}

// strays yields files that should not be there.
func (l *Log) strays() iter.Seq[fault] {
	return func(yield func(fault) bool) {
		last := l.segments[len(l.segments)-1]
		var seq, index uint64
		fmt.Sscanf(last.name, "%x-%x.wal", &seq, &index)
		next := fmt.Sprintf("%016x-%016x.wal", seq+1, index+1000)
		for _, b := range [][]byte{nil, make([]byte, 4096), bytes.Repeat([]byte{0xa5}, 4096), l.files[l.segments[0].name]} {
			for _, name := range []string{next, "x.wal", "0.tmp", last.name + ".8.torn", "db", "0.tmp.wal", ".wal"} {
				if !yield(fileFault(fmt.Sprintf("a stray %s of %d bytes", name, len(b)), edit{name: name, do: put, data: b})) {
					return
				}
			}
		}
		for _, name := range []string{next, "x"} {
			if !yield(fileFault("a directory called "+name, edit{name: name, do: mkdir})) {
				return
			}
		}
	}
}

// marks yields damage to the mark.
func (l *Log) marks() iter.Seq[fault] {
	return func(yield func(fault) bool) {
		good, ok := l.files[mark]
		if !ok {
			return
		}
		for bit := range 8 * len(good) {
			if !yield(l.flip(mark, bit)) {
				return
			}
		}
		for size := range 2 * len(good) {
			if size != len(good) && !yield(l.cut(segment{name: mark, end: 2 * len(good)}, size)) {
				return
			}
		}
		put := func(b []byte) edit { return edit{name: mark, do: put, data: b} }
		for i, then := range l.moments {
			if !yield(fileFault(fmt.Sprintf("the mark as it was after call %d", i), put(then[mark]))) {
				return
			}
		}
		_ = yield(fileFault("no mark", edit{name: mark, do: remove})) &&
			yield(fileFault("the mark is zeros", put(make([]byte, len(good))))) &&
			yield(fileFault("the mark is that of "+anotherLog, put(l.twin[mark]))) &&
			yield(fileFault("the mark is a directory", edit{name: mark, do: remove}, edit{name: mark, do: mkdir}))
	}
}
