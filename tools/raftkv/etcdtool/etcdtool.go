// Package etcdtool builds programs of etcd's from the Go module proxy, for raftkv to be compared
// with.
package etcdtool

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Version is the etcd that raftkv is compared with.
const Version = "v3.7.3"

// ToolsVersion is of the module of etcd's tools, which is in no release of 3.7. What they read and
// speak has not changed since this one.
const ToolsVersion = "v3.6.8"

// BinEnv names the environment variable that holds a directory with the programs, for machines that
// cannot build them.
const BinEnv = "RAFTKV_ETCD_BIN"

var packages = map[string]struct{ path, version string }{
	"etcd":           {"go.etcd.io/etcd/server/v3", Version},
	"etcdctl":        {"go.etcd.io/etcd/etcdctl/v3", Version},
	"etcd-dump-logs": {"go.etcd.io/etcd/v3/tools/etcd-dump-logs", ToolsVersion},
	"benchmark":      {"go.etcd.io/etcd/v3/tools/benchmark", ToolsVersion},
}

// Path returns where the program called name is: in the directory that BinEnv names, if there is
// one, and otherwise in the user's cache, to which it may have to be built. The program is one of
// etcd, etcdctl, etcd-dump-logs and benchmark.
//
// The error says that it is none of these, that it is not built yet and build is false, or why it
// cannot be built. Path may be called concurrently, by other processes too.
func Path(name string, build bool) (string, error) {
	p, ok := packages[name]
	if !ok {
		return "", fmt.Errorf("etcdtool: there is no program %s", name)
	}
	if dir := os.Getenv(BinEnv); dir != "" {
		return filepath.Join(dir, name), nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "raftkv-test", p.version, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if !build {
		return "", fmt.Errorf("etcdtool: %s is not built yet", name)
	}
	return path, buildAt(path, p.path, p.version)
}

// buildAt has Go build a package. The name is given to the program when it is whole.
func buildAt(path, pkg, version string) error {
	module, err := os.MkdirTemp("", "etcdtool-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(module)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	built := filepath.Join(module, "built")
	for _, args := range [][]string{{"mod", "init", "tool"}, {"get", pkg + "@" + version}, {"build", "-o", built, pkg}} {
		cmd := exec.Command("go", args...)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("etcdtool: %s cannot be built here (or set %s to a directory that has it): go %s: %w\n%s",
				filepath.Base(path), BinEnv, strings.Join(args, " "), err, out)
		}
	}
	next := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := copyFile(next, built); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// copyFile copies a program: the cache may be on another file system.
func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}
