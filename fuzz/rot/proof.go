package rot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"

	"github.com/stele-wal/stele/walpb"
)

// proof returns what shows that something which was trimmed had been durable; empty if nothing
// does. tree is the log before it was opened. It knows where the frames were, so it need not
// search; what it goes by is in wal/FORMAT.md, chapter 8.
func (l *Log) proof(tree map[string][]byte, o opening) string {
	segment := l.segment(o.segment)
	if !o.trimmed || segment < 0 {
		return ""
	}
	file, good := tree[path.Join(dir, o.segment)], l.files[o.segment]
	var (
		last   uint64 // the index of the last entry before the place
		next   = -1   // where the next frame begins if it is linked to the one before
		linked run
	)
	for i := range l.frames {
		f := &l.frames[i]
		if f.segment < segment || f.segment == segment && int64(f.offset) < o.offset {
			if f.Type == walpb.TypeEntry {
				last = entryIndex(f)
			}
			continue
		}
		if f.segment > segment {
			break
		}
		if int64(f.offset) == o.offset {
			if said := f.undamaged(file, good); said != "" {
				return said
			}
		}
		if end := f.offset + f.size; end > len(file) || !bytes.Equal(file[f.offset:end], good[f.offset:end]) {
			continue
		}
		if f.HasHeaderCRC {
			if int64(f.SyncedTo) > o.offset {
				return fmt.Sprintf("the record at %d says that it was synced up to %d", f.offset, f.SyncedTo)
			}
			continue
		}
		if next != f.offset {
			linked = run{}
		}
		next = f.offset + f.size
		if linked.next(f, last) && !o.after.witness {
			return fmt.Sprintf("the record at %d is of a later batch", f.offset)
		}
	}
	return ""
}

func entryIndex(f *frame) uint64 {
	var e walpb.Entry
	if e.UnmarshalLenient(f.Data) != nil {
		return 0
	}
	return e.Index
}

// run is what linked records of etcd's tell of the calls that wrote them.
type run struct{ entry, state, over, beyond bool }

// next takes the next record, and reports whether all before it had been synced.
func (r *run) next(f *frame, last uint64) bool {
	later := r.over || r.beyond && f.Type != walpb.TypeSnapshot
	switch f.Type {
	case walpb.TypeEntry:
		later = later || r.state && !r.entry && entryIndex(f) > last+1
		r.entry = true
	case walpb.TypeState:
		var s walpb.HardState
		r.beyond = r.beyond || s.UnmarshalLenient(f.Data) == nil && s.Commit > last
		r.over, r.state = r.over || r.entry, true
	case walpb.TypeSnapshot:
		later = later || r.entry
		r.over = true
	}
	return later
}

// undamaged returns which part of a frame that is not good any more is as it was written, though no
// crash leaves it so; empty if there is none. file is what the segment is now, and good what it
// was.
func (f *frame) undamaged(file, good []byte) string {
	const sector = 512
	// Of the record.
	end := f.offset + 8 + int(binary.LittleEndian.Uint64(good[f.offset:])&(1<<56-1))
	data := end - len(f.Data)
	same := func(from, to int) bool { return to <= len(file) && bytes.Equal(file[from:to], good[from:to]) }
	if f.offset%8 != 0 || !same(f.offset, f.offset+7) { // its length is another
		return ""
	}
	if len(file)%sector != 0 && f.offset+f.size > len(file) && same(f.offset, data) {
		return fmt.Sprintf("the file ends at %d, inside the frame at %d", len(file), f.offset)
	}
	crc := binary.AppendUvarint(nil, uint64(f.CRC))
	if len(crc) < 4 || len(f.Data) == 0 || f.Data[0] == 0 || !same(data, end) ||
		!bytes.Contains(file[f.offset+8:data], crc) || !same(data-1, data) || f.offset/sector != data/sector {
		return ""
	}
	if pad := min(f.offset+f.size, len(file)); !same(end, pad) && (len(f.Data) < 8 || (end-8)/sector != (end-1)/sector) {
		return ""
	}
	return fmt.Sprintf("all data of the record at %d is there", f.offset)
}
