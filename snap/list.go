package snap

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/stele-wal/stele/fileutil"
)

// A Listing is what a directory of snapshots holds, by its names.
type Listing struct {
	Snapshots []File   // by index and then term, the newest first
	Bodies    []uint64 // indexes, the newest first
	Partials  []uint64 // indexes of unfinished bodies, the newest first
	Broken    []string // the names of files that were set aside
	Strays    []string // names that end like one of the above but are not

	temporary []string // what ReplaceFile leaves if a crash interrupts it
}

// A File is a snapshot's file: its entry in the directory, and what its name says.
type File struct {
	fs.DirEntry
	Index, Term uint64
}

// What a file in the directory is; see FORMAT.md, chapter 2.
type fileKind uint8

const (
	otherFile fileKind = iota
	snapshotFile
	bodyFile
	partialFile
	brokenFile
	temporaryFile
	strayFile
)

const (
	snapshotSuffix  = ".snap"
	bodySuffix      = ".snap.db"
	partialSuffix   = ".snap.db.partial"
	brokenSuffix    = ".broken"
	temporarySuffix = ".tmp"
)

func snapshotName(index, term uint64) string {
	return fmt.Sprintf("%016x-%016x"+snapshotSuffix, term, index)
}

func bodyName(index uint64) string    { return fmt.Sprintf("%016x"+bodySuffix, index) }
func partialName(index uint64) string { return fmt.Sprintf("%016x"+partialSuffix, index) }

// parseName is the inverse of snapshotName, bodyName and partialName: it returns which it
// was and of what, and it is strict.
func parseName(name string) (term, index uint64, kind fileKind) {
	if of, ok := strings.CutSuffix(name, brokenSuffix); ok {
		if _, _, kind := parseName(of); kind == snapshotFile || kind == bodyFile {
			return 0, 0, brokenFile
		}
		return 0, 0, otherFile
	}
	if of, ok := strings.CutSuffix(name, temporarySuffix); ok {
		number := filepath.Ext(of)
		_, _, kind := parseName(strings.TrimSuffix(of, number))
		if kind == snapshotFile && len(number) > 1 && strings.Trim(number[1:], "0123456789") == "" {
			return 0, 0, temporaryFile
		}
		return 0, 0, otherFile
	}
	for _, k := range []struct {
		suffix string
		kind   fileKind
	}{{snapshotSuffix, snapshotFile}, {bodySuffix, bodyFile}, {partialSuffix, partialFile}} {
		of, ok := strings.CutSuffix(name, k.suffix)
		if !ok {
			continue
		}
		if k.kind == snapshotFile {
			if len(of) != 33 || of[16] != '-' {
				return 0, 0, strayFile
			}
			if term, ok = fileutil.ParseHex(of[:16]); !ok {
				return 0, 0, strayFile
			}
			of = of[17:]
		}
		if index, ok = fileutil.ParseHex(of); !ok {
			return 0, 0, strayFile
		}
		return term, index, k.kind
	}
	return 0, 0, otherFile
}

// brokenIndex is the index of the file that was set aside under a name.
func brokenIndex(name string) uint64 {
	_, index, _ := parseName(strings.TrimSuffix(name, brokenSuffix))
	return index
}
