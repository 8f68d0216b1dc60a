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

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/walpb"
)

// A Dir is a directory of snapshots to read. Its methods make, sync, rename and remove nothing:
// they may be used on a directory that a Store in another process writes to, and on a damaged one
// that is to be looked at as it is. They may be called concurrently. ReadOnly makes one: what needs
// a directory returns ErrInvalid from the zero Dir.
type Dir struct {
	dir string
	fs  fileutil.FS
	log *slog.Logger
}

// Options are what a caller may choose. A nil *Options and every zero field mean the default.
// Options are read when they are passed, and never written to.
type Options struct {
	// Logger is told what no caller is: a file was set aside, or could not be; a snapshot was
	// passed over for an older one. The default is silence.
	Logger *slog.Logger

	// FS is the file system. The default is the operating system's.
	FS fileutil.FS
}

// ReadOnly returns the Dir of a directory, which need not be there. It reads nothing.
func ReadOnly(dir string, opts *Options) *Dir {
	d := &Dir{dir: dir, fs: fileutil.OS{}, log: slog.New(slog.DiscardHandler)}
	if opts != nil && opts.FS != nil {
		d.fs = opts.FS
	}
	if opts != nil && opts.Logger != nil {
		d.log = opts.Logger
	}
	return d
}

// usable returns the error of a Dir that is not from ReadOnly or Open.
func (d *Dir) usable() error {
	if d.fs == nil {
		return fmt.Errorf("snap: %w: this is not from Open or ReadOnly", ErrInvalid)
	}
	return nil
}

// List reads the names in the directory, and no file. Names are read strictly: what is nearly one
// of a snapshot is a stray, which no other method looks at. Other names, like that of etcd's
// database, are left out. The error is what the file system returned.
func (d *Dir) List() (*Listing, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	entries, err := d.fs.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	l := new(Listing)
	for _, entry := range entries {
		name := entry.Name()
		term, index, kind := parseName(name)
		if kind != otherFile && entry.Type()&special != 0 {
			kind = strayFile
		}
		switch kind {
		case snapshotFile:
			l.Snapshots = append(l.Snapshots, File{entry, index, term})
		case bodyFile:
			l.Bodies = append(l.Bodies, index)
		case partialFile:
			l.Partials = append(l.Partials, index)
		case brokenFile:
			l.Broken = append(l.Broken, name)
		case temporaryFile:
			l.temporary = append(l.temporary, name)
		case strayFile:
			l.Strays = append(l.Strays, name)
		}
	}
	slices.SortFunc(l.Snapshots, func(a, b File) int { return newerFirst(a.Index, a.Term, b.Index, b.Term) })
	slices.Reverse(l.Bodies)
	slices.Reverse(l.Partials)
	return l, nil
}

// special is the mode of what is no file. A pipe would stop the process that opens it.
const special = fs.ModeNamedPipe | fs.ModeSocket | fs.ModeDevice

// open opens a file to read it. What is special is as good as a file that is damaged.
func (d *Dir) open(name string) (fileutil.File, error) {
	path := filepath.Join(d.dir, name)
	info, err := d.fs.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&special != 0 {
		return nil, corrupt(0, "a pipe, a socket or a device")
	}
	return d.fs.OpenFile(path, os.O_RDONLY, 0)
}

// Load reads a snapshot. The result owns its memory. The error is
//   - fs.ErrNotExist, wrapped, if there is none of that index and term;
//   - a *CorruptError if the bytes are wrong, or those of another snapshot;
//   - otherwise what the file system returned.
func (d *Dir) Load(index, term uint64) (Snapshot, error) {
	if err := d.usable(); err != nil {
		return Snapshot{}, err
	}
	name := snapshotName(index, term)
	f, err := d.open(name)
	if err != nil {
		return Snapshot{}, fileError(name, err)
	}
	defer f.Close() // there is nothing to learn from closing a file that was only read
	snapshot, err := load(f)
	if err == nil && (snapshot.Index != index || snapshot.Term != term) {
		err = corrupt(0, "the snapshot in it is %d/%d", snapshot.Term, snapshot.Index)
	}
	if err != nil {
		return Snapshot{}, fileError(name, err)
	}
	return snapshot, nil
}

// load reads a file. It compares what the file says about its length with the file before it makes
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
		return Snapshot{}, fmt.Errorf("%d bytes are more than this machine can address", size)
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

