package rot

import (
	"errors"
	"fmt"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/wal"
)

// ErrPanicked is in the error of a Recover whose program panicked.
var ErrPanicked = errors.New("it panicked")

// another returns what another program makes of a damaged log.
func (j *judge) another(disk *crashfs.FS) finding {
	l, damaged := j.log, disk.Clone()
	log, reported, err := j.recover(disk, dir)
	switch {
	case errors.Is(err, ErrPanicked):
		return finding{outcome: Panicked, broken: []string{err.Error()}}
	case err != nil:
		return finding{outcome: Refused}
	case l.means(log, oracle.Fold(l.records)) && !reported:
		return finding{outcome: Same}
	case l.means(log, oracle.Fold(l.records)):
		return finding{outcome: Reported}
	case reported && l.once(log):
		return finding{outcome: Lost}
	}
	// What no program can see is no fault of this one.
	if r := l.read(damaged); r.wrong == "" && r.err == nil && r.gap == nil && r.to < len(l.said) && !reported {
		if e := l.excuse(damaged.Tree(), &r); e != "" {
			return finding{outcome: Excused, excuse: e}
		}
	}
	return finding{outcome: Silent, broken: []string{fmt.Sprintf("%s after %d/%d and %+v, and nothing is said",
		oracle.Indexes(log.Entries), log.Snapshot.Term, log.Snapshot.Index, log.State)}}
}

// goodFor returns an error unless another program reads the log as it should while it is good.
func (l *Log) goodFor(r Recover) error {
	log, reported, err := r(l.disk(), dir)
	if err == nil && (reported || !l.means(log, oracle.Fold(l.records))) {
		err = errors.New("it is not what was saved")
	}
	if err != nil {
		return fmt.Errorf("rot: the log %s, before it is damaged, by the program to be judged: %w", l.Name, err)
	}
	return nil
}

// once reports whether a log is what the records came to at some time.
func (l *Log) once(log *wal.Log) bool {
	for n := len(l.records); n >= 0; n-- {
		if l.means(log, oracle.Fold(l.records[:n])) {
			return true
		}
	}
	return false
}
