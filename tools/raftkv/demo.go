package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/tools/raftkv/peer"
	"github.com/stele-wal/stele/tools/raftkv/progress"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func demoCommand() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Kill a leader in the middle of a write and see that nothing is lost",
		Long: "Demo starts three members on this machine, writes to them, kills the leader with SIGKILL in the middle of a write, tears the\n" +
			"tail of its log as a power cut would, starts it again, and checks that every write that was acknowledged is on all three.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			return demo(ctx, cmd.OutOrStdout(), keep)
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "keep the members' directories")
	return c
}

// replica is a member in a process of its own.
type replica struct {
	name, dir, client, peer string
	cluster                 string
	cmd                     *exec.Cmd
	conn                    *grpc.ClientConn
	kv                      pb.KVClient
	maintenance             pb.MaintenanceClient
}

func demo(ctx context.Context, out io.Writer, keep bool) error {
	p := progress.To(out)
	dir, err := os.MkdirTemp("", "raftkv-demo-")
	if err != nil {
		return err
	}
	if keep {
		p.Say("the members are in %s", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	replicas, err := startReplicas(dir, 3)
	defer func() {
		for _, r := range replicas {
			r.end(syscall.SIGKILL)
		}
	}()
	if err != nil {
		return err
	}
	leader, err := waitForLeader(ctx, replicas, nil)
	if err != nil {
		return err
	}
	p.Say("three members run on loopback, and %s leads", leader.name)

	l := newLoad(ctx, replicas, 16)
	stopProgress := l.progress(p)
	l.waitFor(ctx, 2000)
	began := time.Now()
	if leader, err = l.killLeader(ctx, replicas); err != nil {
		return err
	}
	p.Say("SIGKILL to %s, the leader, with %d writes that it had not acknowledged yet", leader.name, l.flying.Load())
	next, err := waitForLeader(ctx, replicas, leader)
	if err != nil {
		return err
	}
	p.Say("%s leads %d ms later, and writes go on", next.name, time.Since(began).Milliseconds())
	if err := tear(filepath.Join(leader.dir, "member", "wal")); err != nil {
		return fmt.Errorf("tear the log of %s: %w", leader.name, err)
	}
	left, err := describeLog(filepath.Join(leader.dir, "member", "wal"))
	if err != nil {
		return err
	}
	l.waitFor(ctx, l.acknowledged.Load()+2000)
	if err := leader.start(); err != nil {
		return err
	}
	p.Say("%s starts again, on a log that ends in half a record", leader.name)
	l.waitFor(ctx, l.acknowledged.Load()+1000)
	l.stop()
	stopProgress()

	table, lost, err := compare(ctx, replicas, l.written())
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\nWhat %s left when it was killed:\n\n%s\n", table, leader.name, left)
	if lost > 0 {
		return fmt.Errorf("%d acknowledged writes are missing or differ", lost)
	}
	fmt.Fprintf(out, "Every one of the %d acknowledged writes is on all three members.\n", l.acknowledged.Load())
	return ctx.Err()
}

// startReplicas starts n members on free ports of the loopback interface.
func startReplicas(dir string, n int) ([]*replica, error) {
	var replicas []*replica
	var cluster []string
	for i := range n {
		r := &replica{name: fmt.Sprintf("n%d", i+1)}
		r.dir = filepath.Join(dir, r.name)
		for _, u := range []*string{&r.client, &r.peer} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer l.Close() // all of them, once all are chosen
			*u = "http://" + l.Addr().String()
		}
		cluster = append(cluster, r.name+"="+r.peer)
		replicas = append(replicas, r)
	}
	for _, r := range replicas {
		r.cluster = strings.Join(cluster, ",")
	}
	return replicas, nil
}

func (r *replica) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r.cmd = exec.Command(self, "serve", "--name", r.name, "--data-dir", r.dir, "--initial-cluster", r.cluster,
		"--listen-client-urls", r.client, "--listen-peer-urls", r.peer)
	r.cmd.Stderr = log
	if err := r.cmd.Start(); err != nil {
		return err
	}
	if r.conn == nil {
		if r.conn, err = peer.Dial(r.client, nil); err != nil {
			return err
		}
		r.kv, r.maintenance = pb.NewKVClient(r.conn), pb.NewMaintenanceClient(r.conn)
	}
	return nil
}

