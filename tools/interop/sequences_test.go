package interop

import (
	"bytes"
	order "cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	etcdpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "what random histories start from; 0 for the time")
	roundsFlag = flag.Int("rounds", 0, "how many random histories; 0 for 1000, 100 with -short")
)

// seeded returns what a test's random choices start from, and prints it.
func seeded(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	return seed
}

// rounds returns how many histories to go through. The short run is for the race detector.
func rounds() int {
	switch {
	case *roundsFlag > 0:
		return *roundsFlag
	case testing.Short():
		return 100
	}
	return 1000
}

// history is a random one, and what it adds up to.
type history struct {
	metadata []byte
	size     int64
	ops      []Op
	model    *Model
}

func newHistory(r *rand.Rand) history {
	h := history{size: []int64{4096, 4096, 8192, 16384, 1 << 20}[r.IntN(5)]}
	if n := r.IntN(12); n > 0 {
		h.metadata = make([]byte, n-1)
		for i := range h.metadata {
			h.metadata[i] = byte(r.Uint32())
		}
	}
	h.model = NewModel(h.metadata)
	g := NewGenerator(h.model, r)
	g.Reopens = r.IntN(3) > 0
	if r.IntN(20) == 0 {
		g.MaxData = 300_000 // more than etcd's page buffer
	}
	for range 5 + r.IntN(50) {
		h.ops = append(h.ops, g.Next())
	}
	return h
}

// writer is either package.
type writer interface {
	SaveSnapshot(walpb.Snapshot) error
	Reopen() error
	Close() error
}

// write writes a history; save writes the i-th op.
func write(t *testing.T, w writer, ops []Op, save func(i int, o Op) error) {
	t.Helper()
	for i, o := range ops {
		var err error
		switch o.Kind {
		case Save:
			err = save(i, o)
		case SaveSnapshot:
			err = w.SaveSnapshot(o.Snapshot)
		case Reopen:
			err = w.Reopen()
		}
		if err != nil {
			t.Fatalf("%T: op %d of %d, %v: %v\n%v", w, i, len(ops), o, err, ops[:i])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatalf("%T: close: %v", w, err)
	}
}

func writeOurs(t *testing.T, dir string, h history, plain bool) {
	t.Helper()
	w, err := CreateOurs(dir, h.metadata, wal.Options{SegmentSize: h.size, PlainEtcd: plain, FS: NoSync{}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, h.ops, func(_ int, o Op) error { return w.Save(o.State, o.Entries) })
}

// writeEtcd returns which segments etcd began without a hard state. With cuts it cuts after these
// ops and no others.
func writeEtcd(t *testing.T, dir string, h history, cuts map[int]bool) (headless []string) {
	t.Helper()
	const sync = false
	w, err := CreateEtcd(dir, h.metadata, h.size, sync)
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, h.ops, func(i int, o Op) error { return w.Save(o.State, o.Entries, cuts[i], cuts != nil) })
	return w.Headless
}

// cutsOf returns the ops after which our log was cut, by counting the records.
func cutsOf(t *testing.T, segments []Segment, ops []Op) map[int]bool {
	t.Helper()
	cuts := map[int]bool{}
	var state walpb.HardState
	count, body := 0, len(segments[0].Records)-3
	for i, o := range ops {
		switch {
		case o.Kind == SaveSnapshot:
			count++
			continue
		case o.Kind == Reopen, len(o.Entries) == 0 && o.State.IsZero():
			continue
		}
		count += len(o.Entries)
		if !o.State.IsZero() {
			state = o.State
			count++
		}
		if n := len(cuts); count == body && n < len(segments)-1 {
			cuts[i] = true
			next := &segments[n+1]
			count, body = 0, len(next.Body())
			if want := 2 + min(1, int(state.Term)); want != len(next.Head()) {
				t.Fatalf("%s has a head of %d records, want %d", next.Name, len(next.Head()), want)
			}
		}
	}
	if len(cuts) != len(segments)-1 || count != body {
		t.Fatalf("%d segments cannot be told apart by the records that were saved: %d cuts, %d of %d records in the last", len(segments), len(cuts), count, body)
	}
	return cuts
}

// flat returns the records that were saved, without heads, and how many of them stand before the
// first head that differs.
func flat(segments []Segment) (records []walpb.Record, ends []int) {
	for i := range segments {
		s := &segments[i]
		records = append(records, s.Body()...)
		ends = append(ends, len(records))
	}
	return records, ends
}

// compareStreams checks that both wrote the same records in the same order, with the same checksums
// as far as they cut alike.
func compareStreams(t *testing.T, ours, theirs []Segment) {
	t.Helper()
	a, aEnds := flat(ours)
	b, bEnds := flat(theirs)
	same := 0 // records up to here have the same heads before them
	for i := range min(len(aEnds), len(bEnds)) {
		if i > 0 && !sameHead(ours[i], theirs[i]) {
			break
		}
		same = min(aEnds[i], bEnds[i])
		if aEnds[i] != bEnds[i] {
			break
		}
	}
	if len(a) != len(b) {
		t.Errorf("ours wrote %d records, etcd %d", len(a), len(b))
	}
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if i >= same {
			x.CRC, y.CRC = 0, 0
		}
		if y, x := recordText(y), recordText(x); x != y {
			t.Fatalf("record %d of %d (checksums compared up to %d): ours\n%s\nis not etcd's\n%s", i, len(a), same, x, y)
		}
	}
}

