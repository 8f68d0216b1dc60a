package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// defects is what each of the damaged logs is, by the table of verdicts: the exit code of every
// command.
var defects = map[string]int{
	"00-good-small":                     exitClean,
	"01-good-multiseg":                  exitClean,
	"10-resurrect-local-snapshot-22442": exitClean,
	"12-snapshot-never-recorded":        exitClean,
	"20-zero-length-word-midlog":        exitCorrupt,
	"23-payload-bitflip-midlog":         exitCorrupt,
	"25-zeroed-sector-midlog":           exitCorrupt,
	"30-type-entry-to-state":            exitCorrupt,
	"34-type-entry-to-7":                exitCorrupt,
	"50-torn-tail-short-file":           exitTorn,
	"51-torn-tail-zero-sector":          exitTorn,
	"60-stale-tmp-first-crash":          exitClean,
	"61-stale-tmp-second-crash":         exitTorn,
}

func call(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, &out, &errs)
	return code, out.String(), errs.String()
}

// line is what dump -o ndjson prints, as another program would decode it.
type line struct {
	Segment   string
	Offset    int64
	Size      int
	Type      string
	CRC       string
	Term      uint64
	Index     uint64
	Kind      string
	Vote      string
	Commit    uint64
	Data      *[]byte
	ConfState *[]byte `json:"conf_state"`
	HeaderCRC string  `json:"header_crc"`
	SyncedTo  uint64  `json:"synced_to"`
	Error     string
}

func lines(t *testing.T, text string) (all []line) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	for {
		var l line
		err := d.Decode(&l)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("after %d lines: %v", len(all), err)
		}
		all = append(all, l)
	}
}

// ours makes a log with package wal, and has the last segment's bytes changed at the end of its
// records.
func ours(t *testing.T, change func(b []byte, end int64)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	w, err := wal.Create(dir, []byte("ours"), &wal.Options{SegmentSize: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 5; i++ {
		if err := w.Save(walpb.HardState{Term: 1, Vote: 1, Commit: i - 1}, []walpb.Entry{{Term: 1, Index: i, Data: []byte("data")}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if change == nil {
		return dir
	}
	report, err := wal.Check(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	name := report.Segments[len(report.Segments)-1].Name
	b := read(t, filepath.Join(dir, name))
	change(b, report.Segments[len(report.Segments)-1].End)
	file(t, dir, name, b)
	return dir
}

// repository returns the root of the repository.
func repository(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// file writes a file and returns its directory.
func file(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func list(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// digest sums the names, modes, times and bytes of all that is in a directory.
func digest(t testing.TB, dir string) string {
	t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %v %v %d\n", name, info.Mode(), info.ModTime(), info.Size())
		if info.Mode().IsRegular() {
			sum.Write(read(t, name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
