package snap

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
)

// TestFormat decodes every block of hex in FORMAT.md: each is a file with its name.
func TestFormat(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```hex (snapshot|body) ([^\n]*)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if all := strings.Count(string(text), "```hex"); len(blocks) != 4 || all != len(blocks) {
		t.Fatalf("found %d whole blocks of %d", len(blocks), all)
	}
	for _, block := range blocks {
		var file []byte
		for line := range strings.Lines(block[3]) {
			digits, _, _ := strings.Cut(line, "#")
			b, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
			if err != nil {
				t.Fatal(err)
			}
			file = append(file, b...)
		}
		fsys := crashfs.Load(map[string][]byte{"snap/" + block[2]: file})
		store := open(t, fsys)
		if block[1] == "snapshot" {
			s, err := store.Newest([]walpb.Snapshot{{Index: 0x1234, Term: 7}})
			if err != nil || string(s.Data) != "hello" {
				t.Errorf("%+v, %v", s, err)
			}
			continue
		}
		r, err := store.NewestBody([]walpb.Snapshot{{Index: 5, Term: 2}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		want := ""
		if block[2] == bodyName(5) && r.Size() > 0 {
			want = "hello"
		}
		if err != nil || string(got) != want || !bytes.Equal(r.Body().ConfState, []byte{8, 1}) || r.Body().ID != testID {
			t.Errorf("%+v: %q, %v", r.Body(), got, err)
		}
		// And it is what a Writer writes.
		fsys = crashfs.New()
		w, err := open(t, fsys).Resume(r.Body())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, want)
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		if b, err := fsys.ReadFile("snap/" + block[2]); err != nil || !bytes.Equal(b, file) {
			t.Errorf("wrote %x, %v", b, err)
		}
	}
}

var testID = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// open opens the Store in the directory snap.
func open(t testing.TB, fsys *crashfs.FS) *Store {
	t.Helper()
	s, err := Open("snap", &Options{FS: fsys})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