// identical reports whether two logs are the same, byte for byte, up to the last frame of the last
// segment; what follows it must be zeros in both. The error says what is not.
func identical(ours, theirs string, a, b []Segment) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d segments, etcd has %d", len(a), len(b))
	}
	for i := range a {
		if a[i].Name != b[i].Name {
			return fmt.Errorf("segment %s, etcd's is %s", a[i].Name, b[i].Name)
		}
		x, err := os.ReadFile(filepath.Join(ours, a[i].Name))
		if err != nil {
			return err
		}
		y, err := os.ReadFile(filepath.Join(theirs, b[i].Name))
		if err != nil {
			return err
		}
		if i == len(a)-1 {
			for _, rest := range [][]byte{x[a[i].End:], y[b[i].End:]} {
				if len(bytes.Trim(rest, "\x00")) > 0 {
					return fmt.Errorf("%s: not all zeros after the last frame", a[i].Name)
				}
			}
			x, y = x[:a[i].End], y[:b[i].End]
		}
		if !bytes.Equal(x, y) {
			return fmt.Errorf("%s differs: %d bytes, etcd's has %d", a[i].Name, len(x), len(y))
		}
	}
	return nil
}

// tally counts, over all histories, what no error is made of.
type tally struct {
	histories, reads, cuts, snapshots, outdated int

	d1   int // reads by etcd that bring void entries back
	gaps int // reads by etcd that fail at a gap where a later snapshot was installed
	// Reads by either that start after the snapshot's record, because etcd named a segment too
	// low.
	unmatched int
	headless  int // segments that etcd began without a hard state
	natural   int // histories with identical files, each cutting where it would
	together  int // histories with identical files, etcd made to cut where ours did
	naturals  int
	togethers int
}

func TestEtcdAndOursWriteTheSameRecordsAndReadEachOther(t *testing.T) {
	seed := seeded(t)
	var n tally
	for i := range rounds() {
		name := fmt.Sprintf("seed=%d history=%d", seed, i)
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		h := newHistory(r)
		root := t.TempDir()
		ours, theirs, witness := filepath.Join(root, "ours"), filepath.Join(root, "etcd"), filepath.Join(root, "witness")

		const plain = true
		writeOurs(t, ours, h, plain)
		a := mustSegments(t, ours)
		n.cuts += len(a) - 1
		var cuts map[int]bool
		together := i%2 == 0
		if together {
			cuts = cutsOf(t, a, h.ops)
		}
		headless := writeEtcd(t, theirs, h, cuts)
		b := mustSegments(t, theirs)
		for i := range b {
			b[i].Headless = slices.Contains(headless, b[i].Name)
		}
		compareStreams(t, a, b)
		n.headless += len(headless)
		differ := identical(ours, theirs, a, b)
		switch {
		case together:
			n.togethers++
			if differ == nil {
				n.together++
			} else if len(headless) == 0 && !renamed(a, b) {
				t.Errorf("%s: etcd was made to cut where ours did, and yet: %v\n%v", name, differ, h.ops)
			}
		default:
			n.naturals++
			if differ == nil {
				n.natural++
			}
		}

		writeOurs(t, witness, h, !plain)
		for _, dir := range []string{ours, theirs, witness} {
			byEtcd := dir == theirs
			if byEtcd && differ == nil {
				continue // the same bytes
			}
			compareOurs(t, dir, h.model, byEtcd, &n)
			compareEtcd(t, dir, h.model, &n)
		}
		n.histories++
		if t.Failed() {
			t.Fatalf("%s: reproduce with -seed=%d -rounds=%d; %d ops: %v", name, seed, i+1, len(h.ops), h.ops)
		}
		os.RemoveAll(root)
	}
	t.Logf("seed %d: %d histories, %d cuts; files identical up to the last frame: %d of %d where etcd cut where it would, %d of %d where it cut where ours did"+
		" (etcd began %d segments without a hard state)", seed, n.histories, n.cuts, n.natural, n.naturals, n.together, n.togethers, n.headless)
	t.Logf("seed %d: %d reads from %d usable snapshots, %d of them outdated by an installed one; etcd brought void entries back in %d, failed at a gap in %d;"+
		" started after the snapshot's record, for a segment that was named too low, in %d", seed, n.reads, n.snapshots, n.outdated, n.d1, n.gaps, n.unmatched)
	if n.together == 0 || n.d1 == 0 || n.outdated == 0 || n.cuts == 0 {
		t.Errorf("seed %d: the histories are too tame to show anything: %+v", seed, n)
	}
}

