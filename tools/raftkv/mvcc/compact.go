package mvcc

import (
	"slices"
	"time"
)

// Compact has reads below rev refused, at once: what only they could find is gone for every reader,
// for hashes and snapshots too. Sweep gives its memory back. The error is ErrCompacted if rev has
// been compacted already, and ErrFutureRev if it is above the newest revision.
func (s *Store) Compact(rev int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev <= s.v.compacted {
		return ErrCompacted
	}
	if rev > s.v.rev {
		return ErrFutureRev
	}
	s.v.compacted = rev
	select {
	case <-s.swept:
		s.swept = make(chan struct{})
	default:
	}
	return nil
}

// Swept returns what is closed once all is swept that has been compacted by now.
func (s *Store) Swept() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.swept
}

// slice is how many versions a sweep looks at before it lets others read and write: about a
// millisecond's.
const slice = 2000

// Sweep removes what compactions have made unreachable, until nothing of it is left or stop is
// closed. It does so in slices, between which others read and write, and rests after each for as
// long as that took. A sweep that was stopped begins again; so does one whose process died, as a
// snapshot does not hold what is unreachable and a compaction in the log is applied again. Only one
// Sweep may run at a time.
func (s *Store) Sweep(stop <-chan struct{}) {
	var at string
	for rest := time.Duration(0); ; {
		select {
		case <-stop:
			return
		case <-time.After(rest):
		}
		began := time.Now()
		next, ended := s.sweep(at, slice)
		if ended {
			return
		}
		at, rest = next, time.Since(began)
	}
}

// sweep removes what is unreachable of the keys from one on, until it has looked at some number of
// versions. It returns with which key to go on, and whether nothing is left.
func (s *Store) sweep(from string, versions int) (next string, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.swept:
		return "", true
	default:
	}
	if from == "" {
		s.sweeping = s.v.compacted
	}
	next, more := s.v.sweep(from, s.sweeping, versions)
	if more {
		return next, false
	}
	if s.sweeping < s.v.compacted { // there was another compaction meanwhile
		return "", false
	}
	close(s.swept)
	return "", true
}

// sweep is that of the Store, for a compaction.
func (v *View) sweep(from string, compacted int64, versions int) (next string, more bool) {
	type kept struct {
		key      string
		versions []version
	}
	var changed []kept
	v.keys.Ascend(from, func(key string, all []version) bool {
		if versions <= 0 {
			next, more = key, true
			return false
		}
		versions -= len(all)
		rest := left(all, compacted)
		if gone := all[:len(all)-len(rest)]; len(gone) > 0 {
			for i := range gone {
				v.size -= gone[i].size()
			}
			changed = append(changed, kept{key, slices.Clone(rest)})
		}
		return true
	})
	for _, k := range changed {
		if len(k.versions) == 0 {
			v.keys.Delete(k.key)
		} else {
			v.keys.Set(k.key, k.versions)
		}
	}
	return next, more
}

// left returns which versions of a key a compaction leaves: what a read at its revision finds, and
// all that is newer.
func left(versions []version, compacted int64) []version {
	first := 0
	for first+1 < len(versions) && versions[first+1].rev <= compacted {
		first++
	}
	if len(versions) > 0 && versions[first].rev <= compacted && versions[first].deleted {
		first++
	}
	return versions[first:]
}

// each calls f with the versions of each key that the compaction has left, in the order of the
// keys, until f returns false.
func (v *View) each(f func(versions []version) bool) {
	v.keys.Scan(func(_ string, versions []version) bool {
		versions = left(versions, v.compacted)
		return len(versions) == 0 || f(versions)
	})
}
