package fuzz

import (
	"fmt"
	"math/rand/v2"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
)

// RunExhaustive crashes a few short, fixed histories at every change of the file system, in all of these ways: everything that
// was pending is there, nothing is, all but one piece is, only one piece is, and every prefix of the changes. Of Config only
// Failures, Saboteur and Logger matter. Result and error are those of Run.
func RunExhaustive(cfg Config) (Result, error) {
	c := newCampaign(cfg)
	for i, s := range scripts {
		for _, plain := range []bool{false, true} {
			if c.done() {
				break
			}
			h := newHistory(c, uint64(i), rand.New(rand.NewPCG(uint64(i), 0)))
			h.size, h.plain = 4096, plain
			h.choose = everyCrash
			h.tracef("script %d, plain %v", i, plain)
			c.script(h, s)
		}
	}
	return c.finish()
}

// everyCrash returns all crashes but those that are chance.
func everyCrash(disk *crashfs.FS) []named {
	pending, changes := len(disk.Pending()), disk.Changes()
	if pending == 0 {
		return nil
	}
	all := []named{{"keep all", crashfs.KeepAll}, {"drop all", crashfs.DropAll}}
	for i := range pending {
		all = append(all,
			named{fmt.Sprintf("drop %d of %d", i, pending), crashfs.DropOne(i)},
			named{fmt.Sprintf("keep %d of %d", i, pending), crashfs.KeepOne(i)})
	}
	for n := 1; n < changes; n++ {
		all = append(all, named{fmt.Sprintf("first %d of %d changes", n, changes), crashfs.Prefix(n)})
	}
	return all
}

// script runs one history. Each of its parts is a life, that ends in a kill but for the last.
func (c *campaign) script(h *history, lives [][]func(*life)) {
	disk := crashfs.New()
	for _, calls := range lives {
		c.result.Lives++
		l := h.begin(disk)
		l.open()
		for _, call := range calls {
			if h.failed {
				break
			}
			call(l)
			l.check("after the call")
		}
		l.check("at the end")
		if h.failed {
			l.discard()
			return
		}
		l.ended = true
		// The last changes but one are there: the log ends torn, as a rule.
		disk = l.disk.Crash(crashfs.Prefix(max(0, l.disk.Changes()-1)))
		l.discard()
	}
}

// The histories: what a batch and a cut come to; overwrites, snapshots and a release; an installed snapshot, and a life behind
// a torn tail.
var scripts = [][][]func(*life){
	{{
		entries(1, 1, 3), entries(4, 1, 2), commit(1, 1, 4), entries(6, 1, 6), entries(12, 1, 6), entries(18, 1, 1), (*life).close,
	}},
	{{
		entries(1, 1, 5), commit(1, 1, 2), entries(4, 2, 2), commit(2, 0, 3), commit(3, 2, 3), entries(5, 3, 8), commit(3, 2, 9),
		snapshot(8, 3), entries(13, 3, 8), entries(21, 3, 2), released(8), entries(23, 3, 1),
	}},
	{{
		entries(1, 1, 4), commit(1, 1, 2), snapshot(9, 2), commit(2, 0, 9), entries(10, 2, 5),
	}, {
		entries(10, 2, 2), entries(12, 2, 3), commit(2, 0, 12), entries(13, 2, 6),
	}, {
		entries(13, 2, 1), (*life).close,
	}},
}

// entries saves that many entries of a term.
func entries(first, term uint64, count int) func(*life) {
	return func(l *life) {
		m := fold(l.model.records)
		first := min(first, m.last()+1) // behind a torn tail, less may be there
		var e []walpb.Entry
		for i := range count {
			e = append(e, l.entry(first+uint64(i), term))
		}
		l.saveOnly(walpb.HardState{}, e)
	}
}

// commit saves a hard state.
func commit(term, vote, index uint64) func(*life) {
	return func(l *life) {
		m := fold(l.model.records)
		last := m.last()
		if m.pending >= 0 {
			last = max(last, l.model.records[m.pending].index)
		}
		l.saveOnly(walpb.HardState{Term: term, Vote: vote, Commit: max(m.state.index, min(index, last))}, nil)
	}
}

func snapshot(index, term uint64) func(*life) {
	return func(l *life) { l.saveSnapshot(index, term) }
}

func released(index uint64) func(*life) {
	return func(l *life) { l.releaseTo(index) }
}
