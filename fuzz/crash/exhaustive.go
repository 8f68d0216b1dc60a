package crash

import (
	"fmt"
	"math/rand/v2"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/fuzz/harness"
	"github.com/stele-wal/stele/fuzz/oracle"
	"github.com/stele-wal/stele/walpb"
)

// RunExhaustive crashes a few short, fixed histories at every change of the file system. Where what
// is pending can be combined in no more than 2,048 ways it takes them all, each sector, size and
// name in each of its versions; the Result counts these moments as Whole. Elsewhere it takes
// everything, nothing, all but one piece, only one piece, and every prefix of the changes. And each
// pending sector is torn, at every 32nd byte. Of Config only Failures, PlainEtcd, Saboteur,
// Recover, Progress and Logger matter. Result and error are those of Run.
func RunExhaustive(cfg Config) (Result, error) {
	c := newCampaign(cfg)
	for i, s := range scripts {
		for variant := range 4 {
			plain, files := variant&1 != 0, variant&2 != 0
			if c.done() || cfg.PlainEtcd && !plain {
				continue
			}
			h := newHistory(c, uint64(i), rand.New(rand.NewPCG(uint64(i), 0)))
			h.size, h.scale, h.plain, h.own = 4096, 4096, plain, !plain && cfg.Recover == nil
			if files {
				h.files = newFiles(form(i), 1)
			}
			h.choose = h.everyCrash
			h.trace.Addf("script %d, plain %v, files %v", i, plain, files)
			c.guard(h, func() { c.script(h, s) })
		}
	}
	return c.finish()
}

// What RunExhaustive goes through.
const (
	mostCombined = 1 << 11
	tearStep     = 32
)

// everyCrash returns all crashes but those that are chance.
func (h *history) everyCrash(disk *crashfs.FS) []harness.Cut {
	places := disk.Pending()
	if len(places) == 0 {
		return nil
	}
	h.campaign.counter.Count(func(r *Result) { r.Moments++ })
	combined := 1
	for _, p := range places {
		combined = min(combined*(p.Versions+1), mostCombined+1)
	}
	var all []harness.Cut
	if combined <= mostCombined {
		h.campaign.counter.Count(func(r *Result) { r.Whole++ })
		for n := range combined {
			all = append(all, harness.Named(fmt.Sprintf("combination %d of %d", n, combined), combination(n)))
		}
	} else {
		all = everySingle(len(places), disk.Changes())
	}
	for i, p := range places {
		for tear := tearStep; p.Kind == crashfs.Sector && tear < 512; tear += tearStep {
			all = append(all, harness.Named(fmt.Sprintf("tear %d of %d after %d bytes", i, len(places), tear), tornAt(i, tear)))
		}
	}
	return all
}

// combination is the nth of all combinations of versions.
func combination(n int) crashfs.Chooser {
	return func(places []crashfs.Place, choices []crashfs.Choice) {
		n := n
		for i, p := range places {
			choices[i].Version = n % (p.Versions + 1)
			n /= p.Versions + 1
		}
	}
}

func tornAt(i, tear int) crashfs.Chooser {
	return func(places []crashfs.Place, choices []crashfs.Choice) {
		crashfs.KeepAll(places, choices)
		choices[i].Tear = tear
	}
}

func everySingle(pending, changes int) []harness.Cut {
	all := []harness.Cut{harness.Named("keep all", crashfs.KeepAll), harness.Named("drop all", crashfs.DropAll)}
	for i := range pending {
		all = append(all,
			harness.Named(fmt.Sprintf("drop %d of %d", i, pending), crashfs.DropOne(i)),
			harness.Named(fmt.Sprintf("keep %d of %d", i, pending), crashfs.KeepOne(i)))
	}
	for n := 1; n < changes; n++ {
		all = append(all, harness.Named(fmt.Sprintf("first %d of %d changes", n, changes), crashfs.Prefix(n)))
	}
	return all
}

// script runs one history. Each of its parts is a life; all but the last end in a kill.
func (c *campaign) script(h *history, lives [][]func(*life)) {
	disk := harness.NewDisk()
	for _, calls := range lives {
		c.counter.Count(func(r *Result) { r.Lives++ })
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

// The histories: what a batch and a cut come to; overwrites, snapshots and a release; an installed
// snapshot, and a life after a torn tail; a life after a Close.
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
	{{
		entries(1, 1, 2), commit(1, 1, 1), commit(1, 1, 2), (*life).close,
	}, {
		commit(2, 0, 2), entries(3, 2, 2), snapshot(2, 1), released(2), commit(2, 3, 4),
	}},
}

// entries saves that many entries of a term.
func entries(first, term uint64, count int) func(*life) {
	return func(l *life) {
		m := oracle.Fold(l.model.Records)
		first := min(first, m.Last()+1) // after a torn tail, less may be there
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
		m := oracle.Fold(l.model.Records)
		last := m.Last()
		if m.Pending >= 0 {
			last = max(last, l.model.Records[m.Pending].Index)
		}
		l.saveOnly(walpb.HardState{Term: term, Vote: vote, Commit: max(m.State.Index, min(index, last))}, nil)
	}
}

func snapshot(index, term uint64) func(*life) {
	return func(l *life) { l.saveSnapshot(index, term) }
}

func released(index uint64) func(*life) {
	return func(l *life) { l.releaseTo(index) }
}
