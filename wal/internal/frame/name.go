package frame

import (
	"fmt"

	"github.com/stele-wal/stele/fileutil"
)

// SegmentSuffix ends the name of every segment.
const SegmentSuffix = ".wal"

// SegmentName returns the file name of the segment seq. No entry in it is below index when it is
// begun. ParseSegmentName(SegmentName(seq, index)) == seq, index, true.
func SegmentName(seq, index uint64) string {
	return fmt.Sprintf("%016x-%016x"+SegmentSuffix, seq, index)
}

// ParseSegmentName is strict: sixteen lower-case digits, a dash, sixteen digits, ".wal", nothing
// else.
func ParseSegmentName(name string) (seq, index uint64, ok bool) {
	if len(name) != 16+1+16+4 || name[16] != '-' || name[33:] != SegmentSuffix {
		return 0, 0, false
	}
	seq, ok1 := fileutil.ParseHex(name[:16])
	index, ok2 := fileutil.ParseHex(name[17:33])
	return seq, index, ok1 && ok2
}
