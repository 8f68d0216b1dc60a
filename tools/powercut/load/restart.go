package load

import (
	"bytes"
	"errors"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/walpb"
)

// An Outcome is what became of a store whose disk failed once.
type Outcome string

// The outcomes there are.
const (
	Unhurt Outcome = "unhurt" // no call failed
	// A call failed; the store was closed and opened, and went on.
	WentOn Outcome = "went on"
	// So, but the first Open reported the failure again.
	WentOn2 Outcome = "went on at the second start"
	// So, but the store refused every Open, or a later call, as its file system did.
	SaidNo Outcome = "said no"
)

// attempts is how often a store is opened again.
const attempts = 2

// Restart creates a store in dir, saves, calls fail, and saves until a call says that the disk
// failed. Then it closes the store, opens it again without anything in between, as a process that
// is started again does, and saves again. It returns what was owed when, and from which mark on the
// store had been opened again. The error is an *oracle.Failure.
func (h *History) Restart(dir string, fsys fileutil.FS, position func() int, fail func()) (all []Mark, again int, o Outcome, err error) {
	l := &life{History: h, marks: &marks{position: position}, dir: dir, fsys: fsys}
	o, err = l.untilFailure(fail)
	again = len(l.all)
	if err == nil {
		o, err = l.restart(o)
	}
	if l.w != nil {
		l.w.Close()
	}
	return l.all, again, o, err
}

// untilFailure saves until a call fails.
func (l *life) untilFailure(fail func()) (Outcome, error) {
	if err := l.open(); err != nil {
		return Unhurt, err
	}
	for range 1 + l.rng.IntN(8) {
		if err := l.large(); err != nil {
			return Unhurt, err
		}
	}
	fail()
	const most = 8 // by then it must have been noticed
	failed := false
	for i := 0; i < most && !failed; i++ {
		failed = l.large() != nil
	}
	if failed {
		if l.large() == nil {
			return Unhurt, oracle.Failf(oracle.Lost, "a Save after one that failed returned nil")
		}
		if l.close() == nil {
			return Unhurt, oracle.Failf(oracle.Lost, "Close after a Save that failed returned nil")
		}
		return WentOn, nil
	}
	if l.close() != nil {
		return WentOn, nil
	}
	return Unhurt, nil
}

// restart opens the store again, twice if it must, and goes on.
func (l *life) restart(o Outcome) (Outcome, error) {
	for i := range attempts {
		err := l.open()
		if err == nil {
			break
		}
		if f := new(oracle.Failure); !errors.As(err, &f) || f.Verdict != oracle.Refused {
			return SaidNo, err
		}
		if i == attempts-1 {
			return SaidNo, nil
		}
		o = WentOn2
	}
	for range 6 {
		if l.large() != nil {
			return SaidNo, nil
		}
	}
	if l.close() != nil {
		return SaidNo, nil
	}
	return o, nil
}

// large saves an entry of several pages.
func (l *life) large() error {
	m := l.meaning()
	state, _ := l.next(&m, 0)
	index := m.Last() + 1
	e := walpb.Entry{Index: index, Term: state.Term, Data: fill(6000+mix(index, 3)%9000, mix(index, state.Term))}
	return l.save(state, []walpb.Entry{e})
}

// HasEntry reports whether bytes that go to a disk are those of an entry.
func HasEntry(b []byte) bool { return bytes.Contains(b, Marker) }
