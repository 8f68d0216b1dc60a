package wal

import "github.com/stele-wal/stele/wal/internal/frame"

// A batch is what one sync makes durable: frames, in the order in which they were saved. They are
// encoded straight from the caller's values, and written to one segment with one write.
type batch struct {
	number uint64 // one above that of the batch before it
	seg    *openSegment
	// spareName is the name that the file of seg still has until this batch is written, the first
	// in seg. It is empty for every other batch.
	spareName string

	base    int64       // the offset in the segment of content, a multiple of frame.PageSize
	start   int64       // the offset in the segment of the first frame; all before it is durable
	content frame.Pages // what the page at base holds before start, and then the frames
	full    bool        // the segment ends with this batch, which may be empty

	must  bool          // holds a call that must be durable; with PlainEtcd it takes no other
	acked []func(error) // called once it is, in the order in which Append appended
}

// end returns the offset in the segment at which the batch ends.
func (b *batch) end() int64 { return b.base + int64(len(b.content.Bytes)) }

// empty reports whether the batch holds no frames.
func (b *batch) empty() bool { return b.end() == b.start }

// seal notes how far the segment will reach once the batch is written, and that is the end of the
// batch: no frame is added any more.
func (b *batch) seal() { b.seg.size = max(b.seg.size, frame.ToPage(b.end())) }
