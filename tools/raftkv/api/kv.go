package api

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/tools/raftkv/node"
)

type kv struct {
	pb.UnsafeKVServer
	s *Server
}

func (k *kv) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	if !r.Serializable {
		if err := k.s.Node.ReadIndex(ctx); err != nil {
			return nil, err
		}
	}
	resp, err := k.s.Node.Store().Range(r)
	if err != nil {
		return nil, err
	}
	k.s.fill(resp.Header)
	return resp, nil
}

// RangeStream sends what Range would answer in pieces, all of one revision. The last one has the
// header and the count.
func (k *kv) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if r.SortOrder == pb.RangeRequest_DESCEND || r.SortTarget != pb.RangeRequest_KEY && r.SortOrder != pb.RangeRequest_NONE {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	if !r.Serializable {
		if err := k.s.Node.ReadIndex(stream.Context()); err != nil {
			return err
		}
	}
	resp, err := k.s.Node.Store().View().Range(r)
	if err != nil {
		return err
	}
	k.s.fill(resp.Header)
	kvs := resp.Kvs
	for {
		size, n := 0, 0
		for n < len(kvs) && (n == 0 || size < k.s.MaxRequest) {
			size += proto.Size(kvs[n])
			n++
		}
		piece := &pb.RangeResponse{Kvs: kvs[:n]}
		kvs = kvs[n:]
		if len(kvs) == 0 {
			piece.Header, piece.More, piece.Count = resp.Header, resp.More, resp.Count
		}
		if err := stream.Send(&pb.RangeStreamResponse{RangeResponse: piece}); err != nil || len(kvs) == 0 {
			return err
		}
	}
}

func (k *kv) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	out, err := k.s.Node.Propose(ctx, &pb.InternalRaftRequest{Put: r})
	if err != nil {
		return nil, err
	}
	resp := out.(*pb.PutResponse)
	k.s.fill(resp.Header)
	return resp, nil
}

func (k *kv) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	out, err := k.s.Node.Propose(ctx, &pb.InternalRaftRequest{DeleteRange: r})
	if err != nil {
		return nil, err
	}
	resp := out.(*pb.DeleteRangeResponse)
	k.s.fill(resp.Header)
	return resp, nil
}

func (k *kv) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, k.s.MaxTxnOps); err != nil {
		return nil, err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := touch(ops); err != nil {
			return nil, err
		}
	}
	if readOnly, serializable := reads(r); readOnly {
		if !serializable {
			if err := k.s.Node.ReadIndex(ctx); err != nil {
				return nil, err
			}
		}
		resp, err := k.s.Node.Store().ReadTxn(r)
		if err != nil {
			return nil, err
		}
		k.s.fill(resp.Header)
		return resp, nil
	}
	out, err := k.s.Node.Propose(ctx, &pb.InternalRaftRequest{Txn: r})
	if err != nil {
		return nil, err
	}
	resp := out.(*pb.TxnResponse)
	k.s.fill(resp.Header)
	return resp, nil
}

func (k *kv) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	out, err := k.s.Node.Propose(ctx, &pb.InternalRaftRequest{Compaction: r})
	if err != nil {
		return nil, err
	}
	if r.Physical {
		select {
		case <-k.s.Node.Store().Swept():
		case <-k.s.Node.Stopped():
			return nil, node.ErrStopped
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	resp := out.(*pb.CompactionResponse)
	k.s.fill(resp.Header)
	return resp, nil
}

// reads reports whether a transaction changes nothing, and whether all its reads may be of an older
// state.
func reads(r *pb.TxnRequest) (only, serializable bool) {
	only, serializable = true, true
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if read := op.GetRequestRange(); read == nil {
				only = false
			} else if !read.Serializable {
				serializable = false
			}
		}
	}
	return only, serializable
}

func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	_, order := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]
	if !order || !target {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

// checkTxn checks a transaction and those within, which together may be so deep and wide.
func checkTxn(r *pb.TxnRequest, ops int) error {
	n := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if n > ops {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, list := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range list {
			var err error
			switch op := op.GetRequest().(type) {
			case *pb.RequestOp_RequestRange:
				err = checkRange(op.RequestRange)
			case *pb.RequestOp_RequestPut:
				err = checkPut(op.RequestPut)
			case *pb.RequestOp_RequestDeleteRange:
				if len(op.RequestDeleteRange.GetKey()) == 0 {
					err = rpctypes.ErrGRPCEmptyKey
				}
			case *pb.RequestOp_RequestTxn:
				err = checkTxn(op.RequestTxn, ops-n)
			default:
				err = rpctypes.ErrGRPCKeyNotFound
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
