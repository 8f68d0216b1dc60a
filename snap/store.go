package snap

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// A Store is a directory of snapshots. Its methods may be called concurrently. Open makes one: the
// zero Store is of no directory, and what needs one returns ErrInvalid.
type Store struct {
	dir string
	fs  fileutil.FS
	log *slog.Logger

	// mu orders what renames or removes: a file that is read again under it is the one that is then
	// set aside.
	mu      sync.Mutex
	writing map[uint64]bool // the indexes of the bodies that have a Writer
}

// Options are what a caller may choose. A nil *Options and every zero field mean the default.
// Options are read when they are passed and never written to.
type Options struct {
	// Logger is told of what no caller is: a file that was set aside, or could not be; a snapshot
	// that was passed over for an older one. The default is silence.
	Logger *slog.Logger

	// FS is the file system. The default is the operating system's.
	FS fileutil.FS
}

// Open returns the Store of the directory dir, and makes the directory with its parents, mode 0700,
// if it is not there. It changes nothing else, and reads no file. The error is what the file system
// said. The directory survives a crash once Open returned nil.
func Open(dir string, opts *Options) (*Store, error) {
	s := &Store{dir: dir, fs: fileutil.OS{}, log: slog.New(slog.DiscardHandler), writing: map[uint64]bool{}}
	if opts != nil && opts.FS != nil {
		s.fs = opts.FS
	}
	if opts != nil && opts.Logger != nil {
		s.log = opts.Logger
	}
	if err := fileutil.MkdirAll(s.fs, dir); err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	return s, nil
}

// usable returns the error of a Store that is not from Open.
func (s *Store) usable() error {
	if s.fs == nil {
		return fmt.Errorf("snap: %w: this Store is not from Open", ErrInvalid)
	}
	return nil
}

// Save writes the snapshot into a file of its own, mode 0600. If a file of the same index and term
// holds the same already it stays as it is; one that holds something else, or is damaged, is
// replaced whole. s may be used by others at the same time.
//
// If Save returns nil the snapshot survives a crash, and may be recorded in the log. If it returns
// an error, or a crash comes before it returns, the file holds what it held before, or all of the
// new snapshot, or is not there if it was not; it must not be recorded. The error is what the file
// system said, and Save may be tried again.
//
// The snapshot of index 0 is of nothing, and every log begins with it: no file is written and nil
// returned, as etcd does. If it has data the error is ErrInvalid, as it is if a ConfState is not
// raft's, so that neither etcd nor the log would take it.
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
	// Whoever wrote the file may have died before he could sync the directory.
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

// holds tells whether a file holds just these bytes, and will after a crash if its name does. On
// any doubt it does not: a new file is always as good.
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
	// etcd writes in place, and may have died before its sync, or gone on after one that failed. So
	// the bytes to be compared must come from the disk, not from memory that the disk never got.
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

// Load reads the snapshot of that index and term, and changes nothing. It owns its memory.
//
// If it is not there the error wraps fs.ErrNotExist. If its bytes are wrong, or those of a snapshot
// of another index or term, the error is a *CorruptError. Otherwise the error is what the file
// system said.
func (s *Store) Load(index, term uint64) (Snapshot, error) {
	if err := s.usable(); err != nil {
		return Snapshot{}, err
	}
	name := snapshotName(index, term)
	f, err := s.fs.OpenFile(filepath.Join(s.dir, name), os.O_RDONLY, 0)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snap: %w", err)
	}
	defer f.Close() // there is nothing to learn from closing a file that was only read
	snapshot, err := load(f)
	if err == nil && (snapshot.Index != index || snapshot.Term != term) {
		err = corrupt(0, "the snapshot in it is %d/%d", snapshot.Index, snapshot.Term)
	}
	if err != nil {
		return Snapshot{}, fileError(name, err)
	}
	return snapshot, nil
}

// load reads a file. What the file says about its length is compared with the file before there is
// memory for it.
func load(f readable) (Snapshot, error) {
	size, err := f.Size()
	if err != nil {
		return Snapshot{}, err
	}
	head, err := readHead(f, size, maxEnvelope)
	if err != nil {
		return Snapshot{}, err
	}
	if _, _, err := parseEnvelope(head, size); err != nil {
		return Snapshot{}, err
	}
	if size > math.MaxInt {
		return Snapshot{}, fmt.Errorf("%d bytes are more than this machine can have in memory", size)
	}
	b := make([]byte, size)
	if err := readFull(f, b, 0); err != nil {
		return Snapshot{}, err
	}
	var snapshot Snapshot
	if err := snapshot.Unmarshal(b); err != nil {
		return Snapshot{}, err
	}
	return snapshot, nil
}

// Newest returns the newest of the snapshots recorded in the log of which there is a good file. It
// owns its memory. recorded is what wal.Snapshots returns, in any order; other files are not looked
// at.
//
// A file that is damaged is set aside under its name with .broken added, of which the newest four
// are kept, and the next older one is taken, if the log records one; the Logger is told. A file
// that is not there is passed over alike. If index 0 is recorded, so that the log goes back to its
// beginning, and nothing newer is found, the result is the Snapshot of index 0, without data, which
// has no file: so a new log needs no case of its own.
//
// If nothing is found the error wraps ErrNoSnapshot and, if there was damage, a *CorruptError. If a
// file could not be read, the error is what the file system said and the file is left alone: it may
// be good.
func (s *Store) Newest(recorded []walpb.Snapshot) (Snapshot, error) {
	var damage []error
	for _, r := range newestFirst(recorded) {
		if r.Index == 0 {
			return Snapshot{Term: r.Term, ConfState: bytes.Clone(r.ConfState)}, nil
		}
		got, err := s.Load(r.Index, r.Term)
		if isCorrupt(err) {
			err = s.setAside(snapshotName(r.Index, r.Term), func() error {
				got, err = s.Load(r.Index, r.Term)
				return err
			})
		}
		switch {
		case err == nil:
			return got, nil
		case isCorrupt(err):
			damage = append(damage, err)
		case errors.Is(err, fs.ErrNotExist):
			s.log.Warn("a recorded snapshot is not there, looking for an older one", "dir", s.dir, "file", snapshotName(r.Index, r.Term))
		default:
			return Snapshot{}, err
		}
	}
	return Snapshot{}, s.noSnapshot(len(recorded), damage)
}

