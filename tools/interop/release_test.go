package interop

import (
	"errors"
	"fmt"
	"hash/maphash"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const releasedDir = "wal"

// released is a campaign of crashes in Release, and in the Open that finishes it.
type released struct {
	control *Control
	opts    wal.Options
	want    Content // from the snapshot on
	seed    maphash.Seed
	seen    map[uint64]bool // sums of the states so far
	err     error
}

// Each power cut in Release leaves some of the names that it has removed. Ours opens that, goes on,
// and closes it; and then etcd has to start from it, life after life, and to read what was saved.
func TestEtcdStartsAfterEveryCrashInRelease(t *testing.T) {
	control, err := NewControl()
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	for _, plain := range []bool{false, true} {
		r := &released{control: control, opts: wal.Options{SegmentSize: 4096, PlainEtcd: plain}, seed: maphash.MakeSeed(), seen: map[uint64]bool{}}
		if err := r.run(); err != nil {
			t.Errorf("plain=%v: %v", plain, err)
		}
		gaps := control.gaps.Swap(0)
		t.Logf("plain=%v: %d states, segments were missing between others in %d", plain, len(r.seen), gaps)
		if r.err == nil && (len(r.seen) < 100 || gaps < 50) {
			t.Errorf("plain=%v: %d states, %d gaps: too few", plain, len(r.seen), gaps)
		}
	}
}

// run makes a log of six segments, of which Release removes five, and crashes it at every moment
// and in every way.
func (r *released) run() error {
	disk := crashfs.New()
	opts := r.opts
	opts.FS = disk
	w, err := CreateOurs(releasedDir, []byte{8, 1, 16, 2}, opts)
	if err != nil {
		return err
	}
	at := walpb.Snapshot{Term: 1, Index: 6, ConfState: []byte{8, 1}}
	for i := uint64(1); i <= at.Index; i++ {
		if err := w.Save(walpb.HardState{Term: 1, Commit: i}, []walpb.Entry{{Term: 1, Index: i, Data: make([]byte, 4000)}}); err != nil {
			return err
		}
	}
	r.want = Content{Metadata: []byte{8, 1, 16, 2}, State: walpb.HardState{Term: 1, Commit: at.Index}}
	if err := errors.Join(w.SaveSnapshot(at), w.w.Sync()); err != nil {
		return err
	}
	r.crashes(disk, "in Release", 0)
	err = w.w.Release(at.Index)
	disk.SetHook(nil, nil)
	return errors.Join(err, w.Close(), r.err)
}

// crashes has every crash of each moment from now on examined, until the hook is taken away.
func (r *released) crashes(disk *crashfs.FS, what string, depth int) {
	disk.SetHook(nil, func(op crashfs.Op) {
		pending := disk.Pending()
		for set := range 1 << len(pending) {
			if r.err != nil {
				return
			}
			after := disk.Crash(func(places []crashfs.Place, choices []crashfs.Choice) {
				for i := range places {
					if set>>i&1 == 1 {
						choices[i].Version = places[i].Versions
					}
				}
			})
			if sum := after.Sum(r.seed); !r.seen[sum] {
				r.seen[sum] = true
				r.err = r.lives(after, fmt.Sprintf("%s, %v: %b of %d", what, op, set, len(pending)), depth)
			}
		}
	})
}

// lives opens a log twice, appends each time, and has etcd start from what is there then.
func (r *released) lives(disk *crashfs.FS, what string, depth int) error {
	if gap(disk, releasedDir) {
		r.control.gaps.Add(1)
	}
	want := r.want
	for range 2 {
		opts := r.opts
		opts.FS = disk
		if depth == 0 && gap(disk, releasedDir) {
			r.crashes(disk, what+"; in Open", depth+1)
		}
		w, err := OpenOurs(releasedDir, opts)
		disk.SetHook(nil, nil)
		if err != nil {
			return fmt.Errorf("%s: Open: %w", what, err)
		}
		last := want.State.Commit + 1
		want.State.Commit = last
		want.Entries = append(want.Entries[:len(want.Entries):len(want.Entries)], walpb.Entry{Term: 1, Index: last})
		if err := errors.Join(w.Save(want.State, want.Entries[len(want.Entries)-1:]), w.Close()); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		log, err := r.control.Crashed(disk, releasedDir)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if got := (Content{log.Metadata, log.State, log.Entries}); !equalContent(want, got) {
			return fmt.Errorf("%s: etcd reads %v, want %v", what, text(got), text(want))
		}
	}
	return nil
}
