package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A mesh is the network between the members of a cluster, of which the test decides what comes
// through. Each member advertises a name to its peers that only the mesh knows, and reaches the
// others through a proxy of its own: so each direction between two is a link that can be told
// apart. Clients go past it.
type mesh struct {
	hosts map[string]string // where the member of a name listens
	links map[pair]*link
	wg    sync.WaitGroup
}

type pair struct{ from, to string }

const domain = ".mesh:1"

// newMesh puts a network between the members of a cluster that has not started.
func newMesh(c *testCluster) *mesh {
	c.t.Helper()
	var listeners []net.Listener
	m := &mesh{hosts: map[string]string{}, links: map[pair]*link{}}
	for _, name := range c.names() {
		member := c.members[name]
		m.hosts[name] = strings.TrimPrefix(member.peer, "http://")
		member.listen, member.peer = member.peer, "http://"+name+domain
		for _, to := range c.names() {
			m.links[pair{name, to}] = newLink()
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.t.Fatal(err)
		}
		member.env = append(member.env, "HTTPS_PROXY=http://"+l.Addr().String(), "NO_PROXY=", "no_proxy=", "https_proxy=")
		listeners = append(listeners, l)
		m.wg.Go(func() { m.proxy(name, l) })
	}
	c.t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		for _, l := range m.links {
			l.set(func(r *rules) { r.cut = true })
		}
		m.wg.Wait()
	})
	return m
}

// proxy takes what a member has for the others.
func (m *mesh) proxy(from string, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		m.wg.Go(func() {
			defer conn.Close()
			r := bufio.NewReader(conn)
			request, err := http.ReadRequest(r)
			if err != nil || request.Method != http.MethodConnect {
				return
			}
			to := strings.TrimSuffix(request.Host, domain)
			link := m.links[pair{from, to}]
			if link == nil || !link.open(conn) {
				return
			}
			defer link.close(conn)
			onward, err := net.Dial("tcp", m.hosts[to])
			if err != nil || !link.open(onward) {
				return
			}
			defer link.close(onward)
			if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
				return
			}
			back := make(chan struct{})
			go func() {
				defer close(back)
				link.carry(conn, onward, false)
			}()
			link.carry(onward, r, true)
			conn.Close()
			onward.Close()
			<-back
		})
	}
}

// between returns the links from some members to others.
func (m *mesh) between(from, to []string) []*link {
	var links []*link
	for _, a := range from {
		for _, b := range to {
			if a != b {
				links = append(links, m.links[pair{a, b}])
			}
		}
	}
	return links
}

// A link is the way from one member to another. Over its connections the first sends its messages;
// what comes back on them is no message, but flow control and the like.
type link struct {
	mu      sync.Mutex
	rules   rules
	changed chan struct{} // closed when the rules are others
	conns   map[net.Conn]bool
	passed  atomic.Int64 // bytes, forward
}

// rules are what becomes of what is sent. The zero value lets everything through.
type rules struct {
	cut   bool          // there are no connections, and can be none
	mute  bool          // connections stay, but nothing that is sent arrives
	deaf  bool          // what is sent arrives, but nothing comes back
	delay time.Duration // for all that is sent
	rate  int64         // bytes a second; 0 for no limit
	each  int64         // bytes after which a connection breaks; 0 for never
}

func newLink() *link { return &link{changed: make(chan struct{}), conns: map[net.Conn]bool{}} }

// set changes the rules. Connections do not survive a cut, nor the end of a time in which bytes
// went nowhere.
func (l *link) set(change func(*rules)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.rules
	change(&l.rules)
	close(l.changed)
	l.changed = make(chan struct{})
	if l.rules.cut || was.mute && !l.rules.mute || was.deaf && !l.rules.deaf {
		for c := range l.conns {
			c.Close()
		}
	}
}

// late has what was held back arrive after all.
func (l *link) late() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = rules{}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) now() (rules, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules, l.changed
}

func (l *link) open(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules.cut {
		c.Close()
		return false
	}
	l.conns[c] = true
	return true
}

func (l *link) close(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	c.Close()
}

// carry carries bytes under the rules, until the connection ends.
func (l *link) carry(to net.Conn, from io.Reader, forward bool) {
	b := make([]byte, 16<<10)
	var carried int64
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		for {
			r, changed := l.now()
			if r.cut {
				return
			}
			if forward && r.mute || !forward && r.deaf {
				<-changed
				continue
			}
			if !forward {
				break
			}
			wait := r.delay
			if r.rate > 0 {
				wait += time.Duration(int64(n) * int64(time.Second) / r.rate)
			}
			if carried += int64(n); r.each > 0 && carried > r.each {
				return
			}
			if wait > 0 {
				select {
				case <-time.After(wait):
				case <-changed:
				}
			}
			l.passed.Add(int64(n))
			break
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}
