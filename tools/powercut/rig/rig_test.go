//go:build linux

package rig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stele-wal/stele/tools/powercut/disk"
)

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && !Isolated() {
		code, err := Isolate()
		if err != nil && !errors.Is(err, ErrNotPermitted) { // without permission, tests are skipped
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if err == nil || code != 0 {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

func each(t *testing.T, f func(t *testing.T, r *Rig, made *disk.Image)) {
	for _, kind := range FileSystems() {
		t.Run(kind.Name, func(t *testing.T) {
			if why := kind.Missing(); why != "" {
				t.Skip("SKIPPED, nothing was tested: " + why)
			}
			r, err := New(kind)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
			made, err := r.Make()
			if err != nil {
				t.Fatal(err)
			}
			f(t, r, made)
		})
	}
}

func TestTheKernelSeesTheImageThatWasMounted(t *testing.T) {
	each(t, func(t *testing.T, r *Rig, made *disk.Image) {
		images := []*disk.Image{made, made}
		for i := range images {
			if err := r.Mount(images[i], Quiet); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(r.Dir(), "which")
			if err := os.WriteFile(name, bytes.Repeat([]byte{byte('a' + i)}, 10000), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := r.Unmount(); err != nil {
				t.Fatal(err)
			}
			images[i] = r.Disk.Save()
		}
		began := time.Now()
		const n = 10
		for range n {
			for i := range images {
				if err := r.Mount(images[i], Quiet); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(filepath.Join(r.Dir(), "which"))
				if err != nil {
					t.Fatal(err)
				}
				if want := bytes.Repeat([]byte{byte('a' + i)}, 10000); !bytes.Equal(got, want) {
					t.Fatalf("image %d shows %q...", i, got[:4])
				}
				if err := r.Unmount(); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Logf("%v a mount", time.Since(began)/(2*n))
	})
}
