package wal

import "iter"

// ScanAll is Records for someone who inspects a damaged log: it gives every good record from the
// first segment on, and where Records would end because what was durable is damaged, it gives the
// *CorruptError in its place and goes on behind it, wherever records vouch for themselves: by a
// header_crc, or by being linked to the frame before them. A frame that was found only by its
// header_crc or only by the link that it makes to the next is not given, since nothing vouches for
// its data.
//
// What is given behind damage is good by itself, but what it means is unknown: do not Replay it. In
// all other ways ScanAll is like Records, with the same errors. Check says what of it contradicts
// what else, and what the end of the log is.
func ScanAll(path string, opts *Options) iter.Seq2[Record, error] {
	o := opts.withDefaults()
	return func(yield func(Record, error) bool) {
		l, _, err := openLog(o.FS, path, 0)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer l.close()
		s := newScanner(&l)
		s.resume = true
		s.records()(yield)
	}
}
