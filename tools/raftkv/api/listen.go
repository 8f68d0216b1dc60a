package api

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

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
	// A client that speaks both goes to the server of HTTP/1.1, which serves all but gRPC; gRPC
	// speaks only the other.
	config.NextProtos = []string{"http/1.1", "h2"}
	return tls.NewListener(l, config), nil
}

// Split returns two listeners for the connections of one: those that speak HTTP/2, as gRPC does,
// and the others. It ends when l is closed.
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

// sort gives a connection to the queue that it is for.
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
