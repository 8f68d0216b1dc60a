package crash

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/walpb"
)

// files is the model of the snapshots' files.
type files struct {
	form  form
	keep  int // how many of them Keep keeps
	saved map[snapshotID]saves
	gone  map[string]bool // files that must not come back: their removal was acknowledged
	floor uint64          // the lowest index that Keep leaves alone
	steps int             // changes of the model; see image
}

// form is how a state is kept: whole in a snapshot's file, in a streamed body, or in a body to
// which a snapshot's file points.
type form int

const (
	inSnapshot form = iota
	inBody
	inBoth
)

// snapshotID is what a snapshot is of.
type snapshotID struct{ index, term uint64 }

// saves counts how often a snapshot was saved, each time with other bytes.
type saves struct{ attempted, acked uint64 }

func newFiles(f form, keep int) *files {
	return &files{form: f, keep: keep, saved: map[snapshotID]saves{}, gone: map[string]bool{}}
}

// state is what a snapshot holds that was saved for the nth time.
func (f *files) state(of snapshotID, n uint64) []byte {
	h := (of.index*0x9e3779b97f4a7c15 ^ of.term*0xbf58476d1ce4e5b9 ^ n) * 0x94d049bb133111eb
	size := 8 + h>>40%1500
	if f.form != inSnapshot && h>>20%32 == 0 {
		size += snap.BlockSize
	}
	b := make([]byte, 0, size+8)
	for uint64(len(b)) < size {
		h = h*0x5851f42d4c957f2d + 0x14057b7ef767814f
		b = binary.LittleEndian.AppendUint64(b, h^h>>29)
	}
	return b
}

// save does what a consensus system does before it records a snapshot.
func (f *files) save(store *snap.Store, s walpb.Snapshot, n uint64) error {
	of := snapshotID{s.Index, s.Term}
	data := f.state(of, n)
	if f.form != inSnapshot {
		b := snap.Body{Index: s.Index, Term: s.Term, ConfState: s.ConfState}
		binary.LittleEndian.PutUint64(b.ID[:], n)
		w, err := store.Resume(b)
		if err != nil {
			return err
		}
		defer w.Close()
		if _, err := w.Write(data[w.Size():]); err != nil {
			return err
		}
		if err := w.Commit(); err != nil || f.form == inBody {
			return err
		}
		data = []byte("in the body")
	}
	return store.Save(snap.Snapshot{Index: s.Index, Term: s.Term, ConfState: s.ConfState, Data: data})
}

// judge starts from the snapshots that a log records. The newest of them must have a file with what
// was saved: after the last save that was acknowledged, or a later one.
func (f *files) judge(store *snap.Store, disk *crashfs.FS, recorded []walpb.Snapshot, newest walpb.Snapshot) error {
	l, err := store.List()
	if err != nil {
		return oracle.Failf(oracle.Refused, "list the snapshots: %v", err)
	}
	if len(l.Broken)+len(l.Strays) > 0 {
		return oracle.Failf(oracle.Refused, "a crash is no damage: %q %q", l.Broken, l.Strays)
	}
	names, err := disk.ReadDir(harness.SnapDir)
	if err != nil {
		return oracle.Failf(oracle.Refused, "list the snapshots: %v", err)
	}
	for _, e := range names {
		if f.gone[e.Name()] {
			return oracle.Failf(oracle.Invented, "snapshot %s is there again", e.Name())
		}
	}
	found, data, err := f.newest(store, recorded)
	if err != nil {
		return oracle.Failf(oracle.Lost, "the file of snapshot %d/%d: %v", newest.Term, newest.Index, err)
	}
	if found.Index != newest.Index || found.Term != newest.Term || !bytes.Equal(found.ConfState, newest.ConfState) {
		return oracle.Failf(oracle.Lost, "the newest snapshot with a file is %d/%d, not %d/%d", found.Term, found.Index, newest.Term, newest.Index)
	}
	if newest.Index > 0 {
		if err := f.judgeState(snapshotID{newest.Index, newest.Term}, data); err != nil {
			return err
		}
	}
	return f.judgeOlder(store)
}

// judgeState compares what a snapshot holds with what was saved.
func (f *files) judgeState(of snapshotID, data []byte) error {
	saves := f.saved[of]
	for n := saves.attempted; n > 0 && n >= saves.acked; n-- {
		if bytes.Equal(data, f.state(of, n)) {
			return nil
		}
	}
	return oracle.Failf(oracle.Lost, "snapshot %d/%d holds %d bytes, and not those that were saved", of.term, of.index, len(data))
}

