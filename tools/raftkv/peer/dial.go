package peer

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stele-wal/stele/tools/raftkv/member"
)

// Dial returns a connection to a peer or client URL. It connects when it is used.
func Dial(address string, config *tls.Config) (*grpc.ClientConn, error) {
	u, err := member.ParseURL(address)
	if err != nil {
		return nil, err
	}
	secure := insecure.NewCredentials()
	if u.Scheme == "https" {
		if config == nil {
			return nil, fmt.Errorf("URL %q: https without a certificate", address)
		}
		secure = credentials.NewTLS(config)
	}
	return grpc.NewClient("passthrough:///"+u.Host,
		grpc.WithTransportCredentials(secure),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
}

// conns are the connections to one member, one for each of its URLs. One of them is used until next
// is called. It is a grpc.ClientConnInterface.
type conns struct {
	all []*grpc.ClientConn
	at  atomic.Uint32
}

func dialAll(urls []string, config *tls.Config) (*conns, error) {
	c := new(conns)
	for _, u := range urls {
		conn, err := Dial(u, config)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.all = append(c.all, conn)
	}
	return c, nil
}

func (c *conns) now() *grpc.ClientConn { return c.all[int(c.at.Load())%len(c.all)] }

// next has the next URL be used, as the one before did not do.
func (c *conns) next() { c.at.Add(1) }

func (c *conns) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.now().Invoke(ctx, method, args, reply, opts...)
}

func (c *conns) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.now().NewStream(ctx, desc, method, opts...)
}

func (c *conns) Close() {
	for _, conn := range c.all {
		conn.Close()
	}
}

// Ask asks a member, at its URLs, which are separated by commas, one after the other, which members
// its cluster has.
func Ask(ctx context.Context, urls string, config *tls.Config) (info Info, err error) {
	c, err := dialAll(strings.Split(urls, ","), config)
	if err != nil {
		return info, err
	}
	defer c.Close()
	for range c.all {
		if info, err = ask(ctx, c); err == nil {
			break
		}
		c.next()
	}
	return info, err
}

func ask(ctx context.Context, conn grpc.ClientConnInterface) (info Info, err error) {
	var out wrapperspb.BytesValue
	if err := conn.Invoke(ctx, "/"+serviceName+"/Members", new(emptypb.Empty), &out); err != nil {
		return info, err
	}
	return info, json.Unmarshal(out.Value, &info)
}
