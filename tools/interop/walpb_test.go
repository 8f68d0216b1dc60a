package interop

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	etcdpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/walpb"
)

// number is one of those at which an encoding grows, or any.
func number(r *rand.Rand) uint64 {
	switch r.IntN(4) {
	case 0:
		return r.Uint64N(4)
	case 1:
		return (1 << (7 * r.IntN(10))) - r.Uint64N(2)
	case 2:
		return math.MaxUint64 - r.Uint64N(2)
	}
	return r.Uint64() >> r.IntN(64)
}

// blob is nil, empty or not.
func blob(r *rand.Rand) []byte {
	n := r.IntN(5)
	if n == 0 {
		return nil
	}
	b := make([]byte, (n-1)*r.IntN(100))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// marshal is google's encoding, which etcd 3.7 uses.
func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// decode is google's decoding. The result owns its bytes.
func decode[M proto.Message](t *testing.T, b []byte, m M) M {
	t.Helper()
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatalf("etcd does not decode %x: %v", b, err)
	}
	return m
}

// same fails unless our bytes are etcd's.
func same(t *testing.T, what any, ours, theirs []byte) {
	t.Helper()
	if !bytes.Equal(ours, theirs) {
		t.Fatalf("%+v\nours %x\netcd %x", what, ours, theirs)
	}
}

func checkEntry(t *testing.T, e walpb.Entry) {
	t.Helper()
	b := e.Append(nil)
	p := decode(t, b, &raftpb.Entry{})
	if back := FromEtcdEntry(p); !equalEntries(back, e) {
		t.Fatalf("%+v comes out of etcd's decoder as %+v", e, back)
	}
	same(t, e, b, marshal(t, p))
	same(t, e, b, marshal(t, ToEtcdEntry(e)))
	// Users of etcd's package may also set a type of 0, as etcd before 3.7 did, or leave numbers
	// out.
	for _, p := range []*raftpb.Entry{ToEtcdEntry(e), {Type: raftpb.EntryType(e.Type).Enum(), Term: new(e.Term), Index: new(e.Index), Data: e.Data}, {Index: new(e.Index)}, {Data: e.Data}, {}} {
		var back walpb.Entry
		if err := back.Unmarshal(marshal(t, p)); err != nil {
			t.Fatalf("strict Unmarshal of etcd's %x: %v", marshal(t, p), err)
		}
		if want := FromEtcdEntry(p); !equalEntries(back, want) {
			t.Fatalf("etcd's %v comes out of ours as %+v", p, back)
		}
	}
}

func equalEntries(a, b walpb.Entry) bool {
	return a.Type == b.Type && a.Term == b.Term && a.Index == b.Index && bytes.Equal(a.Data, b.Data) && (a.Data == nil) == (b.Data == nil)
}

func checkState(t *testing.T, s walpb.HardState) {
	t.Helper()
	b := s.Append(nil)
	p := decode(t, b, &raftpb.HardState{})
	if back := FromEtcdState(p); back != s {
		t.Fatalf("%+v comes out of etcd's decoder as %+v", s, back)
	}
	same(t, s, b, marshal(t, p))
	if !s.IsZero() {
		same(t, s, b, marshal(t, ToEtcdState(s)))
	}
	var back walpb.HardState
	if err := back.Unmarshal(marshal(t, p)); err != nil || back != s {
		t.Fatalf("etcd's %x comes out of ours as %+v, %v", b, back, err)
	}
}

func checkSnapshot(t *testing.T, s walpb.Snapshot) {
	t.Helper()
	b := s.Append(nil)
	p := decode(t, b, &etcdpb.Snapshot{})
	back, err := FromEtcdSnapshot(p)
	if err != nil {
		t.Fatal(err)
	}
	same(t, s, back.Append(nil), b)
	same(t, s, b, marshal(t, p))
	var ours walpb.Snapshot
	if err := ours.Unmarshal(marshal(t, p)); err != nil || (ours.ConfState == nil) != (s.ConfState == nil) {
		t.Fatalf("etcd's %x comes out of ours as %+v, %v", b, ours, err)
	}
	same(t, s, ours.Append(nil), b)
}

// checkRecord also takes one with a witness, of which etcd must see all but the two fields that it
// does not know.
func checkRecord(t *testing.T, r walpb.Record) {
	t.Helper()
	b := r.Append(nil)
	p := decode(t, b, &etcdpb.Record{})
	if p.GetType() != int64(r.Type) || p.GetCrc() != r.CRC || !bytes.Equal(p.Data, r.Data) || (p.Data == nil) != (r.Data == nil) {
		t.Fatalf("%+v comes out of etcd's decoder as %v", r, p)
	}
	if unknown := len(p.ProtoReflect().GetUnknown()) > 0; unknown != r.HasHeaderCRC {
		t.Fatalf("%+v: unknown to etcd: %x", r, p.ProtoReflect().GetUnknown())
	}
	plain := walpb.Record{Type: r.Type, CRC: r.CRC, Data: r.Data}
	theirs := marshal(t, &etcdpb.Record{Type: new(int64(r.Type)), Crc: new(r.CRC), Data: r.Data})
	same(t, plain, plain.Append(nil), theirs)
	var back walpb.Record
	if err := back.Unmarshal(theirs); err != nil {
		t.Fatalf("strict Unmarshal of etcd's %x: %v", theirs, err)
	}
	same(t, back, back.Append(nil), theirs)
}

