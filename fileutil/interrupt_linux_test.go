package fileutil

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The os package repeats a call that a signal interrupts; our own system calls must do so too.
func TestWhatASignalInterruptsIsTriedAgain(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tries := 0
	err = osFile{f}.control("sync", func(uintptr) error {
		if tries++; tries < 3 {
			return unix.EINTR
		}
		return unix.EIO // which is not tried again
	})
	if tries != 3 || !errors.Is(err, unix.EIO) || errors.Is(err, unix.EINTR) {
		t.Errorf("%d tries, %v; want 3, EIO", tries, err)
	}
}

// The system writes as much as it may, without an error, and says why it does no more when it is
// asked for the rest. A write that is cut short must not pass for a whole one. The limit is of a
// process, so another one is limited.
func TestAWriteThatDoesNotFitSaysSo(t *testing.T) {
	const limit = 5000
	if name := os.Getenv("STELE_TEST_LIMITED"); name != "" {
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}))
		f, err := OS{}.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		must(err)
		// How much is not certain: the os package forgets what it wrote before the error.
		n, err := f.WriteAt(make([]byte, 8192), 0)
		if n > limit || !errors.Is(err, unix.EFBIG) {
			t.Errorf("wrote %d, %v; want at most %d, EFBIG", n, err, limit)
		}
		if err := f.Preallocate(8192); !errors.Is(err, unix.EFBIG) {
			t.Errorf("preallocate: %v, want EFBIG", err)
		}
		if size, err := f.Size(); err != nil || size < int64(n) || size > limit {
			t.Errorf("the file has %d bytes, %v; at least %d were written and at most %d could be", size, err, n, limit)
		}
		must(f.Close())
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "STELE_TEST_LIMITED="+filepath.Join(t.TempDir(), "a"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