func (s *Store) noSnapshot(recorded int, damage []error) error {
	err := fmt.Errorf("snap: %s: %w: the log records %d", s.dir, ErrNoSnapshot, recorded)
	return errors.Join(append([]error{err}, damage...)...)
}

func newestFirst(recorded []walpb.Snapshot) []walpb.Snapshot {
	return slices.SortedStableFunc(slices.Values(recorded), func(a, b walpb.Snapshot) int {
		return cmp.Or(cmp.Compare(b.Index, a.Index), cmp.Compare(b.Term, a.Term))
	})
}

// Keep removes old snapshots and bodies: all but the n newest, of those that are not newer than
// recorded. recorded is the newest snapshot that the log records, durably: what is newer may be
// about to be recorded, and stays. A snapshot and a body of the same index count as one. Also
// removed are what writes that a crash interrupted left behind, but for the unfinished bodies newer
// than recorded, which can be resumed.
//
// If recorded itself is not there nothing is removed and the error wraps fs.ErrNotExist; if n is
// less than 1 it is ErrInvalid. Otherwise it is what the file system said, and some files are
// removed. Once Keep returned nil the files stay away after a crash; before that any of them may be
// there again.
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
		return fmt.Errorf("snap: %s: snapshot %d/%d: %w", s.dir, recorded.Index, recorded.Term, fs.ErrNotExist)
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

// Oldest returns the index of the oldest snapshot or body that Keep keeps when it is called alike,
// and 0 while there are fewer than n: then the log has to go back to its beginning to stand in for
// those that are missing. Up to there the log may be released. Oldest changes nothing. If n is less
// than 1 the error is ErrInvalid, and otherwise what the file system said.
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

// Prune removes the snapshots and bodies that are newer than all that is recorded: the crash came
// before their record did. It is for a restart, before anything is saved; from then on they would
// count as some of those that Keep keeps. recorded is what wal.Snapshots returns. If it is empty
// nothing is removed and the error is ErrInvalid; otherwise it is what the file system said.
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

// has tells whether there is a file of a recorded snapshot. The one of index 0 needs none.
func (s *Store) has(l *Listing, r walpb.Snapshot) (bool, error) {
	isIt := func(other walpb.Snapshot) bool { return other.Index == r.Index && other.Term == r.Term }
	if r.Index == 0 || slices.ContainsFunc(l.Snapshots, isIt) {
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
	return isIt(body.Body().Record()), nil
}

// indexes returns of which indexes, up to one, there is a snapshot or a body, the lowest first.
func (l *Listing) indexes(upTo uint64) []uint64 {
	all := slices.Clone(l.Bodies)
	for _, r := range l.Snapshots {
		all = append(all, r.Index)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(index uint64) bool { return index > upTo })
}

// outdated returns the names of the files of all but the n newest snapshots up to an index, the
// oldest first: if that is interrupted, none is missing between those that are left.
func (l *Listing) outdated(n int, upTo uint64) (names []string) {
	indexes := l.indexes(upTo)
	for _, index := range indexes[:max(0, len(indexes)-n)] {
		for _, r := range l.Snapshots {
			if r.Index == index {
				names = append(names, snapshotName(r.Index, r.Term))
			}
		}
		if slices.Contains(l.Bodies, index) {
			names = append(names, bodyName(index))
		}
	}
	return names
}

// remove removes files, but for bodies that are another's.
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

// setAside renames a file that was found corrupt, unless again, which reads it once more, finds
// that it no longer is, for another was saved in its place. It returns what again returns. That the
// file cannot be renamed, say because nothing can be written, is no reason not to go on to an older
// one.
func (s *Store) setAside(name string, again func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := again()
	if !isCorrupt(err) {
		return err
	}
	failed := s.fs.Rename(filepath.Join(s.dir, name), filepath.Join(s.dir, name+brokenSuffix))
	if failed == nil {
		failed = s.trimBroken()
	}
	s.log.Warn("snapshot file is damaged and set aside", "dir", s.dir, "file", name, "damage", err, "error", failed)
	return err
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

// sweep lists the directory and removes what Saves that a crash interrupted left of new files. No
// one reads them.
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

// readable is as much of a fileutil.File as reading takes.
type readable interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error)
}

// readHead returns the first n bytes of a file of that size, or all that there are. It reads,
// however many these are: a directory may have a size of 0, and is told from an empty file only by
// the error.
func readHead(f io.ReaderAt, size int64, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := f.ReadAt(b, 0)
	if err == io.EOF || n == len(b) {
		err = nil
	}
	if want := min(size, int64(len(b))); err == nil && int64(n) < want {
		err = fmt.Errorf("offset %d: %w", n, io.ErrUnexpectedEOF)
	} else {
		n = int(want)
	}
	return b[:n], err
}

// readFull fills b from the offset on.
func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == io.EOF:
		// Not damage: the file was that long just now.
		return fmt.Errorf("offset %d: %w", off+int64(n), io.ErrUnexpectedEOF)
	}
	return err
}
