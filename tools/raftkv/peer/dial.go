package peer

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
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
			return nil, errors.New("https without a certificate")
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

// Ask asks a member who belongs to its cluster.
func Ask(ctx context.Context, address string, config *tls.Config) (Info, error) {
	var info Info
	conn, err := Dial(address, config)
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
