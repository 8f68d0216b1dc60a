package mvcc

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// ErrMalformed says that bytes are not a state that WriteTo wrote.
var ErrMalformed = errors.New("mvcc: malformed state")

// A Hash is a checksum of all that a View holds up to a revision: etcd's own, so that members of
// either kind can be compared.
type Hash struct {
	Sum       uint32
	Rev       int64 // up to which
	Compacted int64
}

// Hash returns the checksum up to rev, or with 0 up to the View's revision. The errors are
// ErrCompacted and ErrFutureRev.
func (v *View) Hash(rev int64) (Hash, error) {
	if rev > 0 && rev < v.compacted {
		return Hash{}, ErrCompacted
	}
	if rev > v.rev {
		return Hash{}, ErrFutureRev
	}
	if rev <= 0 {
		rev = v.rev
	}
	// Of revisions up to the compacted one only what is still found at rev counts, unless nothing
	// at all is found there.
	empty := true
	v.each(func(versions []version) bool {
		empty = at(versions, rev) == nil
		return empty
	})
	var all []version
	v.each(func(versions []version) bool {
		live := at(versions, rev)
		for i := range versions {
			if versions[i].rev <= rev && (versions[i].rev > v.compacted || empty || &versions[i] == live) {
				all = append(all, versions[i])
			}
		}
		return true
	})
	slices.SortFunc(all, func(a, b version) int {
		return cmp.Or(cmp.Compare(a.rev, b.rev), cmp.Compare(a.sub, b.sub))
	})
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte("key"))
	var key [18]byte
	for i := range all {
		if all[i].deleted && all[i].rev == v.compacted {
			continue
		}
		b := binary.BigEndian.AppendUint64(key[:0], uint64(all[i].rev))
		b = binary.BigEndian.AppendUint64(append(b, '_'), uint64(all[i].sub))
		if all[i].deleted {
			b = append(b, 't')
		}
		h.Write(b)
		kv, err := proto.Marshal(all[i].kv)
		if err != nil {
			return Hash{}, err
		}
		h.Write(kv)
	}
	return Hash{Sum: h.Sum32(), Rev: rev, Compacted: v.compacted}, nil
}

// The bytes of a state: the magic; the revision, the compacted one plus one, and the number of
// versions as uvarints; then of each version its revision, its place in the revision times two plus
// whether it deletes, and the length and bytes of its key-value message. There is no checksum in
// them: what stores them adds one.
const magic = "raftkv state 1\n"

// maxMessage is the limit on the length of an encoded key and its value, in bytes.
const maxMessage = 64 << 20

// WriteTo writes the state. ReadView reads it. The error says that it would not, or is the
// writer's.
func (v *View) WriteTo(w io.Writer) (int64, error) {
	out := &counter{w: w}
	b := bufio.NewWriterSize(out, 1<<16)
	b.WriteString(magic)
	var count uint64
	v.each(func(versions []version) bool {
		count += uint64(len(versions))
		return true
	})
	var head, message []byte
	head = binary.AppendUvarint(head, uint64(v.rev))
	head = binary.AppendUvarint(head, uint64(v.compacted+1))
	head = binary.AppendUvarint(head, count)
	b.Write(head)
	var err error
	v.each(func(versions []version) bool {
		for i := range versions {
			if message, err = (proto.MarshalOptions{}).MarshalAppend(message[:0], versions[i].kv); err != nil {
				return false
			}
			if len(message) > maxMessage {
				err = fmt.Errorf("mvcc: a key of %d bytes, the limit is %d", len(message), maxMessage)
				return false
			}
			sub := uint64(versions[i].sub) << 1
			if versions[i].deleted {
				sub |= 1
			}
			head = binary.AppendUvarint(head[:0], uint64(versions[i].rev))
			head = binary.AppendUvarint(head, sub)
			head = binary.AppendUvarint(head, uint64(len(message)))
			b.Write(head)
			if _, err = b.Write(message); err != nil {
				return false
			}
		}
		return true
	})
	if err != nil {
		return out.n, err
	}
	return out.n, b.Flush()
}

// ReadView reads a state, up to where it ends. The error wraps ErrMalformed, or is that of the
// reader.
func ReadView(r *bufio.Reader) (*View, error) {
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(r, begin); err != nil {
		return nil, ended(err)
	}
	if string(begin) != magic {
		return nil, fmt.Errorf("%w: it begins with %q", ErrMalformed, begin)
	}
	n := &numbers{r: r}
	v := newView()
	v.rev, v.compacted = int64(n.next()), int64(n.next())-1
	for count := n.next(); count > 0 && n.err == nil; count-- {
		rev, sub, size := int64(n.next()), n.next(), n.next()
		if n.err != nil {
			break
		}
		if size > maxMessage {
			return nil, fmt.Errorf("%w: a key of %d bytes", ErrMalformed, size)
		}
		// A length is not believed before its bytes are there.
		b, err := io.ReadAll(io.LimitReader(r, int64(size)))
		if err == nil && len(b) < int(size) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, ended(err)
		}
		kv := new(mvccpb.KeyValue)
		if err := proto.Unmarshal(b, kv); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if err := v.load(version{kv: kv, sub: int64(sub >> 1), rev: rev, deleted: sub&1 != 0}); err != nil {
			return nil, err
		}
	}
	if n.err != nil {
		return nil, ended(n.err)
	}
	return &v, nil
}

// before reports whether a version was made earlier than another: a revision may put a key and then
// delete it.
func (v version) before(next version) bool {
	return v.rev < next.rev || v.rev == next.rev && v.sub < next.sub
}

// load takes the next version of a state that is read.
func (v *View) load(next version) error {
	key := string(next.kv.Key)
	versions, _ := v.keys.Get(key)
	if next.rev > v.rev || next.rev <= 0 || len(versions) > 0 && !versions[len(versions)-1].before(next) {
		return fmt.Errorf("%w: key %q: revision %d is out of order", ErrMalformed, key, next.rev)
	}
	if old := at(versions, next.rev); old != nil {
		v.live -= old.size()
	}
	if !next.deleted {
		v.live += next.size()
	}
	v.keys.Set(key, append(versions, next))
	v.size += next.size()
	return nil
}

// numbers reads uvarints, and keeps the first error.
type numbers struct {
	r   *bufio.Reader
	err error
}

func (n *numbers) next() uint64 {
	if n.err != nil {
		return 0
	}
	var u uint64
	u, n.err = binary.ReadUvarint(n.r)
	return u
}

// ended says that a state that ends early is malformed.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrMalformed)
	}
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
