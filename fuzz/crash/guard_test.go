package crash

import (
	"bytes"
	"io/fs"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/fileutil/crashfs"
)

// syncing is a file system that does something else before it syncs data.
func syncing(do func()) *Saboteur {
	return &Saboteur{Name: "syncs", Wrap: func(fsys fileutil.FS, _ func() bool) fileutil.FS { return syncingFS{fsys, do} }}
}

type syncingFS struct {
	fileutil.FS
	do func()
}

func (f syncingFS) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return syncingFile{file, f.do}, nil
}

type syncingFile struct {
	fileutil.File
	do func()
}

func (f syncingFile) SyncData() error {
	f.do()
	return f.File.SyncData()
}

func TestAPanicOfTheLogIsAFailureWithASeed(t *testing.T) {
	const seed = 3
	r, err := Run(Config{Seed: seed, Lives: 1, Saboteur: syncing(func() {
		// Not where the panic would be another goroutine's.
		if bytes.Contains(debug.Stack(), []byte("wal.(*Writer).Save(")) {
			panic("index out of range")
		}
	})})
	if err == nil {
		t.Fatalf("no failure: %v", r)
	}
	if f := r.Failures[0]; f.Seed != seed || !strings.Contains(f.Detail, "panic: index out of range") || !strings.Contains(f.Detail, "wal.(*Writer)") {
		t.Errorf("%v", &f)
	}
}

func TestAPanicOfARecoveryIsAFailureWithASeed(t *testing.T) {
	c := newCampaign(Config{})
	h := newHistory(c, 7, nil) // without random numbers none can be done
	h.examine(crashfs.New(), "what is left", 0)
	r, _ := c.counter.Result()
	if len(r.Failures) != 1 || r.Failures[0].Seed != 7 || !strings.Contains(r.Failures[0].Detail, "panic: ") {
		t.Errorf("%v", r.Failures)
	}
}

func TestAHistoryThatIsStuckSaysWhichAndWhere(t *testing.T) {
	hold := make(chan struct{})
	c := newCampaign(Config{Saboteur: syncing(func() { <-hold })})
	reports := make(chan string, 1)
	var once sync.Once
	c.patience = time.Millisecond
	c.stuck = func(report string) { once.Do(func() { reports <- report }) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.history(5)
	}()
	report := <-reports
	close(hold)
	<-done
	if !strings.Contains(report, "(seed 5)\n\tsegments of") || !strings.Contains(report, "goroutine ") {
		t.Errorf("%s", report)
	}
}
