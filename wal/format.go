package wal

import "github.com/stele-wal/stele/wal/internal/frame"

const (
	// DefaultSegmentSize is the size in bytes at which a segment is full: etcd's 64,000,000, not 64
	// MiB.
	DefaultSegmentSize = 64_000_000

	// DefaultMaxRecord is the largest record in bytes that a Writer writes. etcd 3.4 reads no
	// larger one.
	DefaultMaxRecord = 10<<20 - frame.WordSize
)

// A segment is whole pages: this does not compile otherwise.
const _ = -uint(DefaultSegmentSize % frame.PageSize)
