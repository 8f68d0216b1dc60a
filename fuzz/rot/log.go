package rot

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

const (
	dir  = "log"    // where a log lies that is to be damaged
	mark = "synced" // the file beside the segments that says how far the log was durable
)

// A Log is a log that is to be damaged, with what its readers show before that. It is only read
// once it is made, so it may be used by several goroutines.
type Log struct {
	Name string

	// Every is how many bits there are for one that [Rot] flips, and lengths for one that it cuts a
	// file to, with Config.Every 1. It is for large logs. 0 means 1.
	Every int

	files    map[string][]byte   // by name in the directory
	moments  []map[string][]byte // segments and mark as they were after each call, oldest first
	twin     map[string][]byte   // those of another log of the same metadata
	size     int64               // of segments; 0 is the default
	metadata []byte
	segments []segment
	frames   []frame // every record
	said     []frame // those that say something: all but checksums
	// What they say, with what stood before the first segment; hard states that change nothing are
	// left out.
	records []oracle.Record
	batch   int // where in said the last batch begins
}

// segment is a segment of a log that is to be damaged.
type segment struct {
	name string
	end  int // where its last frame ends
	said int // its first record, in Log.said
}

// frame is a record, and where it stands.
type frame struct {
	walpb.Record
	segment      int
	offset, size int
	known        int // how many of Log.records are there up to this record
}

// NewLog takes a log for one that is to be damaged: the files of its directory, by name. Of the
// zeros that a segment ends with it keeps some pages. The error is what its readers say of it,
// which must be nothing: for any damage to mean something, the log has to be good.
func NewLog(name string, files map[string][]byte) (*Log, error) {
	l := &Log{Name: name, files: map[string][]byte{}}
	for name, b := range files {
		l.files[name] = crop(b)
	}
	if err := l.learn(); err != nil {
		return nil, fmt.Errorf("rot: the log %s, before it is damaged: %w", l.Name, err)
	}
	return l, nil
}

// crop returns a file without most of the zeros that it ends with.
func crop(b []byte) []byte {
	const page = 4096
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return bytes.Clone(b[:min(len(b), (n+page-1)/page*page+page)]) // the rest may be large
}

// Bytes returns how large the log is up to the end of the records of each segment.
func (l *Log) Bytes() int {
	n := 0
	for _, s := range l.segments {
		n += s.end
	}
	return n
}

// disk returns a new file system that holds the log.
func (l *Log) disk() *crashfs.FS {
	disk := crashfs.New()
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		disk.WriteFile(path.Join(dir, name), l.files[name])
	}
	return disk
}

// learn reads the log.
func (l *Log) learn() error {
	o := &wal.Options{FS: l.disk()}
	report, err := wal.Check(dir, o)
	if err == nil && report.Verdict != wal.Clean {
		err = fmt.Errorf("it is %v", report.Verdict)
	}
	if err != nil {
		return err
	}
	l.metadata = bytes.Clone(report.Metadata)
	var head oracle.Record // the hard state at the head of the log
	claim := 0             // where the last batch begins, as the last witness says
	for r, err := range wal.Records(dir, 0, o) {
		if err != nil {
			return err
		}
		if r.Offset == 0 {
			l.segments = append(l.segments, segment{name: r.Segment, said: len(l.said)})
			claim = 0
		}
		segment := len(l.segments) - 1
		f := frame{Record: r.Record, segment: segment, offset: int(r.Offset), size: int(r.Size)}
		f.Data = bytes.Clone(r.Data)
		l.segments[segment].end = f.offset + f.size
		claim = max(claim, int(f.SyncedTo))
		if f.Type != walpb.TypeCRC {
			n, err := oracle.Decode(f.Record)
			if err != nil {
				return err
			}
			inHead := segment == 0 && len(l.said) == 1
			switch {
			case n.Kind == walpb.TypeMetadata:
			case n.Kind == walpb.TypeState && inHead:
				head = n
			case n.Kind == walpb.TypeState && n == oracle.LastState(l.records, head): // no news
			default:
				l.records = append(l.records, n)
			}
			f.known = len(l.records)
			l.said = append(l.said, f)
		}
		l.frames = append(l.frames, f)
	}
	l.batch = slices.IndexFunc(l.said, func(f frame) bool { return f.segment == len(l.segments)-1 && f.offset >= claim })
	if l.batch < 0 || !l.frames[len(l.frames)-1].HasHeaderCRC { // nothing says where it begins
		l.batch = len(l.said)
	}
	return nil
}

