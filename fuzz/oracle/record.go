package oracle

import (
	"fmt"
	"hash/maphash"

	"github.com/stele-wal/stele/walpb"
)

// A Record is one record of the log as the model knows it: comparable with ==.
type Record struct {
	Kind  walpb.Type
	Term  uint64
	Index uint64 // of a hard state, the commit
	Vote  uint64 // of an entry, its type
	sum   uint64 // of the bytes it carries
}

var sumSeed = maphash.MakeSeed() // sums are only compared with sums of the same process

func EntryRecord(e walpb.Entry) Record {
	return Record{Kind: walpb.TypeEntry, Term: e.Term, Index: e.Index, Vote: uint64(e.Type), sum: maphash.Bytes(sumSeed, e.Data)}
}

func StateRecord(s walpb.HardState) Record {
	return Record{Kind: walpb.TypeState, Term: s.Term, Index: s.Commit, Vote: s.Vote}
}

func SnapshotRecord(s walpb.Snapshot) Record {
	return Record{Kind: walpb.TypeSnapshot, Term: s.Term, Index: s.Index, sum: maphash.Bytes(sumSeed, s.ConfState)}
}

func HardState(r Record) walpb.HardState {
	return walpb.HardState{Term: r.Term, Vote: r.Vote, Commit: r.Index}
}

// Metadata is that of all logs that are judged.
var Metadata = []byte("a node's metadata")

func (r Record) String() string {
	if r.Kind == walpb.TypeState {
		return fmt.Sprintf("%v %d/%d, vote %d", r.Kind, r.Term, r.Index, r.Vote)
	}
	return fmt.Sprintf("%v %d/%d", r.Kind, r.Term, r.Index)
}