func TestWhatEitherEncodesTheOtherDecodesEqual(t *testing.T) {
	seed := seeded(t)
	r := rand.New(rand.NewPCG(seed, 1))
	g := NewGenerator(NewModel(nil), r)
	for range 20_000 {
		checkEntry(t, walpb.Entry{Type: walpb.EntryType(r.IntN(3)), Term: number(r), Index: number(r), Data: blob(r)})
		checkState(t, walpb.HardState{Term: number(r), Vote: number(r), Commit: number(r)})
		s := g.snapshot(number(r), number(r))
		if r.IntN(4) == 0 {
			s.ConfState = nil
		}
		checkSnapshot(t, s)
		record := walpb.Record{Type: walpb.Type(1 + r.IntN(5)), CRC: uint32(number(r)), Data: blob(r)}
		checkRecord(t, record)
		record.HasHeaderCRC, record.HeaderCRC, record.SyncedTo = true, r.Uint32(), number(r)
		checkRecord(t, record)
	}
}

// FuzzMessages decodes the same bytes with both, and what ours accepts, etcd must accept and
// understand the same way.
func FuzzMessages(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		e := walpb.Entry{Type: walpb.EntryType(r.IntN(3)), Term: number(r), Index: number(r), Data: blob(r)}
		s := walpb.HardState{Term: number(r), Vote: number(r), Commit: number(r)}
		snap := walpb.Snapshot{Index: number(r), Term: number(r), ConfState: []byte{8, 1, 8, 2, 40, 0}}
		rec := walpb.Record{Type: walpb.TypeEntry, CRC: r.Uint32(), Data: e.Append(nil), HasHeaderCRC: r.IntN(2) == 0, HeaderCRC: 7}
		for _, b := range [][]byte{e.Append(nil), s.Append(nil), snap.Append(nil), rec.Append(nil)} {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var e walpb.Entry
		if e.Unmarshal(b) == nil {
			if got := FromEtcdEntry(decode(t, b, &raftpb.Entry{})); !equalEntries(got, e) {
				t.Fatalf("%x: ours %+v, etcd %+v", b, e, got)
			}
			checkEntry(t, e)
		}
		var s walpb.HardState
		if s.Unmarshal(b) == nil {
			if got := FromEtcdState(decode(t, b, &raftpb.HardState{})); got != s {
				t.Fatalf("%x: ours %+v, etcd %+v", b, s, got)
			}
			checkState(t, s)
		}
		var snap walpb.Snapshot
		if snap.Unmarshal(b) == nil {
			var p etcdpb.Snapshot
			// The configuration is raft's own, opaque to us: only raft can tell that it is none.
			if err := proto.Unmarshal(b, &p); err == nil && (p.GetIndex() != snap.Index || p.GetTerm() != snap.Term || (p.ConfState == nil) != (snap.ConfState == nil)) {
				t.Fatalf("%x: ours %+v, etcd %v", b, snap, &p)
			}
		}
		var rec walpb.Record
		if rec.Unmarshal(b) == nil {
			p := decode(t, b, &etcdpb.Record{})
			if p.GetType() != int64(rec.Type) || p.GetCrc() != rec.CRC || !bytes.Equal(p.Data, rec.Data) {
				t.Fatalf("%x: ours %+v, etcd %v", b, rec, p)
			}
		}
		// And the other way round: what etcd decodes from these bytes and writes again, ours reads
		// strictly.
		entry := &raftpb.Entry{}
		if proto.Unmarshal(b, entry) == nil && len(entry.ProtoReflect().GetUnknown()) == 0 && raftpb.EntryType_name[int32(entry.GetType())] != "" {
			var back walpb.Entry
			if err := back.Unmarshal(marshal(t, entry)); err != nil || !equalEntries(back, FromEtcdEntry(entry)) {
				t.Fatalf("etcd writes %x, ours reads %+v, %v", marshal(t, entry), back, err)
			}
		}
		state := &raftpb.HardState{}
		if proto.Unmarshal(b, state) == nil && len(state.ProtoReflect().GetUnknown()) == 0 && state.Term != nil && state.Vote != nil && state.Commit != nil {
			var back walpb.HardState
			if err := back.Unmarshal(marshal(t, state)); err != nil || back != FromEtcdState(state) {
				t.Fatalf("etcd writes %x, ours reads %+v, %v", marshal(t, state), back, err)
			}
		}
	})
}
