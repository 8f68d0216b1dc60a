package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/mvcc"
)

func TestAStateThatIsWrittenIsReadHoweverMuchThereIsBesideTheKeys(t *testing.T) {
	h := Head{ClusterID: 1, Index: 2, Term: 3}
	for _, size := range []int{10, 2 << 20, maxHead} {
		h.Members = member.NewSet(member.Member{ID: 1, ClientURLs: []string{strings.Repeat("u", size)}})
		var b bytes.Buffer
		err := WriteState(&b, h, mvcc.New().View())
		if size == maxHead {
			if err == nil || b.Len() > 0 {
				t.Errorf("one of %d bytes was written that is not read", b.Len())
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := ReadState(&b)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if m, _ := got.Members.Get(1); len(m.ClientURLs) != 1 || len(m.ClientURLs[0]) != size || got.Index != h.Index {
			t.Errorf("%d bytes: it is read as of index %d", size, got.Index)
		}
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "a length alone": binary.AppendUvarint(nil, maxHead), "a length too large": binary.AppendUvarint(nil, maxHead+1),
	} {
		if _, _, err := ReadState(bytes.NewReader(b)); !errors.Is(err, mvcc.ErrMalformed) || strings.Contains(err.Error(), "%!") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := ReadState(bytes.NewReader(binary.AppendUvarint(nil, 9))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("one that ends in its head: %v", err)
	}
}

// Alarms are part of every snapshot, so there can be only so many.
func TestAnAlarmIsOfAMemberAndOfAKindThatIsKnown(t *testing.T) {
	s := newSim(t, 1, Config{})
	n := s.start(1)
	raise := func(action pb.AlarmRequest_AlarmAction, id uint64, kind pb.AlarmType) error {
		_, err := n.Propose(timeout(t), &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{Action: action, MemberID: id, Alarm: kind}})
		return err
	}
	if err := raise(pb.AlarmRequest_ACTIVATE, 2, pb.AlarmType_CORRUPT); !errors.Is(err, member.ErrNotFound) {
		t.Errorf("of a stranger: %v", err)
	}
	if err := raise(pb.AlarmRequest_ACTIVATE, 1, 77); !errors.Is(err, ErrBadAlarm) {
		t.Errorf("of no kind: %v", err)
	}
	must(t, raise(pb.AlarmRequest_ACTIVATE, 1, pb.AlarmType_CORRUPT))
	// A member that is gone may have left an alarm.
	must(t, raise(pb.AlarmRequest_DEACTIVATE, 2, pb.AlarmType_CORRUPT))
	if got := n.Alarms(); len(got) != 1 || got[0].MemberID != 1 {
		t.Errorf("%v", got)
	}
}
