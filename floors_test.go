// Package stele_test holds what is true of the repository as a whole: which package may import
// which, what the modules require, that everything is documented, and what the test data is.
package stele_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const modulePath = "github.com/stele-wal/stele"

// floors is a statement of policy: what the files that ship, not their tests, may import beside the
// standard library. It is to be changed when the plan of the house changes, not when an import
// happens not to fit. The rows are from the ground up; a package may only import from rows above
// its own.
//
// A name that begins with ./ is a package of this repository; /... after a name stands for it and
// everything below it. A package is under the first row that names it, and one that no row names
// is not allowed to be there.
var floors = []floor{
	// What is written: bytes. Knows no file.
	{"./walpb", []string{"github.com/klauspost/crc32"}},

	// How files are made durable. Knows no log.
	{"./fileutil", []string{"golang.org/x/sys/..."}},
	{"./fileutil/crashfs", []string{"./fileutil"}},

	// Logs to test with. No row names it as something to import, so only tests can.
	{"./testdata/testlogs", nil},

	// The log, and beside it the snapshots: neither knows the other.
	{"./wal/internal/frame", []string{"./walpb", "./fileutil"}},
	{"./wal/internal/history", []string{"./walpb"}},
	{"./wal", []string{"./walpb", "./fileutil", "./wal/internal/frame", "./wal/internal/history"}},
	{"./snap", []string{"./walpb", "./fileutil"}},

	{"./wal/logstore", []string{"./wal", "./walpb", "./fileutil"}},

	// What proves the library, on all of it.
	{"./fuzz/oracle", library},
	{"./fuzz/harness", slices.Concat(library, []string{"./fuzz/oracle"})},
	{"./fuzz/crash", slices.Concat(library, []string{"./fuzz/oracle", "./fuzz/harness"})},
	{"./fuzz/faults", slices.Concat(library, []string{"./fuzz/oracle", "./fuzz/harness"})},
	{"./fuzz/rot", slices.Concat(library, []string{"./fuzz/oracle", "./fuzz/harness"})},
	{"./fuzz", nil}, // tests

	// Modules of their own: who imports the library does not get what they require.
	{"./tools/waldump/...", slices.Concat(library, []string{"./tools/waldump/...", anyModule})},
	{"./tools/raftkv/...", slices.Concat(library, []string{"./tools/raftkv/...", anyModule})},
	// Interop has the campaigns judge etcd's package as they judge ours.
	{"./tools/interop/...", slices.Concat(library, []string{"./fuzz/...", "./tools/interop/...", anyModule})},
	{"./tools/powercut/...", slices.Concat(library, []string{"./fuzz/oracle", "./tools/powercut/...", anyModule})},
	// Proof runs the campaigns, etcd's beside ours, and makes one table of them.
	{"./tools/proof/...", slices.Concat(library, []string{"./fuzz/...", "./tools/interop", "./tools/proof/...", anyModule})},
}

// kept says which packages of other modules are kept for some, although a floor allows any module.
// The first row that names an import decides.
var kept = []struct {
	imports string
	forDirs []string
}{
	// What etcd's own log package takes and returns: a comparison with it needs these types.
	{"go.etcd.io/raft/v3/raftpb", []string{"./tools/raftkv/...", "./tools/interop/...", "./tools/powercut/..."}},
	{"go.etcd.io/raft/...", []string{"./tools/raftkv/..."}},
	{"google.golang.org/grpc/...", []string{"./tools/raftkv/..."}},
	{"go.etcd.io/etcd/server/...", []string{"./tools/interop/...", "./tools/powercut/..."}},
}

// library is what we offer to others to import.
var library = []string{"./walpb", "./fileutil", "./fileutil/crashfs", "./wal", "./snap", "./wal/logstore"}

// anyModule allows what is neither ours nor in the standard library, unless kept keeps it.
const anyModule = "any other module"

// requirements are all the modules that come with the library. The first two are linked into
// whatever imports it, the others only into its tests.
var requirements = []string{
	"github.com/klauspost/crc32",
	"golang.org/x/sys",
	"github.com/google/go-cmp",
	"pgregory.net/rapid",
}

type floor struct {
	dir string
	may []string
}

