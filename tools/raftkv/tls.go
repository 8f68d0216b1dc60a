package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// tlsOptions are the flags about the certificates of one port.
type tlsOptions struct {
	prefix        string // of the flags
	cert, key, ca string
	auth          bool
	allowedCN     string
}

// check returns why the flags make no sense together. Every one of these mistakes would leave the
// port more open than it looks.
func (t *tlsOptions) check() error {
	flag := func(name string) string { return "--" + t.prefix + name }
	switch {
	case (t.cert == "") != (t.key == ""):
		return fmt.Errorf("%s and %s: one takes the other", flag("cert-file"), flag("key-file"))
	case t.cert == "" && (t.auth || t.ca != "" || t.allowedCN != ""):
		return fmt.Errorf("to ask others for certificates takes one: give %s and %s", flag("cert-file"), flag("key-file"))
	case t.ca == "" && t.auth:
		return fmt.Errorf("%s takes %s, for the authorities that sign the certificates", flag("client-cert-auth"), flag("trusted-ca-file"))
	case t.ca == "" && t.allowedCN != "":
		return fmt.Errorf("%s takes %s: without it no peer is asked for a certificate", flag("cert-allowed-cn"), flag("trusted-ca-file"))
	}
	return nil
}

// server returns what to listen with, nil if there is no certificate.
func (t *tlsOptions) server(log *slog.Logger) (*tls.Config, error) {
	if err := t.check(); err != nil || t.cert == "" {
		return nil, err
	}
	pair, err := newKeyPair(t.cert, t.key, log)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.load(), nil }}
	if t.ca != "" {
		if c.ClientCAs, err = pool(t.ca); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if t.allowedCN != "" {
		// Asked for each connection, also for one that goes on with the secrets of an earlier one.
		c.VerifyConnection = func(s tls.ConnectionState) error {
			for _, chain := range s.VerifiedChains {
				if len(chain) > 0 && chain[0].Subject.CommonName == t.allowedCN {
					return nil
				}
			}
			return fmt.Errorf("the certificate's common name is not %q", t.allowedCN)
		}
	}
	return c, nil
}

// client returns what to connect with, nil if there is no certificate.
func (t *tlsOptions) client(log *slog.Logger) (*tls.Config, error) {
	if t.cert == "" {
		return nil, nil
	}
	pair, err := newKeyPair(t.cert, t.key, log)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.load(), nil }}
	if t.ca != "" {
		c.RootCAs, err = pool(t.ca)
	}
	return c, err
}

// keyPair is a certificate and its key in files that an operator may replace.
type keyPair struct {
	cert, key string
	log       *slog.Logger

	mu   sync.Mutex
	last *tls.Certificate
}

// newKeyPair returns the certificate in these files. The error is that they cannot be read or do
// not belong together.
func newKeyPair(cert, key string, log *slog.Logger) (*keyPair, error) {
	c, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s with key %s: %w", cert, key, err)
	}
	return &keyPair{cert: cert, key: key, log: log, last: &c}, nil
}

// load returns the certificate as it is in the files now. While they do not fit together, as after
// one of the two was replaced, it is the last that did.
func (p *keyPair) load() *tls.Certificate {
	c, err := tls.LoadX509KeyPair(p.cert, p.key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.log.Warn("a certificate cannot be read again: the one before is used", "cert", p.cert, "key", p.key, "error", err)
	} else {
		p.last = &c
	}
	return p.last
}

func pool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		return nil, errors.New(file + ": no certificate in it")
	}
	return p, nil
}
