package etcdtool

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPathLooksWhereTheEnvironmentSaysThenInTheCacheAndBuildsNothingUnasked(t *testing.T) {
	cache := t.TempDir()
	t.Setenv(BinEnv, "")
	t.Setenv("HOME", cache)           // of which the cache is a part, on some systems
	t.Setenv("XDG_CACHE_HOME", cache) // on others
	t.Setenv("LocalAppData", cache)   // and on Windows
	if path, err := Path("etcd", false); err == nil {
		t.Errorf("%s, in an empty cache", path)
	}
	root, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(root, "raftkv-test", Version, "etcd")
	if err := os.MkdirAll(filepath.Dir(built), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(built, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := Path("etcd", false); err != nil || path != built {
		t.Errorf("%s and %v, want %s", path, err, built)
	}
	t.Setenv(BinEnv, "elsewhere")
	if path, err := Path("etcd", false); err != nil || path != filepath.Join("elsewhere", "etcd") {
		t.Errorf("%s and %v, want that of %s", path, err, BinEnv)
	}
	if path, err := Path("emacs", true); err == nil {
		t.Errorf("%s, which etcd does not have", path)
	}
}
