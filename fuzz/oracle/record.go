package oracle

import (
	"fmt"
	"hash/maphash"

	"github.com/stele-wal/stele/walpb"
)

// Metadata is that of the logs that are judged.
var Metadata = []byte("a node's metadata")

// A Record is one record of a log as the model knows it. Two of them are compared with ==, in one
// process.
type Record struct {
	Kind  walpb.Type
	Term  uint64
	Index uint64 // of a hard state, the commit
	Vote  uint64 // of an entry, its type
	sum   uint64 // of the bytes it carries, under sumSeed
}

var sumSeed = maphash.MakeSeed()

// EntryRecord returns the record of an entry.
func EntryRecord(e walpb.Entry) Record {
	return Record{Kind: walpb.TypeEntry, Term: e.Term, Index: e.Index, Vote: uint64(e.Type), sum: maphash.Bytes(sumSeed, e.Data)}
}

// StateRecord returns the record of a hard state; HardState is the inverse.
func StateRecord(s walpb.HardState) Record {
	return Record{Kind: walpb.TypeState, Term: s.Term, Index: s.Commit, Vote: s.Vote}
}

// HardState returns the hard state of which a record is.
func HardState(r Record) walpb.HardState {
	return walpb.HardState{Term: r.Term, Vote: r.Vote, Commit: r.Index}
}

// SnapshotRecord returns the record of a snapshot.
func SnapshotRecord(s walpb.Snapshot) Record {
	return Record{Kind: walpb.TypeSnapshot, Term: s.Term, Index: s.Index, sum: maphash.Bytes(sumSeed, s.ConfState)}
}

// Decode returns what a record of a log says. Of metadata and checksums that is only their type.
func Decode(r walpb.Record) (Record, error) {
	switch r.Type {
	case walpb.TypeEntry:
		var e walpb.Entry
		decode := e.Unmarshal
		if r.HasHeaderCRC {
			decode = e.UnmarshalLenient // which takes types of our own
		}
		err := decode(r.Data)
		return EntryRecord(e), err
	case walpb.TypeState:
		var s walpb.HardState
		err := s.Unmarshal(r.Data)
		return StateRecord(s), err
	case walpb.TypeSnapshot:
		var s walpb.Snapshot
		err := s.Unmarshal(r.Data)
		return SnapshotRecord(s), err
	case walpb.TypeMetadata, walpb.TypeCRC:
		return Record{Kind: r.Type}, nil
	}
	return Record{}, fmt.Errorf("a record of type %v", r.Type)
}

// LastState returns the last hard state among records, or before if there is none.
func LastState(records []Record, before Record) Record {
	for i := len(records) - 1; i >= 0; i-- {
		if records[i].Kind == walpb.TypeState {
			return records[i]
		}
	}
	return before
}

// noState is the hard state of a log that has none.
var noState = Record{Kind: walpb.TypeState}

func (r Record) String() string {
	if r.Kind == walpb.TypeState {
		return fmt.Sprintf("%v %d/%d, vote %d", r.Kind, r.Term, r.Index, r.Vote)
	}
	return fmt.Sprintf("%v %d/%d", r.Kind, r.Term, r.Index)
}
