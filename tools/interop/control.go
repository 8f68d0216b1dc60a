package interop

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/rot"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// A Control is etcd's own log package, for the campaigns below fuzz to judge: what it does not
// lose or get wrong there, they cannot see. It reads real files, in memory if the system has a
// place for such. Its methods may be called concurrently, but not beside a log that etcd writes.
type Control struct {
	root   string
	mu     sync.Mutex
	idle   []string // directories below root that are free
	made   int
	states atomic.Int64
	panics atomic.Int64

	// Of the states of Opened: in how many segments were missing between others, and how many
	// etcd's known defects explain.
	gaps, excused atomic.Int64
}

// controlSegment is the size of the segments that etcd prepares when it opens a log, in bytes.
const controlSegment = 16 << 10

// NewControl makes a directory for the files, which Close removes. The error is what the file
// system said.
func NewControl() (*Control, error) {
	in := "/dev/shm"
	if info, err := os.Stat(in); err != nil || !info.IsDir() {
		in = ""
	}
	root, err := os.MkdirTemp(in, "control")
	if err != nil && in != "" {
		root, err = os.MkdirTemp("", "control")
	}
	if err != nil {
		return nil, err
	}
	etcd.SegmentSizeBytes = controlSegment
	return &Control{root: root}, nil
}

// Close removes the files.
func (c *Control) Close() error { return os.RemoveAll(c.root) }

// Panics returns how often etcd has panicked so far.
func (c *Control) Panics() int { return int(c.panics.Load()) }

// Start opens the log in a directory of disk as an etcd server does that starts: it looks for the
// newest snapshot record that it can use, opens the log there and reads it all; if that says
// "unexpected EOF" it repairs the log, once, and tries again. repaired is whether it did. It is a
// rot.Recover. A panic is an error that wraps rot.ErrPanicked, and a log that is not there, as
// etcd sees it, fs.ErrNotExist.
func (c *Control) Start(disk *crashfs.FS, dir string) (log *wal.Log, repaired bool, err error) {
	err = c.in(disk, dir, func(dir string) (err error) {
		log, repaired, err = start(dir)
		return err
	})
	return log, repaired, err
}

// Read opens the log in a directory of disk only to read it, at the beginning, as etcd's tools do.
// It is a rot.Recover, with the errors of Start, which has nothing to report but by an error.
func (c *Control) Read(disk *crashfs.FS, dir string) (log *wal.Log, reported bool, err error) {
	err = c.in(disk, dir, func(dir string) error {
		content, err := ReadEtcd(dir, walpb.Snapshot{})
		log = content.log(walpb.Snapshot{})
		return err
	})
	return log, false, err
}

// Crashed is Start, as a crash.Recover.
func (c *Control) Crashed(disk *crashfs.FS, dir string) (*wal.Log, error) {
	log, _, err := c.Start(disk, dir)
	return log, err
}

// Opened opens the log with package wal, and closes it; then etcd starts from it, as in Start. The
// result is what ours reads, if etcd reads the same, or does what its known defects make of that:
// see [EtcdWould]. Else it is what etcd reads. It is a crash.Recover.
func (c *Control) Opened(disk *crashfs.FS, dir string) (*wal.Log, error) {
	if gap(disk, dir) {
		c.gaps.Add(1)
	}
	o := &wal.Options{FS: disk, SegmentSize: openedSegment}
	w, err := wal.Open(dir, o)
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	ours, err := replayNewest(dir, o)
	if err != nil {
		return nil, err
	}
	var theirs *wal.Log
	err = c.in(disk, dir, func(dir string) (err error) {
		theirs, err = c.startOpened(dir, ours)
		return err
	})
	return theirs, err
}

