package main

import (
	"encoding/json"
	"fmt"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// What verify and info have in common.

// report checks a log and has show print the outcome.
func (a *app) report(path, output string, show func(t *target, r *wal.Report, asJSON bool) error) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("-o %s: there are text and json", output)
	}
	t, err := a.find(path)
	if err != nil {
		return err
	}
	r, failed := wal.Check(t.path, a.options())
	if failed != nil && len(r.Segments) == 0 {
		return unreadable(failed)
	}
	a.code = exitCode(r)
	if err := show(t, r, output == "json"); err != nil {
		return a.wrote(0, err)
	}
	if failed != nil {
		return unreadable(failed)
	}
	return nil
}

func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

type jsonSegment struct {
	Name       string `json:"name"`
	Size       int64  `json:"size"`
	End        int64  `json:"end"`
	Records    int    `json:"records"`
	Entries    int    `json:"entries"`
	FirstIndex uint64 `json:"first_index"`
	LastIndex  uint64 `json:"last_index"`
	Witnesses  int    `json:"witnesses"`
	Verdict    string `json:"verdict"`
}

// segments describes each segment. Its verdict is the worst of what was found in it.
func segments(r *wal.Report) []jsonSegment {
	list := []jsonSegment{}
	for _, s := range r.Segments {
		verdict := wal.Clean
		for i := range r.Findings {
			if f := &r.Findings[i]; f.Segment == s.Name && f.Kind != wal.MissingSegment {
				verdict = max(verdict, f.Verdict)
			}
		}
		list = append(list, jsonSegment{
			Name: s.Name, Size: s.Size, End: s.End, Records: s.Records, Entries: s.Entries,
			FirstIndex: s.First, LastIndex: s.Last, Witnesses: s.Witnesses, Verdict: verdict.String(),
		})
	}
	return list
}

func indexes(first, last uint64) string {
	if last == 0 {
		return "-"
	}
	return fmt.Sprintf("%d..%d", first, last)
}

type jsonState struct {
	Term   uint64 `json:"term"`
	Vote   string `json:"vote"` // in hex, as etcd shows its members
	Commit uint64 `json:"commit"`
}

func newJSONState(s walpb.HardState) jsonState {
	return jsonState{Term: s.Term, Vote: fmt.Sprintf("%x", s.Vote), Commit: s.Commit}
}
