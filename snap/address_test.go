//go:build 386 || arm

package snap

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stele-wal/stele/walpb"
)

// Where an int has 32 bits a file may be larger than memory can be. It is not read, which is no
// damage, and nothing panics.
func TestASnapshotThatCannotBeAddressedIsAnErrorAndNoDamage(t *testing.T) {
	dir := t.TempDir()
	const size = 5 << 30
	head := binary.AppendUvarint([]byte{tagFileCRC, 0, tagFileData}, size-8)
	name := filepath.Join(dir, snapshotName(2, 2))
	// What is between the head and the end is a hole.
	if err := errors.Join(os.WriteFile(name, head, 0o600), os.Truncate(name, size)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Newest([]walpb.Snapshot{{Index: 2, Term: 2}}); err == nil || isCorrupt(err) || errors.Is(err, ErrNoSnapshot) {
		t.Error(err)
	}
}
