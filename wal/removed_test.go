package wal_test

import (
	"errors"
	"io/fs"
	"iter"
	"path"
	"slices"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// meanwhile returns a log of eight segments with a snapshot record in the last. Reading it calls
// release when the second record is asked for.
func meanwhile(t *testing.T) (l *lab, newest walpb.Snapshot, read func(from uint64) iter.Seq2[wal.Record, error], release func()) {
	l, w := create(t)
	t.Cleanup(func() { w.Close() })
	l.fill(t, w, 8)
	newest = walpb.Snapshot{Term: 1, Index: l.last}
	must(t, w.SaveSnapshot(newest))
	l.save(t, w, state(1, l.last), entries(1, l.last+1, l.last+1, 100))
	release = func() { must(t, w.Release(newest.Index)) }
	read = func(from uint64) iter.Seq2[wal.Record, error] {
		return func(yield func(wal.Record, error) bool) {
			n := 0
			for r, err := range wal.Records(labDir, from, l.options()) {
				if n++; n == 2 {
					release()
				}
				if !yield(r, err) {
					return
				}
			}
		}
	}
	return l, newest, read, release
}

// A reader opens a segment when it comes to it. One that a Release has removed by then is a gap, as
// it would be for a reader that began later.
func TestASegmentThatIsReleasedBeforeAReaderComesToItIsAGap(t *testing.T) {
	l, newest, read, _ := meanwhile(t)
	before := l.segments()
	var (
		segments []string
		gap      error
	)
	for r, err := range read(0) {
		switch {
		case err == nil && (len(segments) == 0 || segments[len(segments)-1] != r.Segment):
			segments = append(segments, r.Segment)
		case err != nil && gap != nil:
			t.Errorf("a second error: %v", err)
		case err != nil:
			gap = err
		}
	}
	var corrupt *wal.CorruptError
	if !errors.As(gap, &corrupt) || corrupt.Kind != wal.MissingSegment || !errors.Is(gap, fs.ErrNotExist) {
		t.Fatalf("the gap is %v", gap)
	}
	left := l.segments()
	if !slices.Equal(segments, append(before[:1:1], left...)) || len(left) > 3 {
		t.Errorf("read %q of %q, of which %q are left", segments, before, left)
	}
	if corrupt.Segment != left[0] {
		t.Errorf("the gap is before %s, not %s", corrupt.Segment, left[0])
	}
	_, err := wal.Replay(wal.Records(labDir, 0, l.options()), newest)
	must(t, err)
}

func TestAReleaseWhileALogIsRead(t *testing.T) {
	t.Run("Replay from what is kept", func(t *testing.T) {
		l, newest, read, _ := meanwhile(t)
		log, err := wal.Replay(read(0), newest)
		must(t, err)
		if n := len(log.Entries); n != int(l.last-newest.Index) {
			t.Errorf("%d entries", n)
		}
	})
	t.Run("Replay from what is not", func(t *testing.T) {
		_, _, read, _ := meanwhile(t)
		if _, err := wal.Replay(read(0), walpb.Snapshot{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("Snapshots", func(t *testing.T) {
		_, newest, read, _ := meanwhile(t)
		got, err := wal.Snapshots(read(0))
		must(t, err)
		if len(got) != 1 || got[0].Index != newest.Index {
			t.Errorf("%v, not %v", got, newest)
		}
	})
	t.Run("Check", func(t *testing.T) {
		l, _, _, release := meanwhile(t)
		opens := 0
		l.onOp = func(op crashfs.Op) error {
			if op.Kind == crashfs.OpOpen && isSegment(op) {
				if opens++; opens == 4 { // the first to be asked for its lock is the last
					l.onOp = nil
					release()
				}
			}
			return nil
		}
		report, err := wal.Check(labDir, l.options())
		must(t, err)
		if report.Verdict != wal.Passed || len(report.Findings) != 1 || report.LastIndex != l.last {
			t.Errorf("%v up to %d of %d: %+v", report.Verdict, report.LastIndex, l.last, report.Findings)
		}
	})
	t.Run("before the first segment is opened", func(t *testing.T) {
		l, newest, _, release := meanwhile(t)
		l.onOp = func(op crashfs.Op) error {
			if op.Kind == crashfs.OpOpen && isSegment(op) {
				l.onOp = nil
				release()
			}
			return nil
		}
		log, err := wal.Replay(wal.Records(labDir, 0, l.options()), newest)
		must(t, err)
		if n := len(log.Entries); n != int(l.last-newest.Index) {
			t.Errorf("%d entries", n)
		}
	})
	t.Run("the next segment is gone each time", func(t *testing.T) {
		l, _, _, _ := meanwhile(t)
		l.onOp = func(op crashfs.Op) error {
			if op.Kind == crashfs.OpOpen && isSegment(op) && path.Base(op.Name) != l.segments()[0] {
				return fs.ErrNotExist
			}
			return nil
		}
		var last error
		for _, last = range wal.Records(labDir, 0, l.options()) {
		}
		if !errors.Is(last, fs.ErrNotExist) {
			t.Errorf("the last error is %v", last)
		}
	})
}