// judgeOlder reads as many of the newest snapshots whose saving was acknowledged as Keep keeps.
func (f *files) judgeOlder(store *snap.Store) error {
	terms := map[uint64]int{} // a body has a name for its index alone, and the last term's is there
	var acked []snapshotID
	for of, saves := range f.saved {
		terms[of.index]++
		if saves.acked > 0 && of.index >= f.floor {
			acked = append(acked, of)
		}
	}
	slices.SortFunc(acked, func(a, b snapshotID) int { return cmp.Compare(b.index, a.index) })
	for _, of := range acked[:min(f.keep, len(acked))] {
		if terms[of.index] > 1 {
			continue
		}
		_, data, err := f.newest(store, []walpb.Snapshot{{Index: of.index, Term: of.term}})
		if err != nil {
			return oracle.Failf(oracle.Lost, "snapshot %d/%d, which was saved: %v", of.term, of.index, err)
		}
		if err := f.judgeState(of, data); err != nil {
			return err
		}
	}
	return nil
}

// newest reads the newest snapshot that is recorded and has a file.
func (f *files) newest(store *snap.Store, recorded []walpb.Snapshot) (walpb.Snapshot, []byte, error) {
	of := walpb.Snapshot{}
	if f.form != inBody {
		s, err := store.Newest(recorded)
		if err != nil || f.form == inSnapshot || s.Index == 0 {
			return s.Record(), s.Data, err
		}
		of = s.Record()
	}
	var (
		r   *snap.Reader
		err error
	)
	if f.form == inBody {
		r, err = store.NewestBody(recorded)
	} else {
		r, err = store.OpenBody(of.Index)
	}
	if err != nil {
		return of, nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return r.Body().Record(), data, err
}

// saveFile saves the file of a snapshot, most often for the first time.
func (l *life) saveFile(s walpb.Snapshot) {
	f, of := l.files, snapshotID{s.Index, s.Term}
	saves := f.saved[of]
	if saves.attempted == 0 || l.rng.IntN(4) == 0 {
		saves.attempted++
	}
	f.saved[of] = saves
	f.steps++
	maps.DeleteFunc(f.gone, func(name string, _ bool) bool { return isFileOf(name, s) })
	l.trace.Addf("save file %d/%d, version %d", s.Term, s.Index, saves.attempted)
	if l.call(func() error { return f.save(l.store, s, saves.attempted) }) == nil && !l.ended {
		saves.acked = saves.attempted
		f.saved[of] = saves
		f.steps++
	}
}

// isFileOf reports whether a file is one that saving a snapshot makes: those that it is in, and on
// the way those that become them.
func isFileOf(name string, s walpb.Snapshot) bool {
	return strings.HasPrefix(name, fmt.Sprintf("%016x-%016x.snap", s.Term, s.Index)) ||
		strings.HasPrefix(name, fmt.Sprintf("%016x.snap.db", s.Index))
}

// keepFiles removes the files of old snapshots.
func (l *life) keepFiles(walpb.Snapshot) {
	f := l.files
	// What a crash leaves is at least what was acknowledged; a snapshot that is not committed
	// by that may be lost.
	m := oracle.Fold(l.model.Records[:l.model.Acked])
	if s := l.campaign.cfg.Saboteur; s != nil && s.keepEarly {
		m = oracle.Fold(l.model.Records)
		m.State.Index = math.MaxUint64
	}
	newest := walpb.Snapshot{}
	for _, s := range m.Snapshots {
		if s.Index <= m.State.Index && s.Index >= newest.Index {
			newest = walpb.Snapshot{Index: s.Index, Term: s.Term}
		}
	}
	before, err := l.disk.ReadDir(harness.SnapDir)
	if err != nil {
		l.fail(oracle.Refused, "list the snapshots: %v", err)
		return
	}
	if kept := indexesOf(before, newest.Index); len(kept) > 0 {
		f.floor = max(f.floor, kept[max(0, len(kept)-f.keep)])
		f.steps++
	}
	l.trace.Addf("keep %d snapshots up to %d/%d", f.keep, newest.Term, newest.Index)
	if l.call(func() error { return l.store.Keep(f.keep, newest) }) != nil || l.ended {
		return
	}
	after, err := l.disk.ReadDir(harness.SnapDir)
	if err != nil {
		l.fail(oracle.Refused, "list the snapshots: %v", err)
		return
	}
	for _, e := range before {
		f.gone[e.Name()] = true
	}
	for _, e := range after {
		delete(f.gone, e.Name())
	}
	f.steps++
	if kept, were := indexesOf(after, newest.Index), indexesOf(before, newest.Index); !slices.Equal(kept, were[max(0, len(were)-f.keep):]) {
		l.fail(oracle.Lost, "keep %d snapshots up to %d: of %d it keeps %d", f.keep, newest.Index, were, kept)
	}
}

// indexesOf returns the indexes of the snapshots that have files, up to one.
func indexesOf(names []fs.DirEntry, upTo uint64) (indexes []uint64) {
	for _, e := range names {
		name, ok := strings.CutSuffix(e.Name(), ".snap.db")
		if !ok {
			if name, ok = strings.CutSuffix(e.Name(), ".snap"); ok {
				_, name, ok = strings.Cut(name, "-")
			}
		}
		if index, is := fileutil.ParseHex(name); ok && is && index <= upTo {
			indexes = append(indexes, index)
		}
	}
	slices.Sort(indexes)
	return slices.Compact(indexes)
}
