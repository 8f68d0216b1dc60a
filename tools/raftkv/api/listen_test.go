package api

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// free returns an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What is no gRPC is served over HTTP/1.1, so a client that speaks both, as most do, must come to that.
func TestOverTLSOneURLServesGRPCAndClientsThatPreferHTTP2(t *testing.T) {
	source := httptest.NewTLSServer(http.NotFoundHandler()) // has a certificate, and clients that trust it
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