func TestNoImportClimbs(t *testing.T) {
	for _, complaint := range checkImports(repository(t)) {
		t.Error(complaint)
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, complaint := range checkComments(repository(t)) {
		t.Error(complaint)
	}
}

func TestEveryLibraryPackageHasAnExampleThatRuns(t *testing.T) {
	for _, complaint := range checkExamples(repository(t)) {
		t.Error(complaint)
	}
}

func TestLibraryRequiresOnlyWhatItSays(t *testing.T) {
	var mod struct{ Require []struct{ Path string } }
	goEdit(t, &mod, "mod")
	var paths []string
	for _, r := range mod.Require {
		paths = append(paths, r.Path)
	}
	for _, complaint := range checkRequirements(paths) {
		t.Error(complaint)
	}
}

// TestWorkspaceHasEveryModule is what makes `go test work` test all of them.
func TestWorkspaceHasEveryModule(t *testing.T) {
	var work struct{ Use []struct{ DiskPath string } }
	goEdit(t, &work, "work")
	var used []string
	for _, u := range work.Use {
		used = append(used, path.Clean(u.DiskPath))
	}
	for _, complaint := range checkWorkspace(os.DirFS("."), used) {
		t.Error(complaint)
	}
}

// TestCheckersSeeWhatIsWrong gives each checker a small wrong tree: a checker that is content with
// everything would pass all the tests above.
func TestCheckersSeeWhatIsWrong(t *testing.T) {
	const ok = "// Package x is documented.\npackage x\n"
	tests := []struct {
		name  string
		check func(*testing.T, fs.FS) []string
		tree  map[string]string
		want  []string
	}{
		{
			"imports that fit", imports,
			map[string]string{
				"walpb/a.go":             ok + `import ("bytes"; "github.com/klauspost/crc32")`,
				"fileutil/a.go":          ok + `import "golang.org/x/sys/unix"`,
				"wal/a.go":               ok + `import "github.com/stele-wal/stele/walpb"`,
				"wal/a_test.go":          ok + `import "github.com/stele-wal/stele/testdata/testlogs"`,
				"tools/waldump/main.go":  ok + `import ("github.com/spf13/cobra"; "github.com/stele-wal/stele/wal")`,
				"tools/raftkv/raft/a.go": ok + `import ("go.etcd.io/raft/v3"; "google.golang.org/grpc"; "github.com/stele-wal/stele/tools/raftkv/kv")`,
				"tools/interop/a.go":     ok + `import ("go.etcd.io/etcd/server/v3/storage/wal"; "go.etcd.io/raft/v3/raftpb")`,
			},
			nil,
		},
		{
			"an import of a higher floor", imports,
			map[string]string{"walpb/a.go": ok + `import "github.com/stele-wal/stele/wal"`},
			[]string{"walpb/a.go imports ./wal: ./walpb may import only the standard library and github.com/klauspost/crc32"},
		},
		{
			"an import across a floor", imports,
			map[string]string{"snap/a.go": ok + `import ("github.com/stele-wal/stele/walpb"; "github.com/stele-wal/stele/wal")`},
			[]string{"snap/a.go imports ./wal: ./snap may import only the standard library, ./walpb and ./fileutil"},
		},
		{
			"an import of a package below one that is allowed", imports,
			map[string]string{"wal/a.go": ok + `import "github.com/stele-wal/stele/fileutil/crashfs"`},
			[]string{"wal/a.go imports ./fileutil/crashfs: ./wal may import only the standard library, ./walpb, ./fileutil, ./wal/internal/frame and ./wal/internal/history"},
		},
		{
			"another module in the library", imports,
			map[string]string{"fileutil/a_windows.go": ok + `import "github.com/pkg/errors"`},
			[]string{"fileutil/a_windows.go imports github.com/pkg/errors: ./fileutil may import only the standard library and golang.org/x/sys/..."},
		},
		{
			"a module whose name begins like one that is allowed", imports,
			map[string]string{"fileutil/a.go": ok + `import "golang.org/x/sysinfo"`},
			[]string{"fileutil/a.go imports golang.org/x/sysinfo: ./fileutil may import only the standard library and golang.org/x/sys/..."},
		},
		{
			"test data in what ships", imports,
			map[string]string{"tools/waldump/main.go": ok + `import "github.com/stele-wal/stele/testdata/testlogs"`},
			[]string{"tools/waldump/main.go imports ./testdata/testlogs: ./tools/waldump/... may import only the standard library, ./walpb, " +
				"./fileutil, ./fileutil/crashfs, ./wal, ./snap, ./wal/logstore, ./tools/waldump/... and any other module"},
		},
		{
			"raft and gRPC outside raftkv, etcd's server in it", imports,
			map[string]string{
				"tools/waldump/main.go":  ok + `import ("go.etcd.io/raft/v3/raftpb"; "google.golang.org/grpc/codes")`,
				"tools/raftkv/a/main.go": ok + `import "go.etcd.io/etcd/server/v3/embed"`,
			},
			[]string{
				"tools/raftkv/a/main.go imports go.etcd.io/etcd/server/v3/embed: go.etcd.io/etcd/server/... is kept for ./tools/interop/... and ./tools/powercut/...",
				"tools/waldump/main.go imports go.etcd.io/raft/v3/raftpb: go.etcd.io/raft/v3/raftpb is kept for ./tools/raftkv/..., ./tools/interop/... and ./tools/powercut/...",
				"tools/waldump/main.go imports google.golang.org/grpc/codes: google.golang.org/grpc/... is kept for ./tools/raftkv/...",
			},
		},
		{
			"a tool that imports another", imports,
			map[string]string{"tools/powercut/main.go": ok + `import "github.com/stele-wal/stele/tools/interop"`},
			[]string{"tools/powercut/main.go imports ./tools/interop: ./tools/powercut/... may import only the standard library, ./walpb, " +
				"./fileutil, ./fileutil/crashfs, ./wal, ./snap, ./wal/logstore, ./fuzz/oracle, ./tools/powercut/... and any other module"},
		},
		{
			"a package without a floor", imports,
			map[string]string{"util/a.go": ok},
			[]string{"util/a.go is in ./util, which no floor names: say in floors_test.go where it belongs"},
		},
		{
			"comments", comments,
			map[string]string{
				"a/a.go": "package a", "a/b.go": ok, // one of them is enough
				"b/a.go": "package b", "b/b_test.go": ok, // of a test is not
				"c/c_test.go": "package c_test",
				"d/d_test.go": ok,
				"e/e.go":      "// Copyright\n\npackage e",
			},
			[]string{
				"b has no package comment in any of its files",
				"c has no package comment in any of its files",
				"e has no package comment in any of its files",
			},
		},
		{
			"examples", examples,
			map[string]string{
				"walpb/a.go": ok, "walpb/a_test.go": "package x\nfunc Example() {\n\t// Output:\n}",
				// This one never runs.
				"wal/a.go": ok, "wal/a_test.go": "package x\nfunc Example() {\n\tprintln()\n}",
				"snap/a.go": ok,
				"fuzz/a.go": ok,
			},
			[]string{
				"snap has no Example that runs, that is, with an Output comment",
				"wal has no Example that runs, that is, with an Output comment",
			},
		},
		{
			"requirements",
			func(t *testing.T, _ fs.FS) []string {
				return checkRequirements([]string{"golang.org/x/sys", "github.com/klauspost/crc32", "github.com/pkg/errors", "pgregory.net/rapid"})
			},
			nil,
			[]string{
				"go.mod does not require github.com/google/go-cmp, which floors_test.go says it does",
				"go.mod requires github.com/pkg/errors: it may require only github.com/klauspost/crc32, golang.org/x/sys, github.com/google/go-cmp and pgregory.net/rapid",
			},
		},
		{
			"workspace",
			func(t *testing.T, tree fs.FS) []string { return checkWorkspace(tree, []string{".", "tools/a"}) },
			map[string]string{"go.mod": "", "tools/a/go.mod": "", "tools/b/go.mod": "", "wal/testdata/go.mod": ""},
			[]string{"go.work does not use ./tools/b: run go work use ./tools/b"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, text := range test.tree {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got := test.check(t, tree)
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(test.want, "\n\t"))
			}
		})
	}
}

