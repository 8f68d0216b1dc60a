package interop

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const (
	wordSize   = 8 // of a length word
	sectorSize = 512
)

// The kinds of random damage that [RotUnmarked] does, to what was written.
var unmarkedKinds = []string{"flip", "sector", "hole", "cut"}

// Unmarked is what package wal makes of random damage to logs without witnesses and without a mark,
// as etcd writes them. All that is in these logs was acknowledged, so damage that is called torn is
// a loss.
//
// Whether that could be known is decided here without the readers: what a power cut leaves after a
// sync is the rest of one batch, some hard states that need no sync and then one call. So damage is
// no torn batch if something after it was synced later.
type Unmarked struct {
	Kind    string `json:"kind"`    // "flip", "sector", "hole", "cut"; "all"
	Cases   int    `json:"cases"`   // of damage to what was written
	Refused int    `json:"refused"` // called corrupt
	Torn    int    `json:"torn"`    // cut off as torn, all of it acknowledged
	Clean   int    `json:"clean"`   // nothing said: the log ends earlier, as a log does
	Silent  int    `json:"silent"`  // nothing said, and the content is another
	// Of Torn and Clean: what shows that it is damage, or why nothing does.
	Why map[string]int `json:"why"`
}

// What shows that damage is no torn batch. The proof is in what is left alone.
const (
	bySegment = "decidable: a segment follows"
	byHead    = "decidable: it is the head of the first segment"
	byLink    = "decidable: records of a later call are linked after it"
	byIndex   = "decidable: linked records name entries that an earlier call wrote"
	byVote    = "decidable: a linked hard state has another term or vote, which is synced, and a record follows"
	byFrame   = "decidable: data and checksum of the frame are whole"
	byLength  = "decidable: data and checksum of the frame are whole, though one of its two lengths is wrong"
	bySize    = "decidable: the file ends inside the data of a frame, at no sector's border"
	byWord    = "decidable: the file ends inside the head of a frame, at no sector's border"
)

// Why nothing shows it.
const (
	isTheEnd  = "undecidable: nothing is there any more"
	isRest    = "undecidable: no record after it is whole, as where the last one is torn"
	isLone    = "undecidable: a record after it is whole, but none that is linked to another"
	isOneCall = "undecidable: what is linked after it can be of one call with what is damaged"
)

// An UnmarkedLog is a log that is to be damaged.
type UnmarkedLog struct {
	name   string
	files  map[string][]byte // segments, without the zeros that the last one ends with but some
	names  []string          // of the segments, in order
	frames []unmarkedFrame
	sizes  map[string]int // of what was written
}

// unmarkedFrame is a record, and where it stands.
type unmarkedFrame struct {
	walpb.Record
	segment    string
	start, end int
	sum, data  int // where the checksum and the data begin
	inHead     bool
	index      uint64          // of an entry
	after      walpb.HardState // the last up to it
	last       uint64          // index of the last entry before it
	state      walpb.HardState // the last before it
}

