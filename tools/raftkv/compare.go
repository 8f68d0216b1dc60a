package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stele-wal/stele/tools/raftkv/mvcc"
)

// compare has the members compared by the one that leads, until the node stops.
func (s *server) compare() {
	ctx, cancel := s.living()
	defer cancel()
	ticker := time.NewTicker(s.o.corruptCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if st := s.node.Status(); st.Leader != st.ID {
			continue
		}
		if err := s.compareOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the members were not compared", "error", err)
		}
	}
}

// compareOnce compares what the members hold at one revision, and has the cluster raise the alarm
// for those that hold something else. A member that does not answer is left out.
func (s *server) compareOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	self := s.node.Status().ID
	own, err := s.node.Hash(ctx, 0)
	if err != nil {
		return err
	}
	held := map[uint64]mvcc.Hash{self: own}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, m := range s.node.Members().List() {
		if m.ID == self {
			continue
		}
		asked.Go(func() {
			h, err := s.transport.Hash(ctx, m.ID, own.Rev)
			if err != nil {
				return // it is down, or it has compacted more by now: the next time, then
			}
			mu.Lock()
			defer mu.Unlock()
			held[m.ID] = h
		})
	}
	asked.Wait()
	for _, id := range differing(held, self) {
		s.log.Error("a member holds something else than the others: take no data from it, remove it, and add it again with an empty directory",
			"member", fmt.Sprintf("%x", id), "revision", own.Rev, "hash", held[id].Sum, "leader", own.Sum)
		raise := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: etcdserverpb.AlarmType_CORRUPT}
		if _, err := s.node.Propose(ctx, &etcdserverpb.InternalRaftRequest{Alarm: raise}); err != nil {
			return err
		}
	}
	return nil
}

// compareTimeout is for how long members are waited for that are asked what they hold.
const compareTimeout = time.Minute

// differing returns which members hold something else than most do, or than the leader if there is
// no such majority. Those that have compacted to another revision cannot be compared.
func differing(held map[uint64]mvcc.Hash, leader uint64) []uint64 {
	count, compared := map[uint32]int{}, 0
	for _, h := range held {
		if h.Compacted == held[leader].Compacted && h.Rev == held[leader].Rev {
			count[h.Sum]++
			compared++
		}
	}
	right := held[leader].Sum
	for sum, n := range count {
		if 2*n > compared {
			right = sum
		}
	}
	var wrong []uint64
	for _, id := range slices.Sorted(maps.Keys(held)) {
		if h := held[id]; h.Compacted == held[leader].Compacted && h.Rev == held[leader].Rev && h.Sum != right {
			wrong = append(wrong, id)
		}
	}
	return wrong
}
