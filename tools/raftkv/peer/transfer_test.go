package peer

import (
	"encoding/json"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/walpb"
)

// snapshotOf makes a body of so many bytes durable in a member's store and returns the message that
// goes with it.
func snapshotOf(t testing.TB, s *side, size int) (*raftpb.Message, []byte) {
	t.Helper()
	content := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	w, err := s.store.Create(walpb.Snapshot{Index: 9, Term: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	m := message(self, other, 0)
	m.Type = raftpb.MsgSnap.Enum()
	m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(9)), Term: new(uint64(3)), ConfState: &raftpb.ConfState{}}}
	return m, content
}

// transfer sends a snapshot and returns what came of it.
func transfer(t testing.TB, a *side, m *raftpb.Message) error {
	t.Helper()
	done := make(chan error, 1)
	a.transport.SendSnapshot(m, func() (*snap.Reader, error) { return a.store.OpenBody(9) }, func(err error) { done <- err })
	return wait(t, "the transfer", done)
}

func checkBody(t testing.TB, b *side, want []byte) {
	t.Helper()
	r, err := b.store.OpenBody(9)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != string(want) {
		t.Errorf("%d bytes came, which are not the %d that were sent (%v)", len(got), len(want), err)
	}
}

func TestASnapshotArrivesWholeBeforeItsMessage(t *testing.T) {
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, 3*chunkSize + 17} {
		a, b := newSide(t, self, 0), newSide(t, other, 0)
		a.transport.SetPeer(other, []string{b.url()})
		m, content := snapshotOf(t, a, size)
		if err := transfer(t, a, m); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got := wait(t, "the message", b.snapshots); !proto.Equal(got, m) {
			t.Errorf("%d bytes: the message came as %v", size, got)
		}
		checkBody(t, b, content)
		if total(a.transport.metrics.snapshotsSent) != 1 || total(b.transport.metrics.snapshotsReceived) != 1 {
			t.Error("it does not count")
		}
	}
}

