//go:build 386 || arm

package wal_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stele-wal/stele/wal"
)

// D26. Where an int has 32 bits a segment may be larger than memory can be. A frame that fills it
// is not read, and nothing panics.
func TestARecordThatCannotBeAddressedIsABadLength(t *testing.T) {
	for _, length := range []int64{1<<31 - 8, 1<<31 - 5, 1<<31 - 1, 1 << 31, 1<<32 + 5, 1<<32 - 1} {
		dir := t.TempDir()
		word := uint64(length)
		if pad := -length & 7; pad != 0 {
			word |= 1<<63 | uint64(pad)<<56
		}
		name := filepath.Join(dir, segment0)
		must(t, os.WriteFile(name, append(binary.LittleEndian.AppendUint64(nil, word), 8, 4), 0o600))
		must(t, os.Truncate(name, 5<<30)) // a hole
		r, err := wal.Check(dir, nil)
		if err != nil || len(r.Findings) != 1 || r.Findings[0].Kind != wal.BadLength {
			t.Errorf("%d bytes: %+v, %v", length, r, err)
		}
	}
}