// OpenBody opens the body of that index, and reads its header and its trailer. The blocks between
// them are verified when they are read, or all by Verify. The error is
//   - fs.ErrNotExist, wrapped, if there is none of that index;
//   - ErrForeign if the file of that name is not a body of this package, but etcd's database, say;
//   - a *CorruptError if the header or the trailer is damaged, or the file cut short;
//   - otherwise what the file system returned.
func (d *Dir) OpenBody(index uint64) (*Reader, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	name := bodyName(index)
	f, err := d.open(name)
	if err != nil {
		return nil, fileError(name, err)
	}
	r, err := newReader(name, f)
	if err == nil && r.body.Index != index {
		err = corrupt(32, "the body in it is of index %d", r.body.Index)
	}
	if err != nil {
		f.Close()
		return nil, fileError(name, err)
	}
	return r, nil
}

// Newest returns the newest snapshot that the log records and that has a good file. The result owns
// its memory. recorded is what wal.Snapshots returns, in any order. Files that are not recorded are
// not looked at; those that are damaged or not there are passed over, and the Logger is told.
//
// If nothing newer is found and index 0 is recorded, the log goes back to its beginning. The result
// is then the Snapshot of index 0, which has no data and no file: a new log is no special case.
//
// The error is
//   - ErrNoSnapshot, wrapped, if nothing is found, and with it a *CorruptError for each damaged
//     file;
//   - otherwise what the file system returned for a file that it could not read: it may be good.
func (d *Dir) Newest(recorded []walpb.Snapshot) (Snapshot, error) {
	return newest(d, recorded, d.loadRecorded)
}

// NewestBody opens the newest body that the log records and that is good. It verifies all of a body
// before it returns it, so that a caller does not load half of one before the damage shows; each
// block is verified again as it is read.
//
// It passes over what Newest does and what is foreign. Without a newer body, index 0 is an empty
// one. The errors are those of Newest; ErrNoSnapshot comes with ErrForeign, if there was such a
// file.
func (d *Dir) NewestBody(recorded []walpb.Snapshot) (*Reader, error) {
	return newest(d, recorded, d.openRecorded)
}

// newest returns what read returns of the newest snapshot record that it returns no error of.
func newest[T any](d *Dir, recorded []walpb.Snapshot, read func(walpb.Snapshot) (T, error)) (found T, err error) {
	if err := d.usable(); err != nil {
		return found, err
	}
	var passed []error
	for _, r := range newestFirst(recorded) {
		got, err := read(r)
		switch {
		case err == nil:
			return got, nil
		case isCorrupt(err), errors.Is(err, ErrForeign):
			passed = append(passed, err)
		case !errors.Is(err, fs.ErrNotExist):
			return found, err
		}
		d.log.Warn("a recorded snapshot cannot be used, looking for an older one",
			"dir", d.dir, "term", r.Term, "index", r.Index, "error", err)
	}
	err = fmt.Errorf("snap: %s: %w: the log records %d", d.dir, ErrNoSnapshot, len(recorded))
	return found, errors.Join(append([]error{err}, passed...)...)
}

func (d *Dir) loadRecorded(r walpb.Snapshot) (Snapshot, error) {
	if r.Index == 0 {
		return Snapshot{Term: r.Term, ConfState: bytes.Clone(r.ConfState)}, nil
	}
	return d.Load(r.Index, r.Term)
}

func (d *Dir) openRecorded(r walpb.Snapshot) (*Reader, error) {
	if r.Index == 0 {
		return &Reader{body: Body{Term: r.Term, ConfState: bytes.Clone(r.ConfState)}}, nil
	}
	body, err := d.OpenBody(r.Index)
	if err != nil {
		return nil, err
	}
	if err := body.Verify(); err != nil {
		body.Close()
		return nil, err
	}
	if body.body.Term != r.Term {
		body.Close()
		// A body that was never recorded, of an entry that was overwritten.
		return nil, fmt.Errorf("snap: %s: a body of term %d, and not the one recorded: %w", body.name, body.body.Term, fs.ErrNotExist)
	}
	return body, nil
}

// newestFirst returns snapshot records by index and then term.
func newestFirst(recorded []walpb.Snapshot) []walpb.Snapshot {
	return slices.SortedStableFunc(slices.Values(recorded), func(a, b walpb.Snapshot) int {
		return newerFirst(a.Index, a.Term, b.Index, b.Term)
	})
}

func newerFirst(aIndex, aTerm, bIndex, bTerm uint64) int {
	return cmp.Or(cmp.Compare(bIndex, aIndex), cmp.Compare(bTerm, aTerm))
}

// readable is what reading needs of a fileutil.File.
type readable interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error)
}

// readHead returns the first n bytes of a file of that size, or all if there are fewer. It reads
// even if there are none: a directory may have size 0, and only the error of reading distinguishes
// it from an empty file.
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