func imports(t *testing.T, tree fs.FS) []string  { return checkImports(parse(t, tree)) }
func comments(t *testing.T, tree fs.FS) []string { return checkComments(parse(t, tree)) }
func examples(t *testing.T, tree fs.FS) []string { return checkExamples(parse(t, tree)) }

// checkImports returns a sentence for each import that floors and kept do not allow.
func checkImports(files map[string]*ast.File) (complaints []string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		dir := "./" + path.Dir(name)
		i := slices.IndexFunc(floors, func(f floor) bool { return matches(f.dir, dir) })
		if i < 0 {
			complaints = append(complaints, fmt.Sprintf("%s is in %s, which no floor names: say in floors_test.go where it belongs", name, dir))
			continue
		}
		for _, spec := range files[name].Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				complaints = append(complaints, fmt.Sprintf("%s: import %s: %v", name, spec.Path.Value, err))
				continue
			}
			if why := forbidden(dir, floors[i], ours(imported)); why != "" {
				complaints = append(complaints, fmt.Sprintf("%s imports %s: %s", name, ours(imported), why))
			}
		}
	}
	return complaints
}

// forbidden returns the rule that an import breaks, or "".
func forbidden(dir string, f floor, imported string) string {
	first, _, _ := strings.Cut(imported, "/")
	isOurs, isStandard := first == ".", !strings.Contains(first, ".")
	if isStandard {
		return ""
	}
	allowed := slices.ContainsFunc(f.may, func(may string) bool {
		return matches(may, imported) || may == anyModule && !isOurs
	})
	if !allowed {
		return fmt.Sprintf("%s may import only %s", f.dir, list(append([]string{"the standard library"}, f.may...)))
	}
	for _, k := range kept {
		if matches(k.imports, imported) {
			if slices.ContainsFunc(k.forDirs, func(d string) bool { return matches(d, dir) }) {
				return ""
			}
			return fmt.Sprintf("%s is kept for %s", k.imports, list(k.forDirs))
		}
	}
	return ""
}

