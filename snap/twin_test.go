package snap

import (
	"io"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
)

// commitBody writes a body whole.
func commitBody(t *testing.T, disk *crashfs.FS, b Body, content string) {
	t.Helper()
	s, err := Open("snap", &Options{FS: disk})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Resume(b)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write([]byte(content)[w.Size():]); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestABodyThatACrashLeftWithTwoNamesIsNotWrittenOver(t *testing.T) {
	const content = "what the snapshot holds"
	b := NewBody(walpb.Snapshot{Index: 7, Term: 1})
	var twin *crashfs.FS // one file has the name of the body and that of the unfinished one
	disk := crashfs.New()
	disk.SetHook(nil, func(op crashfs.Op) {
		if op.Kind != crashfs.OpRename {
			return
		}
		for i := range disk.Pending() {
			after := disk.Crash(crashfs.KeepOne(i))
			tree := after.Tree()
			if tree["snap/"+bodyName(7)] != nil && tree["snap/"+partialName(7)] != nil {
				twin = after
			}
		}
	})
	commitBody(t, disk, b, content)
	if twin == nil {
		t.Fatal("no crash in a rename leaves both names")
	}
	commitBody(t, twin, b, content)

	s, err := Open("snap", &Options{FS: twin})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, err := s.OpenBody(7)
	if err != nil {
		t.Fatalf("while another body is written: %v", err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != content {
		t.Errorf("while another body is written: %q, %v", got, err)
	}
}