// saved makes known what was saved, which is more than the log says if segments were released. What
// the log says must be the end of it.
func (l *Log) saved(records []oracle.Record) error {
	before := len(records) - len(l.records)
	if before < 0 || !slices.Equal(records[before:], l.records) {
		return fmt.Errorf("rot: the log %s does not say what was saved in it", l.Name)
	}
	l.records = records
	for i := range l.said {
		l.said[i].known += before
	}
	for i := range l.frames {
		l.frames[i].known += before
	}
	return nil
}

// segment returns the position of the segment with the sequence number that a name says, or -1.
func (l *Log) segment(name string) int {
	return slices.IndexFunc(l.segments, func(s segment) bool { return sequence(s.name) == sequence(name) })
}

// sequence returns the sequence number in the name of a segment, as it stands there.
func sequence(name string) string {
	seq, _, _ := strings.Cut(name, "-")
	return seq
}

// reading is what the readers gave of a log.
type reading struct {
	from, to int    // they gave Log.said[from:to]
	wrong    string // a record that was never written, or not there
	gap, err error
	last     string // the segment of the last good frame
	end      int    // where that ends
	witness  bool   // it has a header_crc
}

// whole reports whether the readers gave everything.
func (r *reading) whole(l *Log) bool {
	return r.from == 0 && r.to == len(l.said) && r.wrong == ""
}

// same reports whether two readings gave the same records.
func (r *reading) same(o *reading) bool {
	return r.from == o.from && r.to == o.to && r.wrong == o.wrong
}

// read reads a log record by record, and compares it with what it was.
func (l *Log) read(disk *crashfs.FS) (r reading) {
	at := -1
	for rec, err := range wal.Records(dir, 0, &wal.Options{FS: disk}) {
		var corrupt *wal.CorruptError
		if errors.As(err, &corrupt) && corrupt.Kind == wal.MissingSegment {
			r.gap, at = err, -1
			continue
		}
		if err != nil {
			r.err = err
			return r
		}
		r.last, r.end, r.witness = rec.Segment, int(rec.Offset+rec.Size), rec.HasHeaderCRC
		if rec.Type == walpb.TypeCRC {
			continue
		}
		if at < 0 {
			i := l.segment(rec.Segment)
			if i < 0 {
				r.wrong = "records of " + rec.Segment
				return r
			}
			at = l.segments[i].said
			r.from, r.to = at, at
		}
		if at >= len(l.said) || rec.Type != l.said[at].Type || !bytes.Equal(rec.Data, l.said[at].Data) || (rec.Data == nil) != (l.said[at].Data == nil) {
			r.wrong = fmt.Sprintf("%s: offset %d: a record of type %v was not written there", rec.Segment, rec.Offset, rec.Type)
			return r
		}
		at++
		r.to = at
	}
	return r
}

// known returns how many of the log's records come before the n-th that says something.
func (l *Log) known(n int) int {
	if n == 0 {
		return l.said[0].known
	}
	return l.said[n-1].known
}

// mean reads what a log means, in the steps of a program that starts again, and compares that with
// what the records from, up to to, mean. reported is what the program is told, if there is
// anything.
func (l *Log) mean(disk *crashfs.FS, from, to int) (wrong string, reported error) {
	o := &wal.Options{FS: disk}
	snapshots, err := wal.Snapshots(wal.Records(dir, 0, o))
	if err != nil {
		return "", err
	}
	if len(snapshots) == 0 {
		return "", wal.ErrSnapshotNotFound
	}
	s := oracle.Seen{Snapshots: snapshots}
	newest := s.Newest()
	log, err := wal.Replay(wal.Records(dir, newest.Index, o), newest)
	if err != nil {
		return "", err
	}
	want := oracle.Fold(l.records[:l.known(to)])
	n := 0
	for _, p := range want.Snapshots {
		if p.At < l.known(from) || !want.Replayable(p.Record, l.records[l.known(from):l.known(to)]) {
			continue
		}
		if n >= len(snapshots) || oracle.SnapshotRecord(snapshots[n]) != p.Record {
			return "other snapshot records", nil
		}
		n++
	}
	if n != len(snapshots) {
		return "more snapshot records", nil
	}
	if !l.means(log, want) {
		return fmt.Sprintf("replay gives %s after %d/%d and %+v", oracle.Indexes(log.Entries), newest.Term, newest.Index, log.State), nil
	}
	return "", nil
}

// means reports whether a log is what records mean, from one of their usable snapshots on.
func (l *Log) means(log *wal.Log, want oracle.Meaning) bool {
	return bytes.Equal(log.Metadata, l.metadata) && want.Is(log)
}