// end ends the process and waits until it is gone.
func (r *replica) end(how syscall.Signal) {
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(how)
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// waitForLeader returns the member that the others, without one that is gone, take for the leader.
func waitForLeader(ctx context.Context, replicas []*replica, gone *replica) (*replica, error) {
	for ctx.Err() == nil {
		for _, r := range replicas {
			if r == gone {
				continue
			}
			if r.cmd == nil {
				if err := r.start(); err != nil {
					return nil, err
				}
			}
			ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			s, err := r.maintenance.Status(ctx, &pb.StatusRequest{})
			cancel()
			if err == nil && s.Leader == s.Header.MemberId {
				return r, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, errors.New("no leader")
}

// load is clients that write, each a key after the other, and ask another member when one does not
// answer.
type load struct {
	acknowledged, retried, flying atomic.Int64

	mu      sync.Mutex
	acked   map[string]string
	clients sync.WaitGroup
	cancel  context.CancelFunc
}

func newLoad(ctx context.Context, replicas []*replica, clients int) *load {
	l := &load{acked: map[string]string{}}
	ctx, l.cancel = context.WithCancel(ctx)
	for c := range clients {
		l.clients.Add(1)
		go func() {
			defer l.clients.Done()
			for i, at := 0, c; ctx.Err() == nil; i++ {
				key, value := fmt.Sprintf("client-%02d/%06d", c, i), fmt.Sprintf("%x", i*i+c)
				for ctx.Err() == nil {
					if l.put(ctx, replicas[at%len(replicas)], key, value) {
						break
					}
					if ctx.Err() == nil {
						l.retried.Add(1)
					}
					at++
				}
			}
		}()
	}
	return l
}

// put reports whether a write was acknowledged. If it was not it may have happened all the same,
// and may be done again.
func (l *load) put(ctx context.Context, r *replica, key, value string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	l.flying.Add(1)
	defer l.flying.Add(-1)
	if _, err := r.kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[key] = value
	l.acknowledged.Add(1)
	return true
}

func (l *load) waitFor(ctx context.Context, writes int64) {
	for l.acknowledged.Load() < writes && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

func (l *load) stop() {
	l.cancel()
	l.clients.Wait()
}

func (l *load) written() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.acked)
}

// progress shows how far the load is, until it is stopped, and then says so.
func (l *load) progress(p *progress.Progress) (stop func()) {
	const far = "%d writes acknowledged, %d asked again elsewhere"
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.Show("  "+far, l.acknowledged.Load(), l.retried.Load())
			case <-done:
				p.Say(far, l.acknowledged.Load(), l.retried.Load())
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// killLeader kills the leader, at a moment when it has writes to answer.
func (l *load) killLeader(ctx context.Context, replicas []*replica) (*replica, error) {
	leader, err := waitForLeader(ctx, replicas, nil)
	if err != nil {
		return nil, err
	}
	for l.flying.Load() < 8 && ctx.Err() == nil {
		time.Sleep(100 * time.Microsecond)
	}
	leader.end(syscall.SIGKILL)
	return leader, nil
}

// tear leaves at the end of a log what a power cut in the middle of a write leaves: the first half
// of a record. Nothing that is there is touched, as a disk does not forget what was synced.
func tear(dir string) error {
	var last wal.Record
	var end walpb.HardState
	index := uint64(0)
	for r, err := range wal.Records(dir, 0, nil) {
		if err != nil {
			return err
		}
		last = r
		switch r.Type {
		case walpb.TypeEntry:
			var e walpb.Entry
			if err := r.UnmarshalData(&e); err != nil {
				return err
			}
			index = e.Index
		case walpb.TypeState:
			if err := r.UnmarshalData(&end); err != nil {
				return err
			}
		}
	}
	// What the next record would be, a copy of the log knows.
	copied, err := os.MkdirTemp("", "raftkv-tear-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copied)
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return err
	}
	w, err := wal.Open(copied, nil)
	if err != nil {
		return err
	}
	entry := walpb.Entry{Term: end.Term, Index: index + 1, Data: slices.Repeat([]byte("never whole "), 200)}
	if err := errors.Join(w.Save(walpb.HardState{}, []walpb.Entry{entry}), w.Close()); err != nil {
		return err
	}
	from := last.Offset + last.Size
	b := make([]byte, 1200)
	f, err := os.Open(filepath.Join(copied, last.Segment))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.ReadAt(b, from); err != nil {
		return err
	}
	b = b[:(from+int64(len(b)))/512*512-from] // whole sectors of it
	torn, err := os.OpenFile(filepath.Join(dir, last.Segment), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = torn.WriteAt(b, from)
	return errors.Join(err, torn.Sync(), torn.Close())
}

// describeLog says what the end of a log holds.
func describeLog(dir string) (string, error) {
	report, err := wal.Check(dir, nil)
	if err != nil {
		return "", err
	}
	var lines []string
	for r, err := range wal.Records(dir, 0, nil) {
		if err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprintf("  %8d  %-8s  %s", r.Offset, r.Type, describe(r)))
		if len(lines) > 8 {
			lines = lines[1:]
		}
	}
	lines = append(lines, fmt.Sprintf("  the end is %s; the last whole entry is %d, the commit %d", report.Verdict, report.LastIndex, report.State.Commit))
	return strings.Join(lines, "\n") + "\n", nil
}

func describe(r wal.Record) string {
	switch r.Type {
	case walpb.TypeEntry:
		var e walpb.Entry
		if err := r.UnmarshalData(&e); err != nil {
			return err.Error()
		}
		var request pb.InternalRaftRequest
		text := "-"
		if err := proto.Unmarshal(e.Data, &request); err == nil && request.Put != nil {
			text = fmt.Sprintf("put %s = %s", request.Put.Key, request.Put.Value)
		}
		return fmt.Sprintf("%d/%d %s", e.Term, e.Index, text)
	case walpb.TypeState:
		var s walpb.HardState
		if err := r.UnmarshalData(&s); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("term %d, vote %x, commit %d", s.Term, s.Vote, s.Commit)
	}
	return ""
}

// compare reads everything from each member on its own, and counts what was acknowledged and is not
// there.
func compare(ctx context.Context, replicas []*replica, acked map[string]string) (table string, lost int, err error) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  member\tleads\tapplied\trevision\tkeys\thash\tacknowledged writes")
	target, err := count(ctx, replicas[0])
	if err != nil {
		return "", 0, err
	}
	hashes := map[uint32]bool{}
	for _, r := range replicas {
		// Once a linearizable read is answered the member has caught up; what it holds is then read
		// from it alone.
		if _, err := count(ctx, r); err != nil {
			return "", 0, err
		}
		found := 0
		for key := []byte{0}; ; {
			resp, err := r.kv.Range(ctx, &pb.RangeRequest{Key: key, RangeEnd: []byte{0}, Limit: 1000, Serializable: true})
			if err != nil {
				return "", 0, err
			}
			for _, kv := range resp.Kvs {
				if want, ok := acked[string(kv.Key)]; ok && want == string(kv.Value) {
					found++
				}
			}
			if !resp.More {
				break
			}
			key = append(resp.Kvs[len(resp.Kvs)-1].Key, 0)
		}
		s, err := r.maintenance.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return "", 0, err
		}
		h, err := r.maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: target.Header.Revision})
		if err != nil {
			return "", 0, err
		}
		hashes[h.Hash] = true
		leads := ""
		if s.Leader == s.Header.MemberId {
			leads = "yes"
		}
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%d\t%08x\t%d of %d\n", r.name, leads, s.RaftAppliedIndex, s.Header.Revision, target.Count, h.Hash, found, len(acked))
		lost += len(acked) - found
	}
	w.Flush()
	if len(hashes) > 1 {
		return b.String(), lost, errors.New("the members' hashes differ")
	}
	return b.String(), lost, nil
}

// count asks a member for the number of keys until it answers: one that has just started may be
// neither reachable nor ready.
func count(ctx context.Context, r *replica) (*pb.RangeResponse, error) {
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}
	for {
		resp, err := r.kv.Range(ctx, all, grpc.WaitForReady(true))
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s does not catch up: %w", r.name, err)
		}
	}
}
