package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stele-wal/stele/tools/raftkv/mvcc"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

// retention is which old revisions are kept, as etcd's --auto-compaction flags say it: those of the
// last period, or the last few. The zero value keeps all.
type retention struct {
	period    time.Duration
	revisions int64
}

// parseRetention reads the flags. In the mode periodic a plain number is hours.
func parseRetention(mode, value string) (retention, error) {
	bad := func(why string) (retention, error) {
		return retention{}, fmt.Errorf("--auto-compaction-mode=%s --auto-compaction-retention=%s: %s", mode, value, why)
	}
	n, err := strconv.ParseInt(value, 10, 32)
	switch {
	case mode != "periodic" && mode != "revision":
		return bad("the mode must be periodic or revision")
	case err == nil && n < 0:
		return bad("it must not be negative")
	case err == nil && mode == "revision":
		return retention{revisions: n}, nil
	case err == nil:
		return retention{period: time.Duration(n) * time.Hour}, nil
	case mode == "revision":
		return bad("it must be a number of revisions")
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > 0 && d < minPeriod {
		return bad("it must be a number of hours, or a duration of " + minPeriod.String() + " at least")
	}
	return retention{period: d}, nil
}

// Limits of how often revisions are compacted, and looked at.
const (
	minPeriod = time.Second
	maxPause  = time.Hour // between two compactions, if there is a period
	looks     = 10        // in a pause
	revPause  = 5 * time.Minute
)

// pause is for how long nothing is compacted after a compaction.
func (r retention) pause() time.Duration {
	if r.period > 0 {
		return min(r.period, maxPause)
	}
	return revPause
}

// step is how often the past is to be looked at.
func (r retention) step() time.Duration {
	if r.period > 0 {
		return r.pause() / looks
	}
	return revPause
}

// past is what a member has seen of its revisions.
type past struct {
	retention
	// The first is the newest of those that the period is over for, if it is for any.
	seen      []sight
	compacted sight
}

// sight is the newest revision at a time.
type sight struct {
	at  time.Time
	rev int64
}

// look notes the newest revision, and returns up to which one is to be compacted; 0 is none.
func (p *past) look(now time.Time, newest int64) int64 {
	var rev int64
	if p.period > 0 {
		p.seen = append(p.seen, sight{now, newest})
		for len(p.seen) > 1 && now.Sub(p.seen[1].at) >= p.period {
			p.seen = p.seen[1:]
		}
		if now.Sub(p.seen[0].at) >= p.period {
			rev = p.seen[0].rev
		}
	} else {
		rev = newest - p.revisions
	}
	if rev <= max(p.compacted.rev, 1) || !p.compacted.at.IsZero() && now.Sub(p.compacted.at) < p.pause() {
		return 0
	}
	return rev
}

// compactor is what is compacted. A node is one.
type compactor interface {
	newest() (rev int64, leads bool)
	compact(rev int64) error
}

// run looks at each tick, and has the leader compact, until stop is closed. If that fails the next
// look tries again.
func (p *past) run(stop <-chan struct{}, ticks <-chan time.Time, c compactor) {
	for {
		var now time.Time
		select {
		case now = <-ticks:
		case <-stop:
			return
		}
		newest, leads := c.newest()
		rev := p.look(now, newest)
		if rev == 0 || !leads {
			continue // a follower looks too: it may lead when the period is over
		}
		if err := c.compact(rev); err == nil || errors.Is(err, mvcc.ErrCompacted) {
			p.compacted = sight{now, rev}
		}
	}
}

// compacting is a node as a compactor.
type compacting struct {
	*node.Node
	log *slog.Logger
}

func (c compacting) newest() (int64, bool) {
	s := c.Status()
	return c.Store().Rev(), s.Leader == s.ID
}

func (c compacting) compact(rev int64) error {
	r := &etcdserverpb.InternalRaftRequest{Compaction: &etcdserverpb.CompactionRequest{Revision: rev}}
	_, err := c.Propose(context.Background(), r) // which ends in time, and when the node stops
	c.log.Info("compacted", "revision", rev, "error", err)
	return err
}
