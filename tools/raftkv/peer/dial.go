package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// Dial returns a connection to a member, at one of its peer or client URLs, which are separated by commas. It connects when it is used, and if that fails
// tries the next URL.
func Dial(urls string, config *tls.Config) (*grpc.ClientConn, error) {
	d := &dialer{config: config}
	for _, s := range strings.Split(urls, ",") {
		u, err := member.ParseURL(s)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "https" && config == nil {
			return nil, fmt.Errorf("URL %q: https without a certificate", s)
		}
		d.urls = append(d.urls, u)
	}
	return grpc.NewClient("passthrough:///"+d.urls[0].Host,
		grpc.WithContextDialer(d.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the dialer has done that
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
}

// dialer connects to one of several URLs: that which it could connect to last.
type dialer struct {
	urls   []*url.URL
	config *tls.Config
	at     atomic.Uint32 // counts the failures
}

func (d *dialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	u := d.urls[int(d.at.Load())%len(d.urls)]
	conn, err := connect(ctx, u.Host)
	if err == nil && u.Scheme == "https" {
		config := d.config.Clone()
		config.ServerName, config.NextProtos = u.Hostname(), []string{"h2"}
		secure := tls.Client(conn, config)
		if err = secure.HandshakeContext(ctx); err != nil {
			conn.Close()
		}
		conn = secure
	}
	if err != nil {
		d.at.Add(1)
		return nil, fmt.Errorf("%s: %w", u, err)
	}
	return conn, nil
}

// connect connects to an address, through a proxy if the environment names one for it, as gRPC does by itself: HTTPS_PROXY and NO_PROXY.
func connect(ctx context.Context, address string) (net.Conn, error) {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", proxy.Host)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: address}, Host: address, Header: http.Header{}}
	if password, ok := proxy.User.Password(); ok {
		request.SetBasicAuth(proxy.User.Username(), password)
		request.Header["Proxy-Authorization"] = request.Header["Authorization"]
		request.Header.Del("Authorization")
	}
	r := bufio.NewReader(conn)
	if err = request.Write(conn); err == nil {
		var response *http.Response
		if response, err = http.ReadResponse(r, request); err == nil && response.StatusCode != http.StatusOK {
			err = errors.New(response.Status)
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)
	}
	return buffered{conn, r}, nil
}

// buffered is a connection of which something has been read already.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Ask asks a member, at one of its URLs as Dial has them, who belongs to its cluster.
func Ask(ctx context.Context, urls string, config *tls.Config) (Info, error) {
	var info Info
	conn, err := Dial(urls, config)
	if err != nil {
		return info, err
	}
	defer conn.Close()
	return ask(ctx, conn)
}

func ask(ctx context.Context, conn *grpc.ClientConn) (info Info, err error) {
	var out wrapperspb.BytesValue
	if err := conn.Invoke(ctx, "/"+serviceName+"/Members", new(emptypb.Empty), &out); err != nil {
		return info, err
	}
	return info, json.Unmarshal(out.Value, &info)
}
