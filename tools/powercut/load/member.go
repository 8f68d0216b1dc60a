package load

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// Opened is the first line that a Member reports.
const Opened = "opened\n"

// callers is how many goroutines of a Member save at once.
const callers = 8

// Member opens or creates the store in dir and saves, from several goroutines at once, until the
// process is killed. It reports to out what was acknowledged: lines of a word, an index and a term.
// It returns only with an error, which may be that of out.
func Member(dir string, out io.Writer) error {
	m := &member{out: out}
	o := &wal.Options{SegmentSize: 32 << 10}
	w, err := wal.Open(walDir(dir), o)
	if errors.Is(err, fs.ErrNotExist) {
		w, err = wal.Create(walDir(dir), oracle.Metadata, o)
	}
	if err != nil {
		return err
	}
	m.w = w
	if m.store, err = snap.Open(snapDir(dir), nil); err != nil {
		return err
	}
	s, err := observe(dir)
	if err != nil {
		return err
	}
	m.last, m.lastTerm = s.Newest().Index, s.Newest().Term
	if n := len(s.Log.Entries); n > 0 {
		m.last, m.lastTerm = s.Log.Entries[n-1].Index, s.Log.Entries[n-1].Term
	}
	m.term = max(s.Log.State.Term, m.lastTerm) + 1
	if err := w.Save(walpb.HardState{Term: m.term, Commit: s.Log.State.Commit}, nil); err != nil {
		return err
	}
	if _, err := io.WriteString(out, Opened); err != nil {
		return err
	}
	failed := make(chan error, callers)
	for range callers {
		go func() { failed <- m.call() }()
	}
	err = <-failed
	if err2 := w.Close(); err2 != nil {
		err = errors.Join(err, err2)
	}
	for range callers - 1 { // each notices that the log is closed
		<-failed
	}
	return err
}

// member is a process that saves.
type member struct {
	w     *wal.Writer
	store *snap.Store
	term  uint64 // of this life

	mu       sync.Mutex // entries are appended in the order of their indexes
	last     uint64
	lastTerm uint64

	writing sync.Mutex
	out     io.Writer
}

// call is one of the callers.
func (m *member) call() error {
	for {
		done := make(chan error, 1)
		index, err := m.append(done)
		if err == nil {
			err = <-done
		}
		if err == nil {
			err = m.report("entry", file{index, m.term})
		}
		if err != nil {
			return err
		}
	}
}

// append appends the next entry, and every so often takes a snapshot before.
func (m *member) append(done chan<- error) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last%64 == 63 {
		if err := m.compact(); err != nil {
			return 0, err
		}
	}
	m.last, m.lastTerm = m.last+1, m.term
	return m.last, m.w.Append(walpb.HardState{}, []walpb.Entry{entry(m.last, m.term)}, func(err error) { done <- err })
}

// compact commits all that there is, takes a snapshot of it, and removes what that makes
// unnecessary.
func (m *member) compact() error {
	f := file{m.last, m.lastTerm}
	of := snap.Snapshot{Index: f.index, Term: f.term, ConfState: confState(f.index), Data: state(f)}
	err := m.w.Save(walpb.HardState{Term: m.term, Commit: m.last}, nil)
	if err == nil {
		err = m.w.Sync()
	}
	if err == nil {
		err = m.store.Save(of)
	}
	if err == nil {
		err = m.w.SaveSnapshot(of.Record())
	}
	if err == nil {
		err = m.store.Keep(2, of.Record())
	}
	var oldest uint64
	if err == nil {
		oldest, err = m.store.Oldest(2, of.Record())
	}
	if err == nil {
		err = m.w.Release(oldest)
	}
	if err != nil {
		return err
	}
	return m.report("snapshot", f)
}

func (m *member) report(what string, f file) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	_, err := fmt.Fprintf(m.out, "%s %d %d\n", what, f.index, f.term)
	return err
}
