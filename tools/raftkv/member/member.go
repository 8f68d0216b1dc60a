// Package member is who belongs to a cluster: the members that its log has admitted and those that
// it has removed for good. Identities are computed, and changes are written in the log, as etcd
// does it.
package member

import (
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// Errors of changes that the members as they are do not allow.
var (
	ErrRemoved         = errors.New("membership: ID removed")
	ErrExists          = errors.New("membership: ID exists")
	ErrNotFound        = errors.New("membership: ID not found")
	ErrURLExists       = errors.New("membership: peerURL exists")
	ErrNotLearner      = errors.New("membership: can only promote a learner member")
	ErrLastVoter       = errors.New("membership: the last voting member cannot be removed")
	ErrTooManyLearners = errors.New("membership: too many learner members in cluster")
)

// maxLearners is how many learners there may be at once.
const maxLearners = 1

// A Member is one member of a cluster. Its JSON is etcd's.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"` // empty until it has started for the first time
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// A Change is what a configuration change in the log says beside the ID.
type Change struct {
	Member
	IsPromote bool `json:"isPromote"`
}

// New returns a member of a cluster that is being made. Every process that makes the cluster from
// the same list gives it the same ID.
func New(name, token string, peerURLs []string) Member {
	return Member{ID: identity(peerURLs, token), PeerURLs: peerURLs, Name: name}
}

// Joining returns a member that is to join a cluster now.
func Joining(peerURLs []string, learner bool, now time.Time) Member {
	return Member{ID: identity(peerURLs, strconv.FormatInt(now.Unix(), 10)), PeerURLs: peerURLs, IsLearner: learner}
}

func identity(peerURLs []string, salt string) uint64 {
	sorted := slices.Sorted(slices.Values(peerURLs))
	sum := sha1.Sum([]byte(strings.Join(sorted, "") + salt))
	return binary.BigEndian.Uint64(sum[:8])
}

// A Set is the members of one cluster. Its methods may be called concurrently.
type Set struct {
	mu      sync.RWMutex
	members map[uint64]Member
	removed map[uint64]bool
	retired map[uint64]bool // members that are to be removed when a joint configuration ends
}

// NewSet returns a Set of these members.
func NewSet(members ...Member) *Set {
	s := &Set{members: map[uint64]Member{}, removed: map[uint64]bool{}, retired: map[uint64]bool{}}
	for _, m := range members {
		s.members[m.ID] = m
	}
	return s
}

// ClusterID returns the ID of a cluster that begins with these members. The cluster keeps it while
// members come and go.
func (s *Set) ClusterID() uint64 {
	var b []byte
	for _, m := range s.List() {
		b = binary.BigEndian.AppendUint64(b, m.ID)
	}
	sum := sha1.Sum(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// List returns the members in the order of their IDs.
func (s *Set) List() []Member {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.members), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
}

// Get returns a member.
func (s *Set) Get(id uint64) (Member, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m, ok := s.members[id]
	return m, ok
}

// Removed reports whether a member was removed. An ID that was is never used again.
func (s *Set) Removed(id uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.removed[id]
}

// Gone returns the members that were removed, in the order of their IDs.
func (s *Set) Gone() []uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.removed))
}

// Named returns the member with these peer URLs.
func (s *Set) Named(peerURLs []string) (Member, bool) {
	for _, m := range s.List() {
		if slices.Equal(slices.Sorted(slices.Values(m.PeerURLs)), slices.Sorted(slices.Values(peerURLs))) {
			return m, true
		}
	}
	return Member{}, false
}

// Check returns why a configuration change cannot be, or nil.
func (s *Set) Check(t raftpb.ConfChangeType, id uint64, c Change) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m, there := s.members[id]
	if s.removed[id] {
		return ErrRemoved
	}
	switch t {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		if c.IsPromote {
			if !there {
				return ErrNotFound
			}
			if !m.IsLearner {
				return ErrNotLearner
			}
			return nil
		}
		if there {
			return ErrExists
		}
		learners := 0
		for _, other := range s.members {
			if other.IsLearner {
				learners++
			}
			if overlap(other.PeerURLs, c.PeerURLs) {
				return ErrURLExists
			}
		}
		if t == raftpb.ConfChangeAddLearnerNode && learners >= maxLearners {
			return ErrTooManyLearners
		}
	case raftpb.ConfChangeRemoveNode:
		if !there {
			return ErrNotFound
		}
		if !m.IsLearner && s.voters() == 1 {
			return ErrLastVoter
		}
	case raftpb.ConfChangeUpdateNode:
		if !there {
			return ErrNotFound
		}
		for _, other := range s.members {
			if other.ID != id && overlap(other.PeerURLs, c.PeerURLs) {
				return ErrURLExists
			}
		}
	default:
		return fmt.Errorf("membership: unknown change %d", t)
	}
	return nil
}

func (s *Set) voters() (n int) {
	for _, m := range s.members {
		if !m.IsLearner {
			n++
		}
	}
	return n
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// Apply makes a change that Check lets through.
func (s *Set) Apply(t raftpb.ConfChangeType, id uint64, c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		m := c.Member
		if c.IsPromote {
			m = s.members[id]
		}
		m.ID, m.IsLearner = id, t == raftpb.ConfChangeAddLearnerNode
		s.members[id] = m
	case raftpb.ConfChangeRemoveNode:
		delete(s.members, id)
		s.removed[id] = true
	case raftpb.ConfChangeUpdateNode:
		m := s.members[id]
		m.PeerURLs = c.PeerURLs
		s.members[id] = m
	}
}

// Retire has a member removed by the next Finish. Until then it is one.
func (s *Set) Retire(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired[id] = true
}

// Finish removes the members that were retired, and returns them.
func (s *Set) Finish() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.retired))
	for _, id := range ids {
		delete(s.members, id)
		s.removed[id] = true
	}
	clear(s.retired)
	return ids
}

// SetAttributes records what a member says of itself when it has started.
func (s *Set) SetAttributes(id uint64, name string, clientURLs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.members[id]; ok {
		m.Name, m.ClientURLs = name, clientURLs
		s.members[id] = m
	}
}

// Clone returns a Set with the same members.
func (s *Set) Clone() *Set {
	c := NewSet()
	c.Replace(s)
	return c
}

// Replace makes the Set have the members of another.
func (s *Set) Replace(other *Set) {
	other.mu.RLock()
	members, removed, retired := maps.Clone(other.members), maps.Clone(other.removed), maps.Clone(other.retired)
	other.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members, s.removed, s.retired = members, removed, retired
}

type state struct {
	Members []Member `json:"members"`
	Removed []uint64 `json:"removed,omitempty"`
	Retired []uint64 `json:"retired,omitempty"`
}

// MarshalJSON returns the Set as it is in a snapshot.
func (s *Set) MarshalJSON() ([]byte, error) {
	s.mu.RLock()
	removed, retired := slices.Sorted(maps.Keys(s.removed)), slices.Sorted(maps.Keys(s.retired))
	s.mu.RUnlock()
	return json.Marshal(state{s.List(), removed, retired})
}

// UnmarshalJSON makes the Set what MarshalJSON wrote.
func (s *Set) UnmarshalJSON(b []byte) error {
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members, s.removed, s.retired = map[uint64]Member{}, map[uint64]bool{}, map[uint64]bool{}
	for _, m := range st.Members {
		s.members[m.ID] = m
	}
	for _, id := range st.Removed {
		s.removed[id] = true
	}
	for _, id := range st.Retired {
		s.retired[id] = true
	}
	return nil
}