// ours shortens an import path of this repository to the form that floors uses.
func ours(imported string) string {
	if rest, ok := strings.CutPrefix(imported, modulePath); ok && (rest == "" || rest[0] == '/') {
		return "." + rest
	}
	return imported
}

func matches(pattern, name string) bool {
	above, all := strings.CutSuffix(pattern, "/...")
	return name == above || all && strings.HasPrefix(name, above+"/")
}

// checkComments returns a sentence for each package that has no comment. A directory that holds
// nothing but tests must have one too, to say what they are about.
func checkComments(files map[string]*ast.File) (complaints []string) {
	ships := map[string]bool{} // directory -> has files that are not tests
	for name := range files {
		ships[path.Dir(name)] = ships[path.Dir(name)] || !strings.HasSuffix(name, "_test.go")
	}
	commented := map[string]bool{}
	for name, file := range files {
		if file.Doc != nil && (!ships[path.Dir(name)] || !strings.HasSuffix(name, "_test.go")) {
			commented[path.Dir(name)] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(ships)) {
		if !commented[dir] {
			complaints = append(complaints, dir+" has no package comment in any of its files")
		}
	}
	return complaints
}

// checkExamples returns a sentence for each package of the library that has no Example, or none
// that go test runs.
func checkExamples(files map[string]*ast.File) (complaints []string) {
	runs := map[string]bool{} // directory of the library -> has an Example that runs
	for name, file := range files {
		dir := path.Dir(name)
		if !slices.Contains(library, "./"+dir) {
			continue
		}
		runs[dir] = runs[dir] || slices.ContainsFunc(doc.Examples(file), func(e *doc.Example) bool {
			return strings.HasSuffix(name, "_test.go") && (e.Output != "" || e.EmptyOutput)
		})
	}
	for _, dir := range slices.Sorted(maps.Keys(runs)) {
		if !runs[dir] {
			complaints = append(complaints, dir+" has no Example that runs, that is, with an Output comment")
		}
	}
	return complaints
}

func checkRequirements(paths []string) (complaints []string) {
	for _, p := range paths {
		if !slices.Contains(requirements, p) {
			complaints = append(complaints, fmt.Sprintf("go.mod requires %s: it may require only %s", p, list(requirements)))
		}
	}
	for _, p := range requirements {
		if !slices.Contains(paths, p) {
			complaints = append(complaints, fmt.Sprintf("go.mod does not require %s, which floors_test.go says it does", p))
		}
	}
	return complaints
}

func checkWorkspace(tree fs.FS, used []string) (complaints []string) {
	err := walk(tree, func(name string) error {
		if path.Base(name) == "go.mod" && !slices.Contains(used, path.Dir(name)) {
			complaints = append(complaints, fmt.Sprintf("go.work does not use ./%[1]s: run go work use ./%[1]s", path.Dir(name)))
		}
		return nil
	})
	if err != nil {
		complaints = append(complaints, err.Error())
	}
	return complaints
}

// repository parses every Go file of the repository, of all its modules.
func repository(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := parse(t, os.DirFS("."))
	if files["floors_test.go"] == nil {
		t.Fatal("the walk did not even find this file")
	}
	return files
}

// parse returns the Go files of a tree by their names.
func parse(t *testing.T, tree fs.FS) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := walk(tree, func(name string) error {
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		mode := parser.ImportsOnly | parser.ParseComments
		if strings.HasSuffix(name, "_test.go") {
			mode = parser.ParseComments // Examples are functions
		}
		files[name], err = parser.ParseFile(token.NewFileSet(), name, text, mode)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// walk visits every file but those the go tool does not see either: what begins with a dot or an
// underscore, and directories named testdata, except the one at the root, which has a package.
func walk(tree fs.FS, visit func(name string) error) error {
	return fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		hidden := name != "." && (base[0] == '.' || base[0] == '_') || base == "testdata" && name != "testdata"
		switch {
		case d.IsDir() && hidden:
			return fs.SkipDir
		case d.IsDir() || hidden:
			return nil
		}
		return visit(name)
	})
}

// goEdit reads go.mod or go.work as the go tool does.
func goEdit(t *testing.T, into any, kind string) {
	t.Helper()
	out, err := exec.Command("go", kind, "edit", "-json").Output()
	if err != nil {
		t.Fatalf("go %s edit: %v", kind, err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("go %s edit: %v", kind, err)
	}
}

// list writes names as a sentence does: a, b and c.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
