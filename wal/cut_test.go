package wal_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D13, R12. etcd writes the head of a segment without a hard state if none was saved since it
// started, and names it after the last entry written since, whatever the snapshots say.
func TestFirstCutAfterReopenCarriesHardStateAndIndex(t *testing.T) {
	for name, snapshot := range map[string]walpb.Snapshot{"entry": {}, "snapshot": {Index: 50, Term: 2}} {
		t.Run(name, func(t *testing.T) {
			l, w := create(t, func(o *wal.Options) { o.SegmentSize = 64 << 10 })
			vote := walpb.HardState{Term: 2, Vote: 3, Commit: 4}
			must(t, w.Save(vote, entries(2, 1, 5, 2000)))
			want := uint64(6)
			if snapshot.Index > 0 {
				must(t, w.SaveSnapshot(snapshot))
				vote.Commit = 50
				must(t, w.Save(vote, nil))
				want = 51
			}
			must(t, w.Close())
			l = newLab(l.FS.Clone())
			// The segments of these options are smaller, so the log is cut at once.
			w, err := wal.Open(labDir, l.options())
			must(t, err)
			must(t, l.settle())
			must(t, w.Save(vote, nil)) // nothing new, but it ends the segment
			l.save(t, w, walpb.HardState{}, entries(2, want, want, 10))
			must(t, w.Close())
			segments := l.segments()
			if name := fmt.Sprintf("%016x-%016x.wal", 1, want); len(segments) != 2 || segments[1] != name {
				t.Fatalf("segments are %v, want a second %s", segments, name)
			}
			var types []walpb.Type
			for r, err := range wal.Records(labDir+"/"+segments[1], 0, &wal.Options{FS: l.FS}) {
				must(t, err)
				if types = append(types, r.Type); len(types) == 3 {
					var s walpb.HardState
					if err := s.UnmarshalLenient(r.Data); err != nil || s != vote {
						t.Errorf("the head holds %v, %v; want %v", s, err, vote)
					}
					break
				}
			}
			if !slices.Equal(types, []walpb.Type{walpb.TypeCRC, walpb.TypeMetadata, walpb.TypeState}) {
				t.Errorf("the head is %v", types)
			}
		})
	}
}

// D23. The size of etcd's segments is a variable of the process.
func TestSegmentSizeIsOfEachLog(t *testing.T) {
	f := crashfs.New()
	for dir, size := range map[string]int64{"small": 16 << 10, "large": 256 << 10} {
		o := newLab(f.Clone()).options()
		o.SegmentSize = size
		w, err := wal.Create(dir, nil, o)
		must(t, err)
		defer w.Close()
		l := o.FS.(*lab)
		must(t, l.settle())
		for i := uint64(1); l.cuts.Load() < 2; i++ {
			l.save(t, w, walpb.HardState{}, entries(1, i, i, 1000))
		}
		for name, b := range l.Tree() {
			if n := int64(len(b)); strings.HasPrefix(name, dir+"/") && name != dir+"/" && path.Base(name) != "synced" && (n < size || n > size+2000) {
				t.Errorf("%s has %d bytes, want about %d", name, n, size)
			}
		}
	}
}

// A spare is for one cut. Once two took the same, which panicked: while the batch that filled one
// segment was being synced, the batch that gathered for the next filled that as well.
func TestSpareIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hold(t)
		done := make(chan bool)
		go func() {
			defer close(done)
			for i := uint64(1); i <= 5; i++ { // each as large as a segment
				if err := h.w.Append(state(1, i-1), entries(1, i, i, 9000), func(error) {}); err != nil {
					t.Error(err)
				}
			}
		}()
		synctest.Wait()
		close(h.gate)
		<-done
		must(t, h.w.Close())
		log, err := replay(h.FS, walpb.Snapshot{})
		if err != nil || text(log.Entries) != text(entries(1, 1, 5, 0)) {
			t.Errorf("%v, %v", log, err)
		}
	})
}

