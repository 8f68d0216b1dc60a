package snap

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/walpb"
)

// A deserter is a file system of which one operation, of a number, does not return.
type deserter struct {
	*crashfs.FS
	ops   int
	leave func()
}

func (d *deserter) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := d.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &deserted{f, d}, nil
}

func (d *deserter) Rename(from, to string) error {
	d.called()
	return d.FS.Rename(from, to)
}

func (d *deserter) called() {
	if d.ops--; d.ops == 0 {
		d.leave()
	}
}

type deserted struct {
	fileutil.File
	d *deserter
}

func (f *deserted) WriteAt(b []byte, off int64) (int, error) {
	f.d.called()
	return f.File.WriteAt(b, off)
}
func (f *deserted) SyncData() error        { f.d.called(); return f.File.SyncData() }
func (f *deserted) Truncate(n int64) error { f.d.called(); return f.File.Truncate(n) }

// apart calls f in a goroutine of its own and recovers.
func apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { recover() }()
		f()
	}()
	<-done
}

// Whatever operation of the FS panics, or ends the goroutine, nothing of a body or a snapshot comes
// to be that was not written, and the next call is not kept from anything.
func TestAFileSystemThatDoesNotReturnLeavesNothing(t *testing.T) {
	content := bodyBytes(2, 2*BlockSize+100)
	for way, leave := range map[string]func(){"panic": func() { panic("the caller's own") }, "Goexit": runtime.Goexit} {
		for op := 1; ; op++ {
			d := &deserter{FS: crashfs.New(), leave: leave}
			s, err := Open("snap", &Options{FS: d})
			if err != nil {
				t.Fatal(err)
			}
			d.ops = op
			apart(func() {
				w, err := s.Create(walpb.Snapshot{Index: 2, Term: 2})
				if err != nil {
					t.Error(err)
					return
				}
				defer w.Close()
				defer func() {
					if d.ops > 0 {
						return
					}
					_, err := w.Write([]byte{1})
					if again := w.Commit(); err == nil || again == nil {
						t.Errorf("%s in operation %d: Write says %v then, and Commit %v", way, op, err, again)
					}
				}()
				w.Write(content)
				w.Commit()
			})
			apart(func() { s.Save(at(2)) })
			if open := d.Handles(); open > 0 {
				t.Errorf("%s in operation %d: %d files are open", way, op, open)
			}
			finished := d.ops > 0
			d.ops = 0
			save(t, s, 2)
			w, err := s.Create(walpb.Snapshot{Index: 2, Term: 2})
			if err != nil {
				t.Fatalf("%s in operation %d: %v", way, op, err)
			}
			w.Write(content)
			if err := w.Commit(); err != nil {
				t.Fatalf("%s in operation %d: %v", way, op, err)
			}
			l, err := s.List()
			if err != nil || len(l.temporary) > 0 || len(l.Partials) > 0 {
				t.Errorf("%s in operation %d: %+v, %v", way, op, l, err)
			}
			if finished {
				if op < 10 {
					t.Errorf("only %d operations", op)
				}
				break
			}
		}
	}
}

func TestTheZeroValuesDoNotPanic(t *testing.T) {
	var s Store
	_, load := s.Load(1, 1)
	_, newest := s.Newest(records(1))
	_, newestBody := s.NewestBody(records(1))
	_, list := s.List()
	_, create := s.Create(walpb.Snapshot{Index: 1, Term: 1})
	_, resume := s.Resume(Body{Index: 1, Term: 1})
	_, open := s.OpenBody(1)
	for what, err := range map[string]error{
		"Save": s.Save(at(1)), "Load": load, "Newest": newest, "NewestBody": newestBody, "Keep": s.Keep(1, at1()), "List": list,
		"Create": create, "Resume": resume, "OpenBody": open,
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s of the zero Store: %v", what, err)
		}
	}

	var w Writer
	_, write := w.Write(make([]byte, BlockSize))
	for what, err := range map[string]error{"Write": write, "Commit": w.Commit()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s of the zero Writer: %v", what, err)
		}
	}
	if err := errors.Join(w.Close(), w.Discard()); err != nil || w.Size() != 0 || w.Sum() != 0 || w.Body().Index != 0 {
		t.Errorf("the zero Writer: %v", err)
	}

	var r Reader
	b, read := io.ReadAll(&r)
	n, written := r.WriteTo(&bytes.Buffer{})
	_, sought := r.Seek(0, io.SeekStart)
	if err := errors.Join(read, written, sought, r.Verify(), r.Close()); err != nil || len(b) > 0 || n > 0 || r.Size() != 0 {
		t.Errorf("the zero Reader: %v", err)
	}
	var l Limiter
	if err := l.Wait(t.Context(), 1<<30); err != nil {
		t.Errorf("the zero Limiter: %v", err)
	}
}
