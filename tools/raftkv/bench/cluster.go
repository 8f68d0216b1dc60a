package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/stele-wal/stele/tools/raftkv/peer"
)

// A System is what is compared: a program that takes etcd's flags.
type System struct {
	Name string
	Args []string // the program and its first arguments
}

// startTimeout is how long a cluster may take until it has a leader.
const startTimeout = 30 * time.Second

// cluster is a System that runs on the loopback interface.
type cluster struct {
	dir     string
	servers []*server
}

// server is one member of a cluster.
type server struct {
	client, peer string
	cmd          *exec.Cmd
	log          bytes.Buffer
	conn         *grpc.ClientConn
}

// startCluster starts n members in an empty directory below dir, which can be profiled if so
// wanted, and waits until all of them serve.
func startCluster(ctx context.Context, system System, n int, dir string, profiled bool) (*cluster, error) {
	dir, err := os.MkdirTemp(dir, system.Name+"-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	if err := c.start(ctx, system, n, profiled); err != nil {
		for _, s := range c.servers {
			err = fmt.Errorf("%w\n%s", err, s.log.Bytes())
		}
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *cluster) start(ctx context.Context, system System, n int, profiled bool) error {
	urls, err := freeURLs(2 * n)
	if err != nil {
		return err
	}
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("n%d=%s", i+1, urls[2*i+1]))
	}
	for i := range n {
		s := &server{client: urls[2*i], peer: urls[2*i+1]}
		name := fmt.Sprintf("n%d", i+1)
		args := append(system.Args[1:len(system.Args):len(system.Args)], "--name", name, "--data-dir", filepath.Join(c.dir, name),
			"--listen-client-urls", s.client, "--advertise-client-urls", s.client, "--listen-peer-urls", s.peer,
			"--initial-advertise-peer-urls", s.peer, "--initial-cluster", strings.Join(all, ","), "--log-level", "error")
		if profiled {
			args = append(args, "--enable-pprof")
		}
		s.cmd = exec.Command(system.Args[0], args...)
		s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
		if err := s.cmd.Start(); err != nil {
			return err
		}
		c.servers = append(c.servers, s)
		if s.conn, err = peer.Dial(s.client, nil); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, s := range c.servers {
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until a member answers a linearizable read: then there is a leader, and it knows it.
func (s *server) ready(ctx context.Context) error {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, err := pb.NewKVClient(s.conn).Range(attempt, &pb.RangeRequest{Key: []byte("x")})
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", s.client, err)
		case <-poll.C:
		}
	}
}

// put writes one key.
func (c *cluster) put(ctx context.Context, key, value []byte) error {
	_, err := pb.NewKVClient(c.servers[0].conn).Put(ctx, &pb.PutRequest{Key: key, Value: value})
	return err
}

func (c *cluster) endpoints() string {
	var list []string
	for _, s := range c.servers {
		list = append(list, s.client)
	}
	return strings.Join(list, ",")
}

// cpu returns how much processor time the members have used so far, that of the system for them
// included.
func (c *cluster) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, s := range c.servers {
		d, err := processTime(s.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// stop ends the members and removes what they wrote. It is of no further use, so they need not end
// gracefully.
func (c *cluster) stop() error {
	for _, s := range c.servers {
		if s.conn != nil {
			s.conn.Close()
		}
		_ = s.cmd.Process.Kill() // it may have ended
	}
	for _, s := range c.servers {
		_ = s.cmd.Wait() // that it was killed is no error
	}
	return os.RemoveAll(c.dir)
}

// freeURLs returns URLs on the loopback interface at which no process listens.
func freeURLs(n int) ([]string, error) {
	var urls []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all of them, once all are chosen
		urls = append(urls, "http://"+l.Addr().String())
	}
	return urls, nil
}