// D9, R11. A crash between the sync of a new segment's head and its rename leaves a 0.tmp that
// begins with good records; etcd writes over it without truncating it, so that what its new head
// does not cover comes to life again.
func TestStaleSparesNeverComeToLife(t *testing.T) {
	stale := forge(0, append(head(), walpb.Record{Type: walpb.TypeEntry, Data: (&walpb.Entry{Term: 9, Index: 1, Data: bytes.Repeat([]byte("stale"), 1000)}).Append(nil)})...)
	for _, how := range []string{"create", "open"} {
		t.Run(how, func(t *testing.T) {
			f := crashfs.New()
			if how == "open" {
				w, err := wal.Create(labDir, []byte("meta"), &wal.Options{FS: f})
				must(t, err)
				must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
				must(t, w.Close())
			}
			for _, name := range []string{"0.tmp", "1.tmp", "17.tmp"} {
				f.WriteFile(labDir+"/"+name, stale)
			}
			l := newLab(f)
			openOrCreate := func() (*wal.Writer, error) {
				if how == "open" {
					return wal.Open(labDir, l.options())
				}
				return wal.Create(labDir, []byte("meta"), l.options())
			}
			w, err := openOrCreate()
			must(t, err)
			must(t, l.settle())
			last := uint64(1)
			if how == "create" {
				must(t, w.Save(state(1, 0), entries(1, 1, 1, 10)))
			}
			for l.cuts.Load() < 2 {
				last++
				l.save(t, w, walpb.HardState{}, entries(1, last, last, 700))
				for _, name := range l.segments() {
					if b, err := l.ReadFile(labDir + "/" + name); err != nil || bytes.Contains(b, []byte("stale")) {
						t.Errorf("%s holds what the stale spare held, or %v", name, err)
					}
				}
				// A segment holds nothing but what was written to it, whatever a crash leaves.
				for _, choose := range []crashfs.Chooser{crashfs.KeepAll, crashfs.DropAll} {
					log, err := replay(l.FS.Crash(choose), walpb.Snapshot{})
					must(t, err)
					if got, want := text(log.Entries), text(entries(1, 1, last, 0)); got != want {
						t.Fatalf("the log holds %s, want %s", got, want)
					}
				}
			}
			must(t, w.Close())
			if r := check(t, l.FS); r.Verdict != wal.Clean || how == "open" && len(r.Spares) > 0 {
				t.Errorf("in the end the log is %v, with spares %v", r.Verdict, r.Spares)
			}
		})
	}
}

// T22. DLedger deletes the file with the vote and then renames the new one to its name. Here a
// crash at any operation in the life of a log leaves the last acknowledged vote.
func TestVoteIsThereAtEveryMoment(t *testing.T) {
	l := newLab(crashfs.New())
	var (
		mu      sync.Mutex      // the spare is made in the background
		vote    walpb.HardState // acknowledged
		crashes int
	)
	l.FS.SetHook(nil, func(crashfs.Op) {
		mu.Lock()
		defer mu.Unlock()
		if vote.IsZero() {
			return
		}
		for i, choose := range []crashfs.Chooser{crashfs.DropAll, crashfs.KeepAll, crashfs.Random(rand.New(rand.NewPCG(1, uint64(crashes))))} {
			crashes++
			f := l.FS.Crash(choose)
			w, err := wal.Open(labDir, &wal.Options{FS: f, SegmentSize: 8 << 10})
			if err != nil {
				t.Errorf("crash %d, way %d: %v", crashes, i, err)
				return
			}
			w.Close()
			log, err := replay(f, walpb.Snapshot{})
			if err != nil || log.State.Term < vote.Term || log.State.Term == vote.Term && log.State.Vote != vote.Vote {
				t.Errorf("crash %d, way %d: %v, %v; acknowledged was %v", crashes, i, log, err, vote)
			}
		}
	})
	w, err := wal.Create(labDir, nil, l.options())
	must(t, err)
	must(t, l.settle())
	for i := uint64(1); l.cuts.Load() < 2; i++ {
		s := walpb.HardState{Term: i, Vote: i % 3}
		l.save(t, w, s, entries(i, i, i, 1500))
		mu.Lock()
		vote = s
		mu.Unlock()
	}
	must(t, w.Close())
	w, err = wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle())
	must(t, w.Close())
	if crashes < 50 {
		t.Errorf("only %d crashes", crashes)
	}
}