// renamed reports whether the only difference in names is one that etcd makes: after it was opened
// again, it names a segment without regard to the snapshots recorded before.
func renamed(ours, theirs []Segment) bool {
	if len(ours) != len(theirs) {
		return false
	}
	lower := false
	for i := range ours {
		var seqA, a, seqB, b uint64
		fmt.Sscanf(ours[i].Name, "%x-%x.wal", &seqA, &a)
		fmt.Sscanf(theirs[i].Name, "%x-%x.wal", &seqB, &b)
		if seqA != seqB || b > a {
			return false
		}
		lower = lower || b < a
	}
	return lower
}

func mustSegments(t *testing.T, dir string) []Segment {
	t.Helper()
	s, err := EtcdSegments(dir)
	if err != nil {
		t.Fatalf("etcd's decoder: %v", err)
	}
	return s
}

// compareOurs reads a log with package wal from every usable snapshot, and compares with the model.
func compareOurs(t *testing.T, dir string, m *Model, byEtcd bool, n *tally) {
	t.Helper()
	where := filepath.Base(dir)
	snapshots, err := wal.Snapshots(wal.Records(dir, 0, nil))
	if err != nil {
		t.Fatalf("%s: Snapshots: %v", where, err)
	}
	if diff := cmp.Diff(m.Replayable(), snapshots); diff != "" {
		t.Errorf("%s: Snapshots, -want +got\n%s", where, diff)
	}
	for _, s := range starts(m) {
		n.reads++
		n.snapshots++
		want, ok := m.From(s)
		got, found, err := ReadOurs(dir, s.Index, s, nil)
		if byEtcd && errors.Is(err, wal.ErrSnapshotNotFound) {
			// etcd named the segment after an entry below the snapshot, though it was begun after
			// the snapshot's record.
			n.unmatched++
			got, found, err = ReadOurs(dir, 0, s, nil)
		}
		if !ok {
			n.outdated++
			if !errors.Is(err, wal.ErrSnapshotOutdated) {
				t.Errorf("%s: Replay from %d/%d, which %d/%d replaced: %v, want ErrSnapshotOutdated", where, s.Term, s.Index, m.Base.Term, m.Base.Index, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: Replay from %d/%d: %v", where, s.Term, s.Index, err)
		}
		if s.Index > 0 && !slices.ContainsFunc(m.Snapshots, func(s walpb.Snapshot) bool { return cmp.Equal(s, found) }) {
			t.Errorf("%s: Replay from %d/%d found %+v, which was never recorded", where, s.Term, s.Index, found)
		}
		if diff := cmp.Diff(text(want), text(got)); diff != "" {
			t.Errorf("%s: Replay from %d/%d, -want +got\n%s", where, s.Term, s.Index, diff)
		}
	}
	report, err := wal.Check(dir, nil)
	if err != nil || report.Verdict != wal.Clean {
		t.Errorf("%s: Check: %v %+v %v", where, report.Verdict, report.Findings, err)
	}
}

// compareEtcd reads a log with etcd from every usable snapshot, and compares with the model, and
// where etcd's defects are known to show, with what they are known to do.
func compareEtcd(t *testing.T, dir string, m *Model, n *tally) {
	t.Helper()
	where := filepath.Base(dir)
	snapshots, err := EtcdSnapshots(dir)
	if err != nil {
		t.Fatalf("%s: etcd's ValidSnapshotEntries: %v", where, err)
	}
	if diff := cmp.Diff(m.Usable(), snapshots); diff != "" {
		t.Errorf("%s: etcd's ValidSnapshotEntries, -want +got\n%s", where, diff)
	}
	segments := mustSegments(t, dir)
	for _, s := range starts(m) {
		n.reads++
		entries, matched, gap, err := EtcdWould(segments, s)
		if err != nil {
			t.Fatal(err)
		}
		want, ok := m.From(s)
		rewound := !slices.Equal(text(want), text(Content{Metadata: want.Metadata, State: want.State, Entries: entries}))
		if (rewound || gap || !matched) && !m.Rewritten && len(m.Lost) == 0 || ok && gap {
			t.Errorf("%s: from %d/%d, no defect of etcd's explains what it would read", where, s.Term, s.Index)
		}
		got, err := ReadEtcd(dir, s)
		switch {
		case gap:
			n.gaps++
			if !errors.Is(err, etcd.ErrSliceOutOfRange) {
				t.Errorf("%s: etcd from %d/%d: %v, want %v", where, s.Term, s.Index, err, etcd.ErrSliceOutOfRange)
			}
			continue
		case !matched:
			n.unmatched++
			if !errors.Is(err, etcd.ErrSnapshotNotFound) {
				t.Errorf("%s: etcd from %d/%d: %v, want %v", where, s.Term, s.Index, err, etcd.ErrSnapshotNotFound)
			}
			continue
		case err != nil:
			t.Errorf("%s: etcd from %d/%d: %v", where, s.Term, s.Index, err)
		}
		if rewound {
			n.d1++
		}
		want = Content{Metadata: m.Metadata, State: m.State, Entries: entries}
		if diff := cmp.Diff(text(want), text(got)); diff != "" {
			t.Errorf("%s: etcd from %d/%d, -want +got\n%s", where, s.Term, s.Index, diff)
		}
		state, err := etcd.Verify(zap.NewNop(), dir, &etcdpb.Snapshot{Index: new(s.Index), Term: new(s.Term)})
		if err != nil || FromEtcdState(state) != m.State {
			t.Errorf("%s: etcd's Verify from %d/%d: %v %v, want %+v", where, s.Term, s.Index, state, err, m.State)
		}
	}
}

// starts returns the snapshots to read from: the first, the newest, and a few in between.
func starts(m *Model) []walpb.Snapshot {
	usable := m.Usable()
	slices.SortFunc(usable, func(a, b walpb.Snapshot) int { return order.Compare(a.Index, b.Index) })
	usable = slices.CompactFunc(usable, func(a, b walpb.Snapshot) bool { return a.Index == b.Index })
	if len(usable) <= 4 {
		return usable
	}
	n := len(usable)
	return []walpb.Snapshot{usable[0], usable[n/3], usable[2*n/3], usable[n-1]}
}

// text says what a content is, a line for each of its parts, so that nil is told from empty and
// long data stays short.
func text(c Content) []string {
	lines := []string{fmt.Sprintf("metadata %x", c.Metadata), fmt.Sprintf("state %+v", c.State)}
	for _, e := range c.Entries {
		lines = append(lines, fmt.Sprintf("%v %d/%d %s", e.Type, e.Term, e.Index, bytesText(e.Data)))
	}
	return lines
}

func bytesText(b []byte) string {
	switch {
	case b == nil:
		return "nil"
	case len(b) > 40:
		return fmt.Sprintf("%x… %d bytes, sum %08x", b[:20], len(b), walpb.Checksum(0, b))
	}
	return fmt.Sprintf("[%x]", b)
}

func recordText(r walpb.Record) string {
	return fmt.Sprintf("%v %08x %s", r.Type, r.CRC, bytesText(r.Data))
}

func sameHead(a, b Segment) bool {
	return slices.EqualFunc(a.Head(), b.Head(), func(x, y walpb.Record) bool { return recordText(x) == recordText(y) })
}
