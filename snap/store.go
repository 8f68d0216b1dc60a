package snap

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// A Store is a directory of snapshots to write to. Its methods may be called concurrently. Open
// makes one: the zero Store is of no directory, and what needs one returns ErrInvalid.
type Store struct {
	Dir // its methods read

	// mu orders what renames or removes: a file that is read again under it is the one that is then
	// set aside.
	mu      sync.Mutex
	writing map[uint64]bool // the indexes of the bodies that have a Writer
}

// Open returns the Store of a directory. It makes the directory, with its parents and mode 0700,
// unless it is there, and makes it durable. It changes nothing else, and reads no file. The error
// is what the file system returned.
func Open(dir string, opts *Options) (*Store, error) {
	s := &Store{Dir: *ReadOnly(dir, opts), writing: map[uint64]bool{}}
	if err := fileutil.MkdirAll(s.fs, dir); err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	return s, nil
}

// Save writes the snapshot into a file of its own, mode 0600. If a file of the same index and term
// holds the same already it stays as it is; one that holds something else, or is damaged, is
// replaced whole. The snapshot of index 0 is of nothing, and every log begins with it: Save writes
// no file for it, as etcd does.
//
// If Save returns nil the snapshot survives a crash, and may be recorded in the log. If it returns
// an error, or a crash comes before it returns, the file is as it was before, or not there if it
// was not, or holds all of the new snapshot; it must not be recorded. The error is
//   - ErrInvalid if a snapshot of index 0 has data;
//   - ErrInvalid if ConfState is not raft's, as neither etcd nor the log would take it;
//   - otherwise what the file system returned, and Save may be tried again.
func (s *Store) Save(snapshot Snapshot) error {
	if err := checkConfState(snapshot.Index, snapshot.ConfState); err != nil {
		return err
	}
	if snapshot.Index == 0 {
		if len(snapshot.Data) > 0 {
			return fmt.Errorf("snap: a snapshot of index 0 with data: %w", ErrInvalid)
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.sweep(); err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	path := filepath.Join(s.dir, snapshotName(snapshot.Index, snapshot.Term))
	head, tail := snapshot.encode()
	if !s.holds(path, head, snapshot.Data, tail) {
		err := fileutil.ReplaceFile(s.fs, path, 0o600, func(w io.Writer) error {
			for _, b := range [][]byte{head, snapshot.Data, tail} {
				if _, err := w.Write(b); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("snap: %w", err)
		}
		return nil // ReplaceFile synced the directory: from here on the snapshot survives a crash
	}
	// The process that wrote the file may have crashed before it could sync the directory.
	if err := fileutil.SyncDir(s.fs, s.dir); err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	return nil
}

// checkConfState returns the error of a ConfState that the log would refuse to record.
func checkConfState(index uint64, b []byte) error {
	if err := walpb.CheckConfState(b); err != nil {
		return fmt.Errorf("snap: a snapshot of index %d: %w: %w", index, ErrInvalid, err)
	}
	return nil
}

// holds reports whether a file holds just these bytes, and will after a crash if its name survives.
// If in doubt it reports false: a new file is as good.
func (s *Store) holds(path string, parts ...[]byte) bool {
	f, err := s.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false
	}
	// etcd writes in place, and may have crashed before its sync, or gone on after one that failed.
	// So the bytes to be compared must come from the disk, not from memory that never got there.
	if f.SyncData() != nil || f.DropCache() != nil {
		return false
	}
	off := int64(0)
	buf := make([]byte, 64<<10)
	for _, part := range parts {
		if int64(len(part)) > size-off {
			return false
		}
		for len(part) > 0 {
			b := buf[:min(len(buf), len(part))]
			if readFull(f, b, off) != nil || !bytes.Equal(b, part[:len(b)]) {
				return false
			}
			part, off = part[len(b):], off+int64(len(b))
		}
	}
	return off == size
}

// Newest is as [Dir.Newest], but sets a damaged file aside: it gets .broken added to its name. The
// newest four of these are kept, and the Logger is told.
func (s *Store) Newest(recorded []walpb.Snapshot) (Snapshot, error) {
	return newest(&s.Dir, recorded, func(r walpb.Snapshot) (Snapshot, error) {
		return orSetAside(s, snapshotName(r.Index, r.Term), func() (Snapshot, error) { return s.loadRecorded(r) })
	})
}

// NewestBody is as [Dir.NewestBody], but sets a damaged file aside, as Newest does.
func (s *Store) NewestBody(recorded []walpb.Snapshot) (*Reader, error) {
	return newest(&s.Dir, recorded, func(r walpb.Snapshot) (*Reader, error) {
		return orSetAside(s, bodyName(r.Index), func() (*Reader, error) { return s.openRecorded(r) })
	})
}

// orSetAside reads a file. One that is damaged is renamed, unless it no longer is when it is read
// once more, as another was saved in its place. If it cannot be renamed, such as when nothing can
// be written, the caller can still go on to an older one.
func orSetAside[T any](s *Store, name string, read func() (T, error)) (T, error) {
	got, err := read()
	if !isCorrupt(err) {
		return got, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	got, err = read()
	if !isCorrupt(err) {
		return got, err
	}
	failed := s.fs.Rename(filepath.Join(s.dir, name), filepath.Join(s.dir, name+brokenSuffix))
	if failed == nil {
		failed = s.trimBroken()
	}
	s.log.Warn("a damaged snapshot file is set aside", "dir", s.dir, "file", name, "error", failed)
	return got, err
}

// Keep removes old snapshots and bodies. recorded is the newest snapshot that the log records,
// durably. Of those up to recorded the n newest stay; a snapshot and a body of the same index count
// as one. What is newer stays as well: it may be about to be recorded. What interrupted writes left
// is removed, except unfinished bodies newer than recorded, which can be resumed.
//
// If Keep returns nil the files stay removed after a crash; otherwise a crash may bring any of them
// back. The error is
//   - ErrInvalid if n is less than 1;
//   - fs.ErrNotExist, wrapped, if there is no file of recorded; none is removed then;
//   - otherwise what the file system returned, and some files are removed.
func (s *Store) Keep(n int, recorded walpb.Snapshot) error {
	if n < 1 {
		return fmt.Errorf("snap: to keep %d snapshots: %w", n, ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.sweep()
	if err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	if there, err := s.has(l, recorded); err != nil {
		return err
	} else if !there {
		return fmt.Errorf("snap: %s: snapshot %d/%d: %w", s.dir, recorded.Term, recorded.Index, fs.ErrNotExist)
	}
	if err := s.remove(l.outdated(n, recorded.Index)); err != nil {
		return err
	}
	for _, index := range l.Partials {
		if index <= recorded.Index && !s.writing[index] {
			if err := s.fs.Remove(filepath.Join(s.dir, partialName(index))); err != nil {
				return fmt.Errorf("snap: %w", err)
			}
		}
	}
	if err := fileutil.SyncDir(s.fs, s.dir); err != nil { // from here on they stay away
		return fmt.Errorf("snap: %w", err)
	}
	return nil
}

// Oldest returns the index of the oldest snapshot or body that Keep keeps of the same n and
// recorded. The log may be released up to there. While there are fewer than n it is 0: the log has
// to go back to its beginning to stand in for those that are missing. Oldest changes nothing. The
// error is
//   - ErrInvalid if n is less than 1;
//   - otherwise what the file system returned.
func (s *Store) Oldest(n int, recorded walpb.Snapshot) (uint64, error) {
	if n < 1 {
		return 0, fmt.Errorf("snap: the oldest of %d snapshots: %w", n, ErrInvalid)
	}
	l, err := s.List()
	if err != nil {
		return 0, err
	}
	if all := l.indexes(recorded.Index); len(all) >= n {
		return all[len(all)-n], nil
	}
	return 0, nil
}

// Prune removes the snapshots and bodies that are newer than all that is recorded: a crash came
// before their record did. It is for a restart, before anything is saved: later they would count
// among those that Keep keeps. recorded is what wal.Snapshots returns. The error is
//   - ErrInvalid if recorded is empty, and nothing is removed;
//   - otherwise what the file system returned.
func (s *Store) Prune(recorded []walpb.Snapshot) error {
	if len(recorded) == 0 {
		return fmt.Errorf("snap: to keep no snapshot: %w", ErrInvalid)
	}
	newest := newestFirst(recorded)[0].Index
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.sweep()
	if err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	names := l.outdated(0, math.MaxUint64)
	names = slices.DeleteFunc(names, func(name string) bool {
		_, index, _ := parseName(name)
		return index <= newest
	})
	return s.remove(names) // should they come back after a crash the next restart removes them
}

// has reports whether there is a file of a recorded snapshot. That of index 0 needs none.
func (s *Store) has(l *Listing, r walpb.Snapshot) (bool, error) {
	isIt := func(index, term uint64) bool { return index == r.Index && term == r.Term }
	if r.Index == 0 || slices.ContainsFunc(l.Snapshots, func(f File) bool { return isIt(f.Index, f.Term) }) {
		return true, nil
	}
	if !slices.Contains(l.Bodies, r.Index) {
		return false, nil
	}
	body, err := s.OpenBody(r.Index) // its term is in the file alone
	if isCorrupt(err) || errors.Is(err, ErrForeign) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer body.Close()
	return isIt(body.body.Index, body.body.Term), nil
}

// indexes returns the indexes, up to upTo, of the snapshots and bodies, the lowest first.
func (l *Listing) indexes(upTo uint64) []uint64 {
	all := slices.Clone(l.Bodies)
	for _, r := range l.Snapshots {
		all = append(all, r.Index)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(index uint64) bool { return index > upTo })
}

// outdated returns the names of the files of all but the n newest snapshots up to an index, the
// oldest first: if their removal is interrupted, those that are left have no gap.
func (l *Listing) outdated(n int, upTo uint64) (names []string) {
	indexes := l.indexes(upTo)
	for _, index := range indexes[:max(0, len(indexes)-n)] {
		for _, f := range l.Snapshots {
			if f.Index == index {
				names = append(names, f.Name())
			}
		}
		if slices.Contains(l.Bodies, index) {
			names = append(names, bodyName(index))
		}
	}
	return names
}

// remove removes files, except those that are foreign.
func (s *Store) remove(names []string) error {
	for _, name := range names {
		if _, index, kind := parseName(name); kind == bodyFile {
			if err := s.notForeign(index); errors.Is(err, ErrForeign) {
				continue
			} else if err != nil {
				return err
			}
		}
		if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil {
			return fmt.Errorf("snap: %w", err)
		}
	}
	return nil
}

// maxBroken is how many files that were set aside are kept.
const maxBroken = 4

// trimBroken removes the oldest of the files that were set aside, and syncs the directory.
func (s *Store) trimBroken() error {
	l, err := s.List()
	if err != nil {
		return err
	}
	for len(l.Broken) > maxBroken {
		oldest := slices.MinFunc(l.Broken, func(a, b string) int { return cmp.Compare(brokenIndex(a), brokenIndex(b)) })
		if err := s.fs.Remove(filepath.Join(s.dir, oldest)); err != nil {
			return err
		}
		l.Broken = slices.DeleteFunc(l.Broken, func(name string) bool { return name == oldest })
	}
	return fileutil.SyncDir(s.fs, s.dir)
}

// sweep lists the directory, and removes what Saves that a crash interrupted left of new files,
// which are never read.
func (s *Store) sweep() (*Listing, error) {
	l, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, name := range l.temporary {
		if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil {
			return nil, err
		}
	}
	return l, nil
}
