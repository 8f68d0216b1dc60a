package member

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	addVoter   = raftpb.ConfChangeAddNode
	addLearner = raftpb.ConfChangeAddLearnerNode
	remove     = raftpb.ConfChangeRemoveNode
	update     = raftpb.ConfChangeUpdateNode
)

func at(id uint64, urls ...string) Change { return Change{Member: Member{ID: id, PeerURLs: urls}} }

var promote = Change{IsPromote: true}

// three returns a Set of two voters and a learner that is 3, of which 9 was removed.
func three() *Set {
	s := NewSet(Member{ID: 1, PeerURLs: []string{"http://1:1"}}, Member{ID: 2, PeerURLs: []string{"http://2:1", "http://2:2"}},
		Member{ID: 3, PeerURLs: []string{"http://3:1"}, IsLearner: true}, Member{ID: 9})
	s.Apply(remove, 9, Change{})
	return s
}

func TestAChangeIsCheckedAgainstWhoIsThere(t *testing.T) {
	for _, test := range []struct {
		what   string
		kind   raftpb.ConfChangeType
		id     uint64
		change Change
		want   error
	}{
		{"a voter", addVoter, 4, at(4, "http://4:1"), nil},
		{"a voter that is there", addVoter, 1, at(1, "http://4:1"), ErrExists},
		{"a voter at another's URL", addVoter, 4, at(4, "http://4:1", "http://2:2"), ErrURLExists},
		{"a voter that was removed", addVoter, 9, at(9, "http://9:1"), ErrRemoved},
		{"a second learner", addLearner, 4, at(4, "http://4:1"), ErrTooManyLearners},
		{"a learner that was removed", addLearner, 9, at(9, "http://9:1"), ErrRemoved},
		{"to promote the learner", addVoter, 3, promote, nil},
		{"to promote a voter", addVoter, 1, promote, ErrNotLearner},
		{"to promote a stranger", addVoter, 4, promote, ErrNotFound},
		{"to promote that was removed", addVoter, 9, promote, ErrRemoved},
		{"to remove a voter", remove, 1, Change{}, nil},
		{"to remove the learner", remove, 3, Change{}, nil},
		{"to remove a stranger", remove, 4, Change{}, ErrNotFound},
		{"to remove a removed member", remove, 9, Change{}, ErrRemoved},
		{"other URLs", update, 2, at(2, "http://2:2", "http://2:3"), nil},
		{"another's URL", update, 2, at(2, "http://1:1"), ErrURLExists},
		{"other URLs of a stranger", update, 4, at(4, "http://4:1"), ErrNotFound},
		{"other URLs of a removed member", update, 9, at(9, "http://9:1"), ErrRemoved},
	} {
		s := three()
		before := s.List()
		if got := s.Check(test.kind, test.id, test.change); got != test.want {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
		if !reflect.DeepEqual(s.List(), before) {
			t.Errorf("%s: the check has changed the members", test.what)
		}
	}
	if err := three().Check(99, 1, Change{}); err == nil {
		t.Error("a change of a kind that is not known")
	}
	if err := NewSet(Member{ID: 1}).Check(addLearner, 2, at(2, "http://2:1")); err != nil {
		t.Errorf("the first learner: %v", err)
	}
}

func TestChangesAddUp(t *testing.T) {
	s := three()
	s.SetAttributes(3, "three", []string{"http://3:9"})
	s.SetAttributes(4, "stranger", nil)
	s.Apply(addVoter, 3, promote)
	s.Apply(addLearner, 4, at(4, "http://4:1"))
	s.Apply(update, 2, at(2, "http://2:7"))
	s.Apply(remove, 1, Change{})
	want := []Member{
		{ID: 2, PeerURLs: []string{"http://2:7"}},
		// A promotion changes nothing else.
		{ID: 3, PeerURLs: []string{"http://3:1"}, Name: "three", ClientURLs: []string{"http://3:9"}},
		{ID: 4, PeerURLs: []string{"http://4:1"}, IsLearner: true},
	}
	if got := s.List(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !s.Removed(1) || !s.Removed(9) || s.Removed(2) || s.Removed(4) {
		t.Error("a removed member is not known")
	}
	if m, ok := s.Get(1); ok {
		t.Errorf("%+v is there", m)
	}
}

// Whatever happens later, restarts and snapshots among it, an ID that was removed is refused.
func TestAnIDThatWasRemovedNeverComesBack(t *testing.T) {
	s := three()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	restarted := NewSet()
	if err := json.Unmarshal(b, restarted); err != nil {
		t.Fatal(err)
	}
	installed := NewSet(Member{ID: 9})
	installed.Replace(restarted)
	for name, s := range map[string]*Set{"restarted": restarted, "cloned": s.Clone(), "installed": installed} {
		if !reflect.DeepEqual(s.List(), three().List()) {
			t.Errorf("%s: %+v", name, s.List())
		}
		for _, kind := range []raftpb.ConfChangeType{addVoter, addLearner, remove, update} {
			if err := s.Check(kind, 9, at(9, "http://9:1")); !errors.Is(err, ErrRemoved) {
				t.Errorf("%s: change %v: %v", name, kind, err)
			}
		}
	}
}

func TestWhoRetiresIsAMemberUntilTheChangeIsOver(t *testing.T) {
	s := three()
	s.Retire(2)
	b, err := json.Marshal(s) // a snapshot in between
	if err != nil {
		t.Fatal(err)
	}
	restarted := NewSet()
	if err := json.Unmarshal(b, restarted); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Set{s, restarted, s.Clone()} {
		if _, ok := s.Get(2); !ok || s.Removed(2) {
			t.Error("it is gone too early")
		}
		if gone := s.Finish(); !slices.Equal(gone, []uint64{2}) {
			t.Errorf("%v are gone", gone)
		}
		if _, ok := s.Get(2); ok || !s.Removed(2) {
			t.Error("it is still there")
		}
		if gone := s.Finish(); len(gone) != 0 {
			t.Errorf("%v are gone again", gone)
		}
	}
}

func TestASetThatIsClonedGoesItsOwnWay(t *testing.T) {
	s := three()
	c := s.Clone()
	s.Apply(remove, 1, Change{})
	if _, ok := c.Get(1); !ok || c.Removed(1) {
		t.Error("what happens to the one happens to the other")
	}
}

// All who make a cluster from the same list must come to the same IDs, and they are etcd's: an etcd
// that is started without flags says that it is member 8e9e05c52164694d of cluster
// cdf818194e3a8c32.
func TestWhoMakesAClusterFromTheSameListGetsTheSameIDs(t *testing.T) {
	lone := New("default", "etcd-cluster", []string{"http://localhost:2380"})
	if cluster := NewSet(lone).ClusterID(); lone.ID != 0x8e9e05c52164694d || cluster != 0xcdf818194e3a8c32 {
		t.Errorf("a lone member is %x of cluster %x", lone.ID, cluster)
	}
	a, b := New("a", "etcd-cluster", []string{"http://127.0.0.1:2380"}), New("b", "etcd-cluster", []string{"http://127.0.0.1:2381", "http://127.0.0.1:2382"})
	turned := New("b", "etcd-cluster", []string{"http://127.0.0.1:2382", "http://127.0.0.1:2381"})
	if b.ID != turned.ID {
		t.Errorf("the order of its URLs makes it %x instead of %x", turned.ID, b.ID)
	}
	if x, y := NewSet(a, b).ClusterID(), NewSet(turned, a).ClusterID(); x != y {
		t.Errorf("the order of its members makes it cluster %x instead of %x", y, x)
	}
	if New("a", "another", a.PeerURLs).ID == a.ID {
		t.Error("two tokens give one cluster")
	}
	if x := New("another name", "etcd-cluster", a.PeerURLs).ID; x != a.ID {
		t.Error("the name counts")
	}
	now := time.Unix(1000, 0)
	if Joining(a.PeerURLs, false, now).ID == Joining(a.PeerURLs, false, now.Add(time.Second)).ID {
		t.Error("a member that joins a second time has its old ID")
	}
}

func TestAMemberIsFoundByItsURLs(t *testing.T) {
	s := three()
	if m, ok := s.Named([]string{"http://2:2", "http://2:1"}); !ok || m.ID != 2 {
		t.Errorf("%+v, %v", m, ok)
	}
	for _, urls := range [][]string{{"http://2:1"}, {"http://2:1", "http://2:2", "http://2:3"}, nil} {
		if m, ok := s.Named(urls); ok {
			t.Errorf("%v is %+v", urls, m)
		}
	}
}