// startOpened starts from what ours has opened, which must not need a repair. Where etcd's known
// defects explain what it does, the result is what ours reads.
func (c *Control) startOpened(dir string, ours *wal.Log) (*wal.Log, error) {
	theirs, repaired, err := start(dir)
	if err == nil && repaired {
		err = errors.New("etcd: it had to repair what Open left")
	}
	if err == nil && means(theirs, ours, ours.Entries) {
		return ours, nil
	}
	segments, err2 := EtcdSegments(dir)
	if err2 != nil {
		return nil, errors.Join(err, err2)
	}
	would, _, gap, err2 := EtcdWould(segments, ours.Snapshot)
	switch {
	case err2 != nil:
		return nil, errors.Join(err, err2)
	case errors.Is(err, etcd.ErrSliceOutOfRange) && gap:
		// A crash has left a received snapshot's record and entries after it, but not the hard
		// state that commits it.
		c.excused.Add(1)
		return ours, nil
	case err == nil && means(theirs, ours, would):
		c.excused.Add(1)
		return ours, nil
	}
	return theirs, err
}

// means reports whether a log differs in nothing but its entries, which are these.
func means(l, other *wal.Log, entries []walpb.Entry) bool {
	return l.Snapshot.Index == other.Snapshot.Index && equalContent(Content{l.Metadata, l.State, l.Entries}, Content{other.Metadata, other.State, entries})
}

// gap reports whether segments are missing between others.
func gap(disk *crashfs.FS, dir string) bool {
	var before uint64
	first := true
	for _, name := range slices.Sorted(maps.Keys(disk.Tree())) {
		var seq, index uint64
		if n, _ := fmt.Sscanf(path.Base(name), "%16x-%16x.wal", &seq, &index); n != 2 || path.Dir(name) != path.Clean(dir) || path.Ext(name) != ".wal" {
			continue
		}
		if !first && seq != before+1 {
			return true
		}
		before, first = seq, false
	}
	return false
}

// in calls fn with the path of a directory that holds the files that dir of disk holds.
func (c *Control) in(disk *crashfs.FS, dir string, fn func(dir string) error) (err error) {
	if c.states.Add(1)%256 == 0 {
		runtime.GC() // etcd leaves files open when it fails
	}
	to := c.take()
	defer c.give(to)
	if err := unload(disk, dir, to); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			c.panics.Add(1)
			err = fmt.Errorf("%w: %v", rot.ErrPanicked, p)
		}
	}()
	if !etcd.Exist(to) {
		return fmt.Errorf("etcd: no log: %w", fs.ErrNotExist)
	}
	return fn(to)
}

// take returns a directory that no other caller uses until it is given back.
func (c *Control) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		to := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return to
	}
	c.made++
	return filepath.Join(c.root, strconv.Itoa(c.made))
}

func (c *Control) give(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, to)
}

// unload makes a directory hold what dir of disk holds, and nothing else.
func unload(disk *crashfs.FS, dir, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for name, b := range disk.Tree() {
		base, ok := strings.CutPrefix(name, path.Clean(dir)+"/")
		if !ok || base == "" {
			continue
		}
		at := filepath.Join(to, filepath.FromSlash(base))
		var err error
		if strings.HasSuffix(base, "/") {
			err = os.MkdirAll(at, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(at), 0o700); err == nil {
			err = os.WriteFile(at, b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// start does what Control.Start says.
func start(dir string) (log *wal.Log, repaired bool, err error) {
	for {
		snapshots, err := EtcdSnapshots(dir)
		if err != nil {
			return nil, repaired, err
		}
		newest, _ := wal.Newest(snapshots)
		content, err := openReadAll(dir, newest)
		if errors.Is(err, io.ErrUnexpectedEOF) && !repaired {
			if !etcd.Repair(zap.NewNop(), dir) {
				return nil, repaired, fmt.Errorf("etcd: it cannot repair: %w", err)
			}
			repaired = true
			continue
		}
		return content.log(newest), repaired, err
	}
}

// log returns the content as package wal would, replayed from a snapshot.
func (c Content) log(from walpb.Snapshot) *wal.Log {
	return &wal.Log{Metadata: c.Metadata, State: c.State, Snapshot: from, Entries: c.Entries}
}
