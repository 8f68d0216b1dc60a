package peer

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stele-wal/stele/tools/raftkv/node"
)

// peer is one other member, as far as sending goes.
type peer struct {
	t      *Transport
	id     uint64
	urls   []string
	conn   *conns // run closes it
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	queue  []*raftpb.Message
	queued int           // bytes of the entries in it
	signal chan struct{} // there is something in queue
	// Closed when the member was removed: what is in queue is the last it is sent.
	gone   chan struct{}
	active atomic.Int64 // since when a stream is open, in Unix nanoseconds; 0 if none is
}

// errLeft says that a peer is no longer a member and was sent everything.
var errLeft = errors.New("the peer is no longer a member")

// send queues a message, unless too many wait.
func (p *peer) send(m *raftpb.Message) {
	p.mu.Lock()
	if size := node.EntriesSize(m); len(p.queue) < maxQueue && (p.queued == 0 || p.queued+size <= maxQueued) {
		p.queue = append(p.queue, m)
		p.queued += size
	}
	p.mu.Unlock()
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

func (p *peer) take() []*raftpb.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	queue := p.queue
	p.queue, p.queued = nil, 0
	return queue
}

// run keeps a stream open, also when there is nothing to say: it is how a member knows which peers
// it can reach.
func (p *peer) run() {
	defer p.t.wg.Done()
	defer func() {
		select {
		case <-p.gone:
			p.t.metrics.forget(p.id)
		default:
		}
	}()
	defer p.conn.Close()
	defer p.cancel()
	select {
	case <-p.t.served:
	case <-p.gone:
		return
	case <-p.ctx.Done():
		return
	}
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for down := false; ; {
		connected, err := p.talk()
		if p.ctx.Err() != nil || errors.Is(err, errLeft) {
			return
		}
		_ = p.take() // what could not be sent is lost
		p.t.metrics.sendFailures.WithLabelValues(hex(p.id)).Inc()
		if s := status.Convert(err); s.Code() == codes.PermissionDenied {
			switch s.Message() {
			case node.ErrRemoved.Error():
				p.t.tell(Member.Evicted)
			case node.ErrForgot.Error():
				p.t.tell(Member.Forgot)
			}
		}
		p.conn.next()
		p.t.unreachable(p.id)
		if connected || !down {
			p.t.log.Warn("lost a peer", "peer", hex(p.id), "error", err)
		}
		down = true
		select {
		case <-retry.C:
		case <-p.signal:
		case <-p.gone:
			return // a member that cannot be reached cannot be sent anything
		case <-p.ctx.Done():
			return
		}
	}
}

// talk opens a stream and sends what is queued until it breaks. It returns whether the peer took
// the stream, and why it ended.
func (p *peer) talk() (connected bool, err error) {
	ctx, cancel := context.WithCancel(p.t.standing(p.ctx))
	defer cancel()
	stream, err := p.conn.NewStream(ctx, &service.Streams[0], "/"+service.ServiceName+"/Messages")
	if err != nil {
		return false, err
	}
	answer := new(emptypb.Empty)
	if header, err := stream.Header(); err != nil {
		return false, err
	} else if header == nil {
		return false, stream.RecvMsg(answer) // it did not take us for a member
	}
	p.began()
	defer p.ended()
	p.t.wg.Add(1)
	go p.measure(ctx)
	// A sender that never receives learns of the end of a stream when it next sends, and then what
	// it sent is lost.
	ended := make(chan error, 1)
	p.t.wg.Add(1)
	go func() {
		defer p.t.wg.Done()
		ended <- stream.RecvMsg(answer)
	}()
	sent := p.t.metrics.sent.WithLabelValues(hex(p.id))
	for {
		last := false
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case err := <-ended:
			return true, closed(err)
		case <-p.signal:
		case <-p.gone:
			last = true
		}
		for _, m := range p.take() {
			if err := stream.SendMsg(m); errors.Is(err, io.EOF) {
				return true, closed(<-ended) // the other side's reason
			} else if err != nil {
				return true, err
			}
			sent.Add(float64(proto.Size(m)))
		}
		if last {
			return true, p.leave(stream, ended)
		}
	}
}

func (p *peer) began() {
	p.active.Store(time.Now().UnixNano())
	p.t.metrics.active.WithLabelValues(hex(p.id)).Set(1)
}

func (p *peer) ended() {
	p.active.Store(0)
	p.t.metrics.active.WithLabelValues(hex(p.id)).Set(0)
	p.t.metrics.disconnected.WithLabelValues(hex(p.id)).Inc()
}

// leave waits until the peer has taken all that was sent, or has had its time.
func (p *peer) leave(stream grpc.ClientStream, ended <-chan error) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	if err := stream.CloseSend(); err != nil {
		return err
	}
	select {
	case <-ended:
	case <-timer.C:
	case <-p.ctx.Done():
	}
	return errLeft
}

// closed returns why a stream has ended; that it did is an error, however it did.
func closed(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errors.New("the peer ended the stream")
	}
	return err
}