func TestATransferThatBreaksGoesOnFromABlock(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	b.end()
	// When four chunks have come the connection breaks. More than a window is still to come then,
	// so that it is in the middle.
	b.cut = func() bool { return total(b.transport.metrics.received) > 4*chunkSize }
	b.listen(t)
	a.transport.SetPeer(other, []string{b.url()})
	m, content := snapshotOf(t, a, 4<<20)
	if err := transfer(t, a, m); err == nil {
		t.Fatal("a transfer that broke in the middle is said to have arrived")
	}
	if total(a.transport.metrics.snapshotsFailed) != 1 || total(b.transport.metrics.snapshotsReceived) != 0 {
		t.Error("it does not count as failed")
	}
	b.end() // who received has let go of the body
	b.cut = nil
	b.listen(t)
	before := total(b.transport.metrics.received)
	err := transfer(t, a, m)
	for err != nil && b.attempts.Load() < 2 { // the connection is made anew
		err = transfer(t, a, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	from := b.resumed.Load()
	if from < 3*snap.BlockSize || from%snap.BlockSize != 0 || from > int64(len(content))/2 {
		t.Errorf("it went on from byte %d", from)
	}
	if rest := int64(len(content)) - from; int64(total(b.transport.metrics.received)-before) > rest+rest/chunkSize*4+4 {
		t.Errorf("%v bytes came again, of which %d were missing", total(b.transport.metrics.received)-before, rest)
	}
	wait(t, "the message", b.snapshots)
	checkBody(t, b, content)
}

func TestASnapshotIsSentNoFasterThanItMay(t *testing.T) {
	const limit, size = 2 << 20, 1 << 20
	a, b := newSide(t, self, limit), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	m, content := snapshotOf(t, a, size)
	began := time.Now()
	if err := transfer(t, a, m); err != nil {
		t.Fatal(err)
	}
	// A twentieth of a second's worth may come at once, and a chunk.
	if least := time.Duration(size-limit/20-chunkSize) * time.Second / limit; time.Since(began) < least {
		t.Errorf("it took %v, and at least %v are due", time.Since(began), least)
	}
	wait(t, "the message", b.snapshots)
	checkBody(t, b, content)
}

func TestASnapshotThatNobodyTakesIsReported(t *testing.T) {
	a := newSide(t, self, 0)
	m, _ := snapshotOf(t, a, 10)
	if err := transfer(t, a, m); err == nil {
		t.Error("a snapshot to a stranger is said to have arrived")
	}
	b := newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	b.end()
	if err := transfer(t, a, m); err == nil {
		t.Error("a snapshot to a peer that is down is said to have arrived")
	}
}

func TestASnapshotIsSentOnlyOnceRaftHasTakenIt(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	m, _ := snapshotOf(t, a, 10)
	b.refuse = node.ErrNotRestored
	if err := transfer(t, a, m); status.Convert(err).Message() != node.ErrNotRestored.Error() {
		t.Errorf("a snapshot that raft did not take: %v", err)
	}
}

// Of a snapshot that is not needed the message arrives all the same, as raft has to answer it.
func TestOfASnapshotThatIsNotNeededOnlyTheMessageIsSent(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	a.transport.SetPeer(other, []string{b.url()})
	b.ahead = true
	m, _ := snapshotOf(t, a, 5*chunkSize)
	if err := transfer(t, a, m); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, "the message", b.snapshots); !proto.Equal(got, m) {
		t.Errorf("the message came as %v", got)
	}
	if l, err := b.store.List(); err != nil || len(l.Bodies)+len(l.Partials) != 0 {
		t.Errorf("something was written: %v, %v", l, err)
	}
}

// What comes is not believed: each lie about a snapshot is refused, and nothing of it is committed.
func TestASnapshotThatIsNotWhatItSaysIsRefused(t *testing.T) {
	content := []byte("content")
	good := func() (offer, []byte) {
		m := message(self, other, 0)
		m.Type = raftpb.MsgSnap.Enum()
		m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(9)), Term: new(uint64(3)), ConfState: &raftpb.ConfState{}}}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		chunk := append([]byte{0, 0, 0, 0}, content...)
		sum := crc32.ChecksumIEEE(content)
		chunk[0], chunk[1], chunk[2], chunk[3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		return offer{Message: b, Index: 9, Term: 3, ID: make([]byte, 16), Size: int64(len(content))}, chunk
	}
	for _, test := range []struct {
		name string
		code codes.Code
		says string
		lie  func(o *offer, chunk []byte) (first, rest []byte)
	}{
		{"the offer is no JSON", codes.InvalidArgument, "", func(*offer, []byte) ([]byte, []byte) { return []byte("{"), nil }},
		{"another index", codes.InvalidArgument, "not of the same snapshot", func(o *offer, c []byte) ([]byte, []byte) { o.Index++; return nil, c }},
		{"a message in another's name", codes.InvalidArgument, "from 3 to 2", func(o *offer, c []byte) ([]byte, []byte) {
			m := new(raftpb.Message)
			if err := proto.Unmarshal(o.Message, m); err != nil {
				t.Fatal(err)
			}
			m.From = new(uint64(third))
			o.Message, _ = proto.Marshal(m) // which has no way to fail
			return nil, c
		}},
		{"another term", codes.InvalidArgument, "not of the same snapshot", func(o *offer, c []byte) ([]byte, []byte) { o.Term++; return nil, c }},
		{"a short ID", codes.InvalidArgument, "not of the same snapshot", func(o *offer, c []byte) ([]byte, []byte) { o.ID = o.ID[1:]; return nil, c }},
		{"a message of another kind", codes.InvalidArgument, "not of the same snapshot", func(o *offer, c []byte) ([]byte, []byte) { o.Message = nil; return nil, c }},
		{"a chunk without room for its checksum", codes.Unavailable, "came damaged", func(_ *offer, c []byte) ([]byte, []byte) { return nil, c[:3] }},
		{"a flipped bit", codes.Unavailable, "came damaged", func(_ *offer, c []byte) ([]byte, []byte) { c[5] ^= 4; return nil, c }},
		{"too few bytes", codes.Unavailable, "a snapshot of 8 bytes", func(o *offer, c []byte) ([]byte, []byte) { o.Size++; return nil, c }},
		{"too many bytes", codes.Unavailable, "a snapshot of 6 bytes", func(o *offer, c []byte) ([]byte, []byte) { o.Size--; return nil, c }},
		// Sum is 0.
		{"another checksum", codes.Unavailable, "with checksum", func(o *offer, c []byte) ([]byte, []byte) { return nil, c }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newSide(t, other, 0)
			s := stream(t, b.url(), "Snapshot", asSelf...)
			o, chunk := good()
			first, rest := test.lie(&o, chunk)
			if first == nil {
				var err error
				if first, err = json.Marshal(o); err != nil {
					t.Fatal(err)
				}
			}
			for _, b := range [][]byte{first, rest} {
				_ = s.SendMsg(wrapperspb.Bytes(b)) // it may have been refused by now
			}
			_ = s.CloseSend()
			var from wrapperspb.UInt64Value
			err := s.RecvMsg(&from)
			if err == nil {
				err = s.RecvMsg(&from)
			}
			if got := status.Convert(err); got.Code() != test.code || !strings.Contains(got.Message(), test.says) {
				t.Errorf("%v", err)
			}
			if l, err := b.store.List(); err != nil || len(l.Bodies) != 0 {
				t.Errorf("it was taken: %v, %v", l, err)
			}
		})
	}
}
