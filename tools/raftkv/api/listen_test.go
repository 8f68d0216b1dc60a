package api

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// free returns an address at which no process listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What is no gRPC is served over HTTP/1.1, so a client that speaks both, as most do, must come to
// that.
func TestOverTLSOneURLServesGRPCAndClientsThatPreferHTTP2(t *testing.T) {
	// It has a certificate, and clients that trust it.
	source := httptest.NewTLSServer(http.NotFoundHandler())
	defer source.Close()
	l, err := Listen("https://"+free(t), source.TLS)
	if err != nil {
		t.Fatal(err)
	}
	forGRPC, forHTTP := Split(l)
	g := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(g, health.NewServer())
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })}
	served := make(chan error, 2)
	go func() { served <- g.Serve(forGRPC) }()
	go func() { served <- web.Serve(forHTTP) }()
	defer func() {
		l.Close()
		g.Stop()
		web.Close()
		<-served
		<-served
	}()

	tr := source.Client().Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2, tr.TLSClientConfig.NextProtos = true, nil
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" {
		t.Errorf("over %s it says %q (%v)", resp.Proto, b, err)
	}

	config := source.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(within(t), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
}

// piped is a listener of one connection.
type piped struct {
	net.Listener
	c chan net.Conn
}

func (p *piped) Accept() (net.Conn, error) {
	c, ok := <-p.c
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *piped) Close() error { return nil }

func TestAConnectionThatAsksNothingIsClosed(t *testing.T) {
	for _, test := range []struct {
		name, asks string
		until      time.Duration
	}{
		{"nothing at all", "", askTimeout},
		{"half a question", "GET / HTTP/1.1\r\n", askTimeout},
		{"nothing more", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", idleTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			l := &piped{c: make(chan net.Conn, 1)}
			l.c <- theirs
			web := NewHTTP(http.NotFoundHandler())
			go func() { _ = web.Serve(l) }()
			began := time.Now()
			if _, err := ours.Write([]byte(test.asks)); err != nil {
				t.Error(err)
			}
			ours.SetReadDeadline(began.Add(time.Hour))
			if _, err := io.Copy(io.Discard, ours); err != nil {
				t.Errorf("%s: still open after an hour: %v", test.name, err)
			}
			if took := time.Since(began); took != test.until {
				t.Errorf("%s: closed after %v, not %v", test.name, took, test.until)
			}
			close(l.c)
			web.Close()
		})
	}
}
