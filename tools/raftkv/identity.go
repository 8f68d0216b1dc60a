package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"

	"github.com/stele-wal/stele/tools/raftkv/member"
	"github.com/stele-wal/stele/tools/raftkv/node"
	"github.com/stele-wal/stele/tools/raftkv/peer"
)

// identify finds out who this member is: from its log, from the flags, or from the members of the
// cluster it joins. A member without a log asks the others first: one that has started before has
// promised something, and must not come back without knowing what.
func (o *options) identify(ctx context.Context, cfg *node.Config, dialTLS *tls.Config) error {
	id, cluster, err := node.Identity(cfg.Dir)
	if err == nil {
		cfg.ID, cfg.ClusterID = id, cluster
		// Until the log says who the others are, the flags may; so they do for a member whose log a
		// crash left empty.
		if all, self, err := o.members(); err == nil && o.state == "new" && self.ID == id && member.NewSet(all...).ClusterID() == cluster {
			cfg.Members, cfg.Bootstrap = all, true
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all, self, err := o.members()
	if err != nil {
		return err
	}
	known, err := askOthers(ctx, all, self, dialTLS)
	if o.state == "existing" {
		return o.join(cfg, self, known, err)
	}
	return o.found(cfg, all, self, known)
}

// found makes this member one of those that a new cluster begins with, unless another member knows
// it already.
func (o *options) found(cfg *node.Config, all []member.Member, self member.Member, known []peer.Info) error {
	cfg.ID, cfg.ClusterID = self.ID, member.NewSet(all...).ClusterID()
	cfg.Members, cfg.Bootstrap = all, true
	for _, info := range known {
		if info.ClusterID != cfg.ClusterID {
			continue // of another cluster, which has nothing to say here
		}
		if slices.Contains(info.Removed, self.ID) {
			return fmt.Errorf("%s: member %x was removed from the cluster of %s: add it again (etcdctl member add), and start it with --initial-cluster-state existing",
				cfg.Dir, self.ID, o.cluster)
		}
		if me, _ := member.NewSet(info.Members...).Get(self.ID); me.Name != "" {
			return fmt.Errorf("%s: there is no log: %w", cfg.Dir, node.Forgotten(self.ID))
		}
	}
	return nil
}

// join finds out which member this is of a cluster that it was added to, from what the others say.
func (o *options) join(cfg *node.Config, self member.Member, known []peer.Info, unanswered error) error {
	if len(known) == 0 {
		return fmt.Errorf("no member of the cluster to join answers: %w", unanswered)
	}
	for _, info := range known {
		me, ok := member.NewSet(info.Members...).Named(self.PeerURLs)
		if ok && me.Name != "" {
			return fmt.Errorf("%s: there is no log: %w", cfg.Dir, node.Forgotten(me.ID))
		}
		if ok && cfg.ID == 0 {
			cfg.ID, cfg.ClusterID, cfg.Members = me.ID, info.ClusterID, info.Members
		}
	}
	if cfg.ID == 0 {
		return fmt.Errorf("the cluster has no member at %s: add it first", strings.Join(self.PeerURLs, ","))
	}
	return nil
}

// askOthers asks all other members which members their cluster has, and returns the answers. The
// error is why one did not answer.
func askOthers(ctx context.Context, all []member.Member, self member.Member, dialTLS *tls.Config) (known []peer.Info, unanswered error) {
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, m := range all {
		if slices.Equal(m.PeerURLs, self.PeerURLs) {
			continue
		}
		asked.Go(func() {
			info, err := membersOf(ctx, m, dialTLS)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unanswered = err
			} else {
				known = append(known, info)
			}
		})
	}
	asked.Wait()
	return known, unanswered
}

// membersOf asks a member which members its cluster has.
func membersOf(ctx context.Context, m member.Member, dialTLS *tls.Config) (peer.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := peer.Ask(ctx, strings.Join(m.PeerURLs, ","), dialTLS)
	if err == nil && len(info.Members) == 0 {
		err = fmt.Errorf("the member at %s does not know yet which members its cluster has", m.PeerURLs[0])
	}
	return info, err
}

// members returns the members in an --initial-cluster and which of them this one is.
func (o *options) members() (all []member.Member, self member.Member, err error) {
	own, err := member.ParseURLs(split(or(o.advertisePeer, o.peerURLs)))
	if err != nil {
		return nil, self, err
	}
	founders, err := o.founders()
	if err != nil {
		return nil, self, err
	}
	for name, list := range founders {
		m := member.New(name, o.token, list)
		if name == o.name {
			self = m
		}
		m.Name = "" // until it has started
		all = append(all, m)
	}
	if self.ID == 0 {
		return nil, self, fmt.Errorf("--initial-cluster does not have --name %s", o.name)
	}
	if !slices.Equal(self.PeerURLs, own) {
		return nil, self, fmt.Errorf("--initial-cluster has %s at %s, but --initial-advertise-peer-urls is %s",
			o.name, strings.Join(self.PeerURLs, ","), strings.Join(own, ","))
	}
	return all, self, nil
}

// meet asks for the members of the cluster until this member's log has them. A crash may have left
// a log that says only whose it is; then only the flags say which members to ask.
func (s *server) meet() {
	all, self, err := s.o.members()
	if err != nil {
		return // a member needs these flags only until its log has the members
	}
	ctx, cancel := s.living()
	defer cancel()
	ticker := time.NewTicker(retryEvery)
	defer ticker.Stop()
	for len(s.node.Members().List()) == 0 {
		for _, m := range all {
			if slices.Equal(m.PeerURLs, self.PeerURLs) {
				continue
			}
			if info, err := membersOf(ctx, m, s.set.dialTLS); err == nil && info.ClusterID == s.node.Status().ClusterID {
				s.node.Meet(info.Members)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// retryEvery is how often a member tries again what it is to do when it starts.
const retryEvery = time.Second

// introduce tells the cluster this member's name and where clients reach it.
func (s *server) introduce() {
	clientURLs := s.set.clients
	ctx, cancel := s.living()
	defer cancel()
	if !s.taken(ctx) {
		return
	}
	s.node.Introducing()
	id := s.node.Status().ID
	for {
		if m, ok := s.node.Members().Get(id); ok && m.Name == s.o.name && slices.Equal(m.ClientURLs, clientURLs) {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := s.node.Propose(ctx, &etcdserverpb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
			Member_ID:        id,
			MemberAttributes: &membershippb.Attributes{Name: s.o.name, ClientUrls: clientURLs},
		}})
		cancel()
		if errors.Is(err, node.ErrStopped) || errors.Is(err, context.Canceled) {
			return
		}
	}
}

// taken waits until the leader has accepted this member. Before that it must not introduce itself:
// it would look like a member that did so in an earlier life and has lost its log since.
func (s *server) taken(ctx context.Context) bool {
	look := time.NewTicker(takenEvery)
	defer look.Stop()
	for {
		leader := s.node.Status().Leader
		if !s.node.Standing().Fresh || leader == s.node.Status().ID || leader != 0 && !s.transport.Active(leader).IsZero() {
			return true
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false
		}
	}
}

// takenEvery is how often a member that starts for the first time looks whether it may introduce
// itself.
const takenEvery = 20 * time.Millisecond
