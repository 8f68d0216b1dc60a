package peer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stele-wal/stele/snap"
	"github.com/stele-wal/stele/tools/raftkv/node"
)

// A transfer goes so: the sender says which body it is of, how large and with which checksum; the
// receiver answers from which offset on it wants it; the sender sends that in chunks, each preceded
// by its CRC-32, and ends; the receiver answers when it is durable and raft has taken it.

// offer is what a transfer begins with.
type offer struct {
	Message   []byte `json:"message"`
	Index     uint64 `json:"index"`
	Term      uint64 `json:"term"`
	ConfState []byte `json:"confState"`
	ID        []byte `json:"id"`
	Size      int64  `json:"size"`
	Sum       uint32 `json:"sum"`
}

func (p *peer) sendSnapshot(m *raftpb.Message, open func() (*snap.Reader, error)) error {
	body, err := open()
	if err != nil {
		return err
	}
	defer body.Close()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	watchdog := time.AfterFunc(patience, cancel)
	defer watchdog.Stop()
	stream, err := p.conn.NewStream(ctx, &service.Streams[1], "/"+service.ServiceName+"/Snapshot")
	if err != nil {
		return err
	}
	message, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	of := body.Body()
	first, err := json.Marshal(offer{message, of.Index, of.Term, of.ConfState, of.ID[:], body.Size(), body.Sum()})
	if err != nil {
		return err
	}
	sent := p.t.metrics.sent.WithLabelValues(hex(p.id))
	send := func(b []byte) error {
		watchdog.Reset(patience)
		sent.Add(float64(len(b)))
		return stream.SendMsg(wrapperspb.Bytes(b))
	}
	if err := send(first); err != nil {
		return refused(stream, err)
	}
	watchdog.Reset(patience + reading(body.Size())) // the peer reads what it has of it
	var from wrapperspb.UInt64Value
	if err := stream.RecvMsg(&from); err != nil {
		return err
	}
	if _, err := body.Seek(int64(from.Value), io.SeekStart); err != nil {
		return err
	}
	for {
		chunk := make([]byte, 4+chunkSize)
		n, err := io.ReadFull(body, chunk[4:])
		if err == io.EOF {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err // of the disk: it is not sent
		}
		watchdog.Stop() // to wait for the limit is no failure
		if err := p.t.limiter.Wait(ctx, n); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(chunk, crc32.ChecksumIEEE(chunk[4:4+n]))
		if err := send(chunk[:4+n]); err != nil {
			return refused(stream, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	watchdog.Reset(6*patience + reading(body.Size())) // the peer writes and syncs
	return stream.RecvMsg(new(wrapperspb.UInt64Value))
}

// reading returns how long a slow disk takes to read or write a body.
func reading(size int64) time.Duration { return time.Duration(size/(8<<20)) * time.Second }

// refused returns why the other side ended a stream.
func refused(stream grpc.ClientStream, err error) error {
	if errors.Is(err, io.EOF) {
		return stream.RecvMsg(new(wrapperspb.UInt64Value))
	}
	return err
}

func serveSnapshot(srv any, stream grpc.ServerStream) error {
	s := srv.(*Server)
	from, err := s.check(stream.Context())
	if err != nil {
		return err
	}
	var first wrapperspb.BytesValue
	if err := stream.RecvMsg(&first); err != nil {
		return err
	}
	var o offer
	m := new(raftpb.Message)
	if err := errors.Join(json.Unmarshal(first.Value, &o), proto.Unmarshal(o.Message, m)); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	meta := m.GetSnapshot().GetMetadata()
	if m.GetType() != raftpb.MsgSnap || meta.GetIndex() != o.Index || meta.GetTerm() != o.Term || len(o.ID) != 16 {
		return status.Error(codes.InvalidArgument, "the message and the body are not of the same snapshot")
	}
	if m.GetFrom() != from || m.GetTo() != s.T.self {
		return status.Errorf(codes.InvalidArgument, "a snapshot from %x to %x on the stream from %x", m.GetFrom(), m.GetTo(), from)
	}
	if err := s.take(stream, hex(from), o); err != nil {
		s.T.metrics.snapshotsNotReceived.WithLabelValues(hex(from)).Inc()
		return status.Error(codes.Unavailable, err.Error())
	}
	s.T.metrics.snapshotsReceived.WithLabelValues(hex(from)).Inc()
	if err := s.Member.ReceivedSnapshot(m); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return stream.SendMsg(wrapperspb.UInt64(uint64(o.Size)))
}

// pass lets a transfer end of which nothing is needed.
func pass(stream grpc.ServerStream, o offer) error {
	if err := stream.SendMsg(wrapperspb.UInt64(uint64(o.Size))); err != nil {
		return err
	}
	if err := stream.RecvMsg(new(wrapperspb.BytesValue)); err != io.EOF {
		return errors.Join(errors.New("more of a snapshot came than there is"), err)
	}
	return nil
}

// take receives a body, from where an earlier attempt got to, and makes it durable.
func (s *Server) take(stream grpc.ServerStream, from string, o offer) error {
	received := s.T.metrics.received.WithLabelValues(from)
	w, err := s.Member.ResumeSnapshot(snap.Body{Index: o.Index, Term: o.Term, ConfState: o.ConfState, ID: [16]byte(o.ID)})
	if errors.Is(err, node.ErrAhead) {
		return pass(stream, o)
	} else if err != nil {
		return err
	}
	defer w.Close() // what came so far stays for the next attempt
	if err := stream.SendMsg(wrapperspb.UInt64(uint64(w.Size()))); err != nil {
		return err
	}
	for {
		var chunk wrapperspb.BytesValue
		if err := stream.RecvMsg(&chunk); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		v := chunk.Value
		if len(v) < 4 || binary.LittleEndian.Uint32(v) != crc32.ChecksumIEEE(v[4:]) {
			return errors.New("a chunk of a snapshot came damaged")
		}
		received.Add(float64(len(v)))
		if _, err := w.Write(v[4:]); err != nil {
			return err
		}
		if w.Size() > o.Size {
			break // there may be no end to it
		}
	}
	if w.Size() != o.Size || w.Sum() != o.Sum {
		err := fmt.Errorf("a snapshot of %d bytes with checksum %08x came as %d with %08x", o.Size, o.Sum, w.Size(), w.Sum())
		if w.Size() >= o.Size {
			return errors.Join(err, w.Discard())
		}
		return err
	}
	return w.Commit()
}