// NewUnmarkedLog takes the segments of a log, by name. The error says why they are no good log
// without witnesses.
func NewUnmarkedLog(name string, files map[string][]byte) (*UnmarkedLog, error) {
	l := &UnmarkedLog{name: name, files: map[string][]byte{}, sizes: map[string]int{}}
	for name, b := range files {
		const page = 4096
		n := len(b)
		for n > 0 && b[n-1] == 0 {
			n--
		}
		l.files[name] = b[:min(len(b), (n+page-1)/page*page+2*page)]
	}
	l.names = slices.Sorted(maps.Keys(l.files))
	var last uint64
	var state walpb.HardState
	heads := map[string]int{}
	for r, err := range wal.Records(flipDir, 0, &wal.Options{FS: l.disk("", nil)}) {
		if err == nil && r.HasHeaderCRC {
			err = fmt.Errorf("a record carries a header_crc")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f := unmarkedFrame{Record: r.Record, segment: r.Segment, start: int(r.Offset), end: int(r.Offset + r.Size), last: last, state: state}
		f.Data = slices.Clone(r.Data)
		const sumAt = wordSize + 2 + 1 // after length word, type and the tag of the checksum
		f.sum = f.start + sumAt
		f.data = f.start + wordSize + r.Record.Size() - len(f.Data)
		heads[r.Segment]++
		f.inHead = heads[r.Segment] <= 2 || heads[r.Segment] == 3 && r.Type == walpb.TypeSnapshot && len(heads) == 1
		switch r.Type {
		case walpb.TypeEntry:
			var e walpb.Entry
			err = e.Unmarshal(f.Data)
			last, f.index = e.Index, e.Index
		case walpb.TypeState:
			err = state.Unmarshal(f.Data)
		}
		f.after = state
		l.frames = append(l.frames, f)
		l.sizes[r.Segment] = f.end
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return l, nil
}

// disk returns a file system that holds the log, with one segment changed.
func (l *UnmarkedLog) disk(name string, changed []byte) *crashfs.FS {
	tree := map[string][]byte{}
	for n, b := range l.files {
		if n == name {
			b = changed
		}
		tree[path.Join(flipDir, n)] = b
	}
	return crashfs.Load(tree)
}

// damage returns a segment that was damaged in a random place of what was written. It is the same
// as before if chance wants it so.
func (l *UnmarkedLog) damage(kind string, r *rand.Rand) (name string, changed []byte) {
	// Each byte that was written is as likely as any other.
	total := 0
	for _, n := range l.names {
		total += l.sizes[n]
	}
	at := r.IntN(total)
	for _, name = range l.names {
		if at < l.sizes[name] {
			break
		}
		at -= l.sizes[name]
	}
	const page = 4096
	changed = slices.Clone(l.files[name])
	zero := func(from, n int) { clear(changed[from:min(from+n, len(changed))]) }
	switch kind {
	case "flip":
		changed[at] ^= 1 << r.IntN(8)
	case "sector":
		zero(at/sectorSize*sectorSize, sectorSize)
	case "hole":
		zero(at/page*page, page*(1+r.IntN(3)))
	case "cut":
		if r.IntN(2) == 0 {
			at = at / sectorSize * sectorSize
		}
		changed = changed[:at]
	}
	return name, changed
}

// why returns what shows that a changed segment is damaged, or why nothing does; empty if no record
// is.
func (l *UnmarkedLog) why(name string, changed []byte) string {
	good := l.files[name]
	same := func(from, to int) bool {
		return to <= len(changed) && slices.Equal(good[from:to], changed[from:to])
	}
	place := slices.IndexFunc(l.frames, func(f unmarkedFrame) bool { return f.segment == name && !same(f.start, f.end) })
	if place < 0 {
		return ""
	}
	p := &l.frames[place]
	rest := changed[min(p.start, len(changed)):]
	switch {
	case name != l.names[len(l.names)-1]:
		return bySegment
	case p.inHead && len(l.names) == 1:
		return byHead
	case p.end <= len(changed) && len(p.Data) > 0 && same(p.sum, p.sum+varintLen(uint64(p.CRC))) && same(p.data, p.data+len(p.Data)):
		if word := p.start + wordSize - 1; !same(p.start, word) || !same(p.data-varintLen(uint64(len(p.Data))), p.data) {
			return byLength
		}
		return byFrame
	case len(changed) < len(good) && len(good)%sectorSize == 0 && len(changed)%sectorSize != 0 && len(changed) != p.start:
		if len(changed) < p.data {
			return byWord
		}
		return bySize
	case len(strings.Trim(string(rest), "\x00")) == 0:
		return isTheEnd
	}
	linked, reason := false, isRest
	run := newUnmarkedRun(p)
	for i := place; i < len(l.frames); i++ {
		f := &l.frames[i]
		// Of the first of a run it is enough that its checksum and type can be read: the next is
		// linked to it.
		whole := same(f.start, f.end)
		if !whole {
			linked, run = false, newUnmarkedRun(p)
			if !same(f.start, f.data) || f.end > len(changed) {
				continue
			}
		}
		why := run.take(f, whole, linked)
		switch {
		case linked && why != "":
			return why
		case linked:
			reason = isOneCall
		case whole && reason == isRest:
			reason = isLone
		}
		linked = true
	}
	return reason
}

func varintLen(n uint64) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// unmarkedRun is what linked records after damage say of the calls that wrote them.
type unmarkedRun struct {
	last   uint64          // index of the last entry before the damage
	state  walpb.HardState // the last before the damage, or in the run
	any    bool            // the run has an entry
	entry  uint64          // the index of the last one, if that can be read
	stated bool            // the run has a hard state
	over   bool            // a call that syncs has ended
	named  bool            // so has the call that wrote what a hard state commits
	voted  bool            // so has the call that wrote a hard state with another term or vote
}

func newUnmarkedRun(p *unmarkedFrame) *unmarkedRun { return &unmarkedRun{last: p.last, state: p.state} }

// take takes the next record, and returns why it was written after a sync that came after the
// damage, if it was. Of one that is not whole only the type is known, and of one that is not linked
// to another nothing says that its vote is right.
func (r *unmarkedRun) take(f *unmarkedFrame, whole, linked bool) string {
	switch {
	case r.over:
		return byLink
	// It may be the record of the snapshot that was committed.
	case r.named && f.Type != walpb.TypeSnapshot:
		return byIndex
	case r.voted:
		return byVote
	}
	switch f.Type {
	case walpb.TypeEntry:
		before := r.entry
		r.entry = 0
		if whole {
			r.entry = f.index
		}
		if whole && (before > 0 && f.index != before+1 || !r.any && r.stated && f.index > r.last+1) {
			return byIndex
		}
		r.any = true
	case walpb.TypeState:
		r.over, r.stated = r.any, true
		if whole {
			r.named = f.after.Commit > r.last
			r.voted = linked && (f.after.Term != r.state.Term || f.after.Vote != r.state.Vote)
			r.state = f.after
		}
	case walpb.TypeSnapshot:
		if r.any {
			return byLink
		}
		r.over = true
	}
	return ""
}

// RotUnmarked damages logs at random, each the given times in each way, and counts what wal.Check
// makes of it. The result is a line for each kind and one for all. The error is that a reader
// panicked.
func RotUnmarked(logs []*UnmarkedLog, seed uint64, times int) (rows []Unmarked, err error) {
	all := Unmarked{Kind: "all", Why: map[string]int{}}
	for k, kind := range unmarkedKinds {
		row := Unmarked{Kind: kind, Why: map[string]int{}}
		for i, l := range logs {
			r := rand.New(rand.NewPCG(seed, uint64(i*len(unmarkedKinds)+k)))
			for n := range times {
				name, changed := l.damage(kind, r)
				why := l.why(name, changed)
				for why == "" { // what was there was zeros
					name, changed = l.damage(kind, r)
					why = l.why(name, changed)
				}
				if err := l.judge(&row, name, changed, why); err != nil {
					return nil, fmt.Errorf("%s: %s %d: %w", l.name, kind, n, err)
				}
			}
		}
		all.add(&row)
		rows = append(rows, row)
	}
	return append(rows, all), nil
}

func (u *Unmarked) add(o *Unmarked) {
	u.Cases += o.Cases
	u.Refused += o.Refused
	u.Torn += o.Torn
	u.Clean += o.Clean
	u.Silent += o.Silent
	for why, n := range o.Why {
		u.Why[why] += n
	}
}

// judge counts what package wal makes of a damaged log.
func (l *UnmarkedLog) judge(row *Unmarked, name string, changed []byte, why string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	row.Cases++
	o := &wal.Options{FS: l.disk(name, changed)}
	report, err := wal.Check(flipDir, o)
	switch {
	case err != nil || report.Verdict >= wal.Corrupt:
		row.Refused++
	case report.Verdict != wal.Clean:
		row.Torn++
		row.Why[why]++
	case l.isPrefix(o):
		row.Clean++
		row.Why[why]++
	default:
		row.Silent++
	}
	return nil
}

// isPrefix reports whether the readers give nothing but what was written, in order.
func (l *UnmarkedLog) isPrefix(o *wal.Options) bool {
	n := 0
	for r, err := range wal.Records(flipDir, 0, o) {
		if err != nil || n == len(l.frames) || r.Type != l.frames[n].Type || !slices.Equal(r.Data, l.frames[n].Data) {
			return false
		}
		n++
	}
	return true
}

// UnmarkedTable puts rows below each other, and what of the losses could have been known.
func UnmarkedTable(rows []Unmarked) string {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tcases\trefused\ttorn\tshare\tends earlier\tsilent\t")
	why := map[string]int{}
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.1f%%\t%d\t%d\t\n", r.Kind, r.Cases, r.Refused, r.Torn, 100*float64(r.Torn)/float64(max(r.Cases, 1)), r.Clean, r.Silent)
		why = r.Why // the last is that of all
	}
	w.Flush()
	fmt.Fprintln(&s, "of those that are torn or end earlier:")
	for _, reason := range slices.Sorted(maps.Keys(why)) {
		fmt.Fprintf(&s, "%7d %s\n", why[reason], reason)
	}
	return s.String()
}
