package stele_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// trapsFile says what other logs got wrong. Comments cite its entries by their tags.
const trapsFile = "wal/TRAPS.md"

var (
	trapTag   = regexp.MustCompile(`\b[DTR]\d{1,2}\b`)
	trapEntry = regexp.MustCompile(`(?m)^- \*\*([DTR]\d{1,2})\*\* `)
	trapTest  = regexp.MustCompile("`([\\w/]+\\.)?(Test\\w+)`")
)

func TestTrapsAndTestsNameEachOther(t *testing.T) {
	for _, complaint := range checkTraps(t, os.DirFS(".")) {
		t.Error(complaint)
	}
}

func TestTrapCheckerSeesWhatIsWrong(t *testing.T) {
	const entry = "# Traps\n\n- **D1** A log\n  is lost. Held by `TestA`.\n"
	const test = "package wal_test\n\n// D1. It is not.\nfunc TestA(t *testing.T) {}\n"
	for _, c := range []struct {
		name, traps, test string
		want              []string
	}{
		{"both ways", entry, test, nil},
		{"a tag in a function", entry, "package wal_test\n\nfunc TestA(t *testing.T) {\n\tf() // D1\n}\n", nil},
		{"a tag that is not there", entry, test + "\n// T9\n", []string{"wal/a_test.go:6: T9 is not in wal/TRAPS.md"}},
		{"a tag of an entry that is not one", "D1 is `TestA`.\n", test, []string{"wal/a_test.go:3: D1 is not in wal/TRAPS.md"}},
		{"no test is named", "- **D1** A log is lost.\n", test, []string{"wal/TRAPS.md: D1 names no test"}},
		{"a test that is not there", strings.Replace(entry, "TestA", "TestB", 1), test, []string{"wal/TRAPS.md: D1: there is no wal.TestB"}},
		{"a test of another package", strings.Replace(entry, "TestA", "snap.TestA", 1), test, []string{"wal/TRAPS.md: D1: there is no snap.TestA"}},
		{"a test that does not cite it", entry, "package wal_test\n\nfunc TestA(t *testing.T) {}\n\n// D1\n", []string{"wal/TRAPS.md: D1: wal.TestA does not cite it"}},
		{"an entry twice", entry + entry[9:], test, []string{"wal/TRAPS.md: D1 is there twice"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := fstest.MapFS{trapsFile: {Data: []byte(c.traps)}, "wal/a_test.go": {Data: []byte(c.test)}}
			if got := checkTraps(t, tree); !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

// checkTraps returns a sentence for each tag in a comment that trapsFile does not have, and for
// each entry of trapsFile that names no test, one that is not there, or one of package wal that
// does not cite the entry.
func checkTraps(t *testing.T, tree fs.FS) (complaints []string) {
	text, err := fs.ReadFile(tree, trapsFile)
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{} // by tag
	for _, m := range trapEntry.FindAllSubmatchIndex(text, -1) {
		tag, rest := string(text[m[2]:m[3]]), text[m[1]:]
		if next := trapEntry.FindIndex(rest); next != nil {
			rest = rest[:next[0]]
		}
		if _, twice := entries[tag]; twice {
			complaints = append(complaints, fmt.Sprintf("%s: %s is there twice", trapsFile, tag))
		}
		entries[tag] = string(rest)
	}
	tests := map[string][]string{} // by package and name: the tags that each cites
	err = walk(tree, func(name string) error {
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				tests[path.Dir(name)+"."+f.Name.Name] = nil
			}
		}
		for _, group := range file.Comments {
			for _, tag := range trapTag.FindAllString(group.Text(), -1) {
				if _, ok := entries[tag]; !ok {
					complaints = append(complaints, fmt.Sprintf("%s: %s is not in %s", at(files, group), tag, trapsFile))
				}
				if f := funcOf(file, group); f != nil {
					test := path.Dir(name) + "." + f.Name.Name
					tests[test] = append(tests[test], tag)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range slices.Sorted(maps.Keys(entries)) {
		named := trapTest.FindAllStringSubmatch(entries[tag], -1)
		if len(named) == 0 {
			complaints = append(complaints, fmt.Sprintf("%s: %s names no test", trapsFile, tag))
		}
		for _, n := range named {
			test := n[1] + n[2]
			if n[1] == "" {
				test = "wal." + n[2]
			}
			if cited, ok := tests[test]; !ok {
				complaints = append(complaints, fmt.Sprintf("%s: %s: there is no %s", trapsFile, tag, test))
			} else if n[1] == "" && !slices.Contains(cited, tag) {
				complaints = append(complaints, fmt.Sprintf("%s: %s: %s does not cite it", trapsFile, tag, test))
			}
		}
	}
	return complaints
}

// at returns the name of the file and the line at which a comment begins.
func at(files *token.FileSet, c *ast.CommentGroup) string {
	p := files.Position(c.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// funcOf returns the function that a comment is of or in, or nil.
func funcOf(file *ast.File, c *ast.CommentGroup) *ast.FuncDecl {
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && (f.Doc == c || f.Pos() <= c.Pos() && c.End() <= f.End()) {
			return f
		}
	}
	return nil
}
