// Package mvcc is the state that raftkv replicates: keys with all their revisions since the last
// compaction, in memory, in order. It answers as etcd does, revision by revision, and its hash is
// etcd's. It knows neither raft nor gRPC.
//
// A change of one key makes a new version and never touches an old one. So a View is a state that
// stays as it is while the Store goes on, at no cost but the memory of what changed since.
package mvcc

import (
	"errors"
	"sync"

	"github.com/tidwall/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Errors of requests. What is wrong is always in the request; the state is as it was.
var (
	ErrCompacted     = errors.New("mvcc: required revision has been compacted")
	ErrFutureRev     = errors.New("mvcc: required revision is a future revision")
	ErrKeyNotFound   = errors.New("mvcc: ignore_value or ignore_lease of a key that is not there")
	ErrLeaseNotFound = errors.New("mvcc: there are no leases")
)

// A Store is the newest state. Its methods may be called concurrently; those that change it are to
// be called in the order of the log.
type Store struct {
	mu       sync.RWMutex
	v        View
	swept    chan struct{} // closed when no version is there that a compaction has made unreachable
	sweeping int64         // up to which compaction a sweep is under way
}

// A View is a state at one revision and, back to the last compaction, at those before. It does not
// change. Its methods may be called concurrently.
type View struct {
	keys *btree.Map[string, []version] // the versions of a key, oldest first, never empty
	rev  int64                         // of the last change; 1 before any
	// What only reads below could find is gone, or unreachable: see left; -1 before any compaction.
	compacted int64
	size      int64 // in bytes, of all versions that are there
	live      int64 // in bytes, of those that a read at rev finds
}

// version is a key as one revision left it. Slices of versions only ever grow past what a View can
// see.
type version struct {
	kv      *mvccpb.KeyValue // never changed
	sub     int64            // its place among the changes of its revision
	rev     int64
	deleted bool
}

// overhead is what a version takes in memory beside its key and value, roughly: BenchmarkMemory
// measures it.
const overhead = 240

func (v *version) size() int64 { return int64(len(v.kv.Key)+len(v.kv.Value)) + overhead }

// New returns an empty Store, at revision 1.
func New() *Store { return &Store{v: newView(), swept: closed()} }

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func newView() View {
	return View{keys: new(btree.Map[string, []version]), rev: 1, compacted: -1}
}

// View returns the newest state.
func (s *Store) View() *View {
	s.mu.Lock() // copying a tree marks its nodes as shared
	defer s.mu.Unlock()
	v := s.v
	v.keys = s.v.keys.Copy()
	return &v
}

// Restore makes the Store hold the state of a View that ReadView returned, which then belongs to
// it.
func (s *Store) Restore(v *View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.v = *v // of which nothing is unreachable: WriteTo leaves that out
	select {
	case <-s.swept:
	default:
		close(s.swept)
	}
}

// Rev returns the newest revision.
func (s *Store) Rev() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.v.rev
}

// Stats are what a Store holds.
type Stats struct {
	Rev       int64 // of the last change
	Compacted int64 // revisions below are gone
	Keys      int   // also deleted ones that are not compacted
	// In bytes, of all versions; those that a compaction has made unreachable count until they are
	// swept.
	Size int64
	Live int64 // in bytes, of the newest versions
}

// Stats returns what the Store holds.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{s.v.rev, s.v.compacted, s.v.keys.Len(), s.v.size, s.v.live}
}

// Rev returns the revision of the View.
func (v *View) Rev() int64 { return v.rev }

// at returns the version of a key that a read at rev finds, or nil.
func at(versions []version, rev int64) *version {
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].rev <= rev {
			if versions[i].deleted {
				return nil
			}
			return &versions[i]
		}
	}
	return nil
}

// ascend calls f with the versions of each key in [key, end) until f returns false. A nil end means
// key alone, an empty one means no end.
func (v *View) ascend(key, end []byte, f func(string, []version) bool) {
	if end == nil {
		if versions, ok := v.keys.Get(string(key)); ok {
			f(string(key), versions)
		}
		return
	}
	stop := string(end)
	v.keys.Ascend(string(key), func(k string, versions []version) bool {
		if stop != "" && k >= stop {
			return false
		}
		return f(k, versions)
	})
}

// rangeEnd returns the end of a range as ascend wants it. Requests cannot tell nil from empty, so a
// single zero byte stands for no end.
func rangeEnd(end []byte) []byte {
	switch {
	case len(end) == 0:
		return nil
	case len(end) == 1 && end[0] == 0:
		return []byte{}
	}
	return end
}

// change is what one request changes: all of it is one revision.
type change struct {
	v   *View
	rev int64 // that it makes
	n   int64 // changes so far
}

func (v *View) begin() *change { return &change{v: v, rev: v.rev + 1} }

// seen returns the revision that reads within the request are at.
func (c *change) seen() int64 {
	if c.n > 0 {
		return c.rev
	}
	return c.rev - 1
}

// end makes the changes, if there are any, the newest revision.
func (c *change) end() { c.v.rev = c.seen() }

func (c *change) put(key, value []byte) {
	versions, _ := c.v.keys.Get(string(key))
	kv := &mvccpb.KeyValue{Key: key, Value: value, CreateRevision: c.rev, ModRevision: c.rev, Version: 1}
	if old := at(versions, c.rev); old != nil {
		kv.CreateRevision, kv.Version = old.kv.CreateRevision, old.kv.Version+1
		c.v.live -= old.size()
	}
	c.push(versions, version{kv: kv, sub: c.n, rev: c.rev})
	c.v.live += (&version{kv: kv}).size()
}

func (c *change) delete(key []byte, versions []version) {
	c.v.live -= at(versions, c.rev).size()
	c.push(versions, version{kv: &mvccpb.KeyValue{Key: key}, sub: c.n, rev: c.rev, deleted: true})
}

func (c *change) push(versions []version, next version) {
	c.v.keys.Set(string(next.kv.Key), append(versions, next))
	c.v.size += next.size()
	c.n++
}
