package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// Listen listens at a URL: for TLS with config if the URL is https.
func Listen(address string, config *tls.Config) (net.Listener, error) {
	u, err := member.ParseURL(address)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" {
		return l, nil
	}
	if config == nil {
		l.Close()
		return nil, fmt.Errorf("%s: https needs a certificate and its key", address)
	}
	config = config.Clone()
	// Who speaks both is sent to the server of HTTP/1.1, which knows all that is no gRPC; gRPC speaks only the other.
	config.NextProtos = []string{"http/1.1", "h2"}
	return tls.NewListener(l, config), nil
}

// Split returns two listeners for the connections of one: those that speak HTTP/2, as gRPC does, and the others. It
// ends when l is closed.
func Split(l net.Listener) (http2, http1 net.Listener) {
	a, b := newQueue(l), newQueue(l)
	go func() {
		defer a.Close()
		defer b.Close()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go sort(c, a, b)
		}
	}()
	return a, b
}

// helloTimeout is how long a connection may take to say what it is.
const helloTimeout = 10 * time.Second

// sort gives a connection to whom it is for.
func sort(c net.Conn, http2, http1 *queue) {
	c.SetReadDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReaderSize(c, 16)
	first, err := r.Peek(3) // over TLS this is the handshake too
	if err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{})
	to := http1
	if string(first) == "PRI" {
		to = http2
	}
	to.put(&conn{Conn: c, r: r})
}

// conn is a connection of which something was read already.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func (c *conn) Read(b []byte) (int, error) {
	if c.r.Buffered() > 0 {
		return c.r.Read(b)
	}
	return c.Conn.Read(b)
}

// queue is a listener that is given its connections.
type queue struct {
	l    net.Listener
	c    chan net.Conn
	done chan struct{}
	once sync.Once
}

func newQueue(l net.Listener) *queue {
	return &queue{l: l, c: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queue) put(c net.Conn) {
	select {
	case q.c <- c:
	case <-q.done:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.c:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.l.Addr() }

// HTTP returns the handler of /metrics, /healthz and the others that etcd has.
func (s *Server) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics.Registry, promhttp.HandlerOpts{}))
	healthy := func(w http.ResponseWriter, r *http.Request, check func(context.Context) error) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if err := check(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) { healthy(w, r, s.live) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { healthy(w, r, s.ready) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { healthy(w, r, s.ready) })
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		health := map[string]string{"health": "true", "reason": ""}
		if err := s.ready(ctx); err != nil {
			health["health"], health["reason"] = "false", err.Error()
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(health)
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, `{"etcdserver":"","etcdcluster":"","raftkv":"stele"}`)
	})
	if s.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// live returns why the node does not work, whatever the others do.
func (s *Server) live(context.Context) error { return s.Node.Err() }

// ready returns why the node could not serve a client now.
func (s *Server) ready(ctx context.Context) error {
	if err := s.Node.Err(); err != nil {
		return err
	}
	if alarms := s.Node.Alarms(); len(alarms) > 0 {
		return fmt.Errorf("alarm: %s", alarms[0].Alarm)
	}
	if s.Node.Status().Learner {
		return nil // which serves what a learner serves
	}
	if err := s.Node.ReadIndex(ctx); err != nil {
		return errors.Join(errors.New("no quorum"), err)
	}
	return nil
}
