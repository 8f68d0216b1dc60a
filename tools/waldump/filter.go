package main

import (
	"slices"
	"strings"

	"github.com/stele-wal/stele/walpb"
)

// A filter says which records to print. The zero filter admits all of them.
type filter struct {
	byIndex  bool // by from and to: only entries and snapshot records have an index
	from, to uint64
	byTerm   bool // by term: only these and hard states have one
	term     uint64
	types    []string // none means all
	segment  string   // what its name begins with
	live     bool     // without entries that are overwritten
}

func (f *filter) admits(r *decoded) bool {
	if f.segment != "" && !strings.HasPrefix(r.Segment, f.segment) {
		return false
	}
	if len(f.types) > 0 && !slices.Contains(f.types, r.Type.String()) {
		return false
	}
	hasIndex := r.err == nil && (r.Type == walpb.TypeEntry || r.Type == walpb.TypeSnapshot)
	if f.byIndex && (!hasIndex || r.index < f.from || r.index > f.to) {
		return false
	}
	hasTerm := hasIndex || r.err == nil && r.Type == walpb.TypeState
	if f.byTerm && (!hasTerm || r.term != f.term) {
		return false
	}
	return !(f.live && r.overwritten)
}
