package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
)

// handshake connects a client to a server in memory, and returns the common names of the
// authorities that signed what each showed the other.
func handshake(t *testing.T, client, server *tls.Config) (fromServer, fromClient string, err error) {
	t.Helper()
	a, b := net.Pipe()
	client = client.Clone()
	client.ServerName = loopback()
	c, s := tls.Client(a, client), tls.Server(b, server)
	served := make(chan error, 1)
	go func() {
		err := s.HandshakeContext(t.Context())
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		b.Close()
		served <- err
	}()
	// With TLS 1.3 this is where a client hears that it was refused.
	_, err = c.Read(make([]byte, 1))
	a.Close()
	if err = errors.Join(err, <-served); err != nil {
		return "", "", err
	}
	return c.ConnectionState().PeerCertificates[0].Issuer.CommonName, s.ConnectionState().PeerCertificates[0].Issuer.CommonName, nil
}

func TestACertificateThatWasReplacedIsShownFromTheNextHandshakeOn(t *testing.T) {
	dir := t.TempDir()
	oldCA, cert, key := certificates(t, dir, "old")
	newCA, newCert, newKey := certificates(t, dir, "new")
	both := dir + "/both.pem"
	read := func(file string) []byte {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(file string, b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(both, bytes.Join([][]byte{read(oldCA), read(newCA)}, nil))
	log, said := told()
	o := tlsOptions{cert: cert, key: key, ca: both, auth: true}
	server, err := o.server(log)
	if err != nil {
		t.Fatal(err)
	}
	client, err := o.client(log)
	if err != nil {
		t.Fatal(err)
	}
	shown := func(want string) {
		t.Helper()
		if fromServer, fromClient, err := handshake(t, client, server); err != nil || fromServer != want || fromClient != want {
			t.Errorf("the server shows %q, the client %q (%v), and not %q", fromServer, fromClient, err, want)
		}
	}
	shown("old")
	if said.Len() > 0 {
		t.Errorf("it says %s", said)
	}
	write(cert, read(newCert)) // and its key not yet
	shown("old")
	if !strings.Contains(said.String(), cert) {
		t.Errorf("of a certificate without its key it says %q", said)
	}
	write(key, read(newKey))
	shown("new")
}

func TestOnlyPeersWithTheAllowedNameAreLetIn(t *testing.T) {
	ca, cert, key := certificates(t, t.TempDir(), "ours") // of one called member
	log, _ := told()
	for _, test := range []struct {
		allowed string
		in      bool
	}{{"member", true}, {"members", false}} {
		o := tlsOptions{cert: cert, key: key, ca: ca, allowedCN: test.allowed}
		server, err := o.server(log)
		if err != nil {
			t.Fatal(err)
		}
		client, err := o.client(log)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := handshake(t, client, server); (err == nil) != test.in {
			t.Errorf("allowed is %s: %v", test.allowed, err)
		}
	}
}
