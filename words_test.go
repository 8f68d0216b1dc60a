package stele_test

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

// words are those that the comments, strings and documents of this repository do without, each with
// what to write instead. They match as whole words in upper or lower case, also across the end of a
// line.
var words = []struct{ word, instead string }{
	// In a log, "the record behind this one" is read both as the one before and as the one after.
	{"behind", `say "after", "beyond", "follows" or, of a member, "lags"`},

	// A reader, a caller, a process and an operator each have a name.
	{"nobody", "name the actor"},
	{"somebody", "name the actor"},
	{"whoever", "name the actor"},

	// What is not modern technical English.
	{"tells whether", `say "reports whether"`},
	{"hears of", `say "is notified of"`},
	{"hear of", `say "are notified of"`},
	{"needless", `say "unnecessary"`},
	{"mere", `say "only" or "alone"`},
	{"manieth", `say "nth"`},
	{"so many of", `say "the first n"`},
	{"as it were", "leave it out"},
}

// maxColumns is how wide a line of a comment or of a document may be. A tab counts as four.
const maxColumns = 100

// quoting is the file that has to write the words in order to forbid them.
const quoting = "words_test.go"

func TestWordsArePlain(t *testing.T) {
	for _, complaint := range checkWords(t, os.DirFS(".")) {
		name, _, _ := strings.Cut(complaint, ":")
		if name != quoting {
			t.Error(complaint)
		}
	}
}

func TestWordCheckerSeesWhatIsWrong(t *testing.T) {
	const a = "package a\n\n"
	wide := strings.Repeat("wide ", 30)
	tests := []struct {
		name, file, text string
		want             []string // the complaints, without the name of the file
	}{
		{"plain", "a.go", a + "// A record follows.\nvar a = `a record`\n", nil},
		{"a word in a comment", "a.go", a + "// A record\n// Behind it.\nvar a = 1\n", []string{"4: \"Behind\": say \"after\", \"beyond\", \"follows\" or, of a member, \"lags\""}},
		{"a word in a trailing comment", "a.go", a + "var a = 1 // for nobody\n", []string{"3: \"nobody\": name the actor"}},
		{"a word in a string", "a.go", a + "var a = \"of whoever\"\n", []string{"3: \"whoever\": name the actor"}},
		{"a word in a raw string of a test", "a_test.go", a + "var a = `one\ntwo mere`\n", []string{"4: \"mere\": say \"only\" or \"alone\""}},
		{"words across the end of a line", "a.go", a + "// F tells\n// whether.\nfunc F() {}\n", []string{"3: \"tells whether\": say \"reports whether\""}},
		{"words across comments in a function", "a.go", a + "func f() {\n\t// it tells\n\t// whether\n}\n", []string{"4: \"tells whether\": say \"reports whether\""}},
		{"a part of a word, and an identifier", "a.go", a + "// The merely needlessly behindhand.\nvar behind = 1\n", nil},
		{"a word in a document", "a.md", "# A\n\n* hears\n  of it\n", []string{"3: \"hears of\": say \"is notified of\""}},
		{"a word in a code block of a document", "a.md", "```sh\necho nobody\n```\n", []string{"2: \"nobody\": name the actor"}},

		{"a wide comment", "a.go", a + "// " + wide + "\nvar a = 1\n", []string{"3: 153 columns, of 100"}},
		{"a comment that tabs make wide", "a.go", a + "func f() {\n\t\t\t// " + wide[:89] + "\n}\n", []string{"4: 104 columns, of 100"}},
		{"a wide comment after code", "a.go", a + "var a = `" + wide[:60] + "` // " + wide[:30] + "\n", []string{"3: 104 columns, of 100"}},
		{"a wide line in a comment of many", "a.go", a + "/*\nA\n" + wide + "\n*/\nvar a = 1\n", []string{"5: 150 columns, of 100"}},
		{"wide code", "a.go", a + "var a = `" + wide + "`\n\nfunc f() {} // short\n", nil},
		{"what cannot break in a comment", "a.go", a + "// See https://" + strings.Repeat("a", 100) + "\n//\n//\t" + wide + "\n//\n//go:generate " + wide + "\nvar a = 1\n", nil},
		{"the output of an Example", "a_test.go", a + "func Example() {\n\t// Output:\n\t// " + wide + "\n}\n", nil},
		{"a wide paragraph", "a.md", "# A\n\nA\n" + wide + "\n", []string{"4: 150 columns, of 100"}},
		{"a wide item", "a.md", "- " + wide + "\n", []string{"1: 152 columns, of 100"}},
		{"letters, not bytes", "a.md", strings.Repeat("—", 50) + " " + strings.Repeat("—", 51) + "\n" + strings.Repeat("é ", 50) + "\n", []string{"1: 102 columns, of 100"}},
		{"what cannot break in a document", "a.md", "| " + wide + " |\n\n```\n" + wide + "\n```\n\n[a](https://" + strings.Repeat("a", 100) + ")\n", nil},

		{"index/term in a comment", "a.go", a + "// An entry is index/term.\nvar a = 1\n", []string{"3: \"index/term\": the term comes first"}},
		{"index/term in a document", "a.md", "As Index/Term.\n", []string{"1: \"Index/Term\": the term comes first"}},
		{"term/index", "a.go", a + "// An entry is term/index.\nvar a = fmt.Sprintf(`%s %d/%d`, s, e.Term, e.Index)\n", nil},
		{"a format of index/term", "a.go", a + "var a = fmt.Sprintf(`%s %d/%d`, s, e.Index, e.Term)\n", []string{"3: %d/%d of e.Index and e.Term: the term comes first"}},
		{"a format that numbers its arguments", "a.go", a + "var a = fmt.Sprintf(`%[2]d/%[1]d`, term, index)\n", []string{"3: %[2]d/%[1]d of index and term: the term comes first"}},
		{"a format of calls and sums", "a.go", a + "var a = fail(t, `%5.1f%% %d/%d-%03d/%d`, f, m.GetTerm(), m.GetIndex(), lastIndex+1, x.lastTerm)\n", []string{"3: %03d/%d of lastIndex + 1 and x.lastTerm: the term comes first"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var want []string
			for _, w := range test.want {
				want = append(want, test.file+":"+w)
			}
			tree := fstest.MapFS{test.file: {Data: []byte(test.text)}}
			if got := checkWords(t, tree); !slices.Equal(got, want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
		})
	}
}

// checkWords returns a sentence for each word in a comment, a string or a document that words
// forbids, for each line of a comment or of prose that is too wide, and for each place that puts an
// index before its term.
func checkWords(t *testing.T, tree fs.FS) (complaints []string) {
	err := walk(tree, func(name string) error {
		if path.Ext(name) != ".go" && path.Ext(name) != ".md" {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		p := page{lines: strings.Split(string(text), "\n")}
		if path.Ext(name) == ".md" {
			p.document()
		} else if err := p.source(name, text); err != nil {
			return err
		}
		slices.SortStableFunc(p.found, func(a, b found) int { return cmp.Compare(a.line, b.line) })
		for _, f := range p.found {
			complaints = append(complaints, fmt.Sprintf("%s:%d: %s", name, f.line, f.complaint))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return complaints
}

// page is a file, and what is wrong with it.
type page struct {
	lines []string
	found []found
}

type found struct {
	line      int // from 1
	complaint string
}

func (p *page) complain(line int, format string, args ...any) {
	p.found = append(p.found, found{line, fmt.Sprintf(format, args...)})
}

// document checks a file of markdown: all of it for words, its paragraphs and lists for width.
func (p *page) document() {
	p.words(1, strings.Join(p.lines, "\n"))
	fenced := false
	for i, line := range p.lines {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
		case fenced, strings.HasPrefix(line, "|"):
		default:
			p.width(i+1, line)
		}
	}
}

// source checks a file of Go: comments and strings for words, comments for width, calls for the
// order of term and index.
func (p *page) source(name string, text []byte) error {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	line := func(at token.Pos) int { return files.Position(at).Line }
	for _, group := range file.Comments {
		p.words(line(group.Pos()), plain(text[group.Pos()-file.FileStart:group.End()-file.FileStart]))
		output := false // of an Example, which is as wide as it is
		for n := line(group.Pos()); n <= line(group.End()); n++ {
			_, comment, _ := strings.Cut(p.lines[n-1], "//")
			output = output || strings.HasPrefix(comment, " Output:") || strings.HasPrefix(comment, " Unordered output:")
			if !output && !strings.HasPrefix(comment, "\t") && !strings.HasPrefix(comment, "go:") {
				p.width(n, p.lines[n-1])
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				p.words(line(n.Pos()), n.Value)
			}
		case *ast.CallExpr:
			p.formats(line(n.Pos()), n)
		}
		return true
	})
	return nil
}

// plain blanks what begins the lines of a comment, so that words on both sides of it are neighbours.
func plain(comment []byte) string {
	return string(bytes.ReplaceAll(comment, []byte("//"), nil))
}

var (
	forbiddenWord = func() *regexp.Regexp {
		var all []string
		for _, w := range words {
			all = append(all, strings.ReplaceAll(w.word, " ", `\s+`))
		}
		return regexp.MustCompile(`(?i)\b(` + strings.Join(all, "|") + `)\b`)
	}()
	indexTerm = regexp.MustCompile(`(?i)\bindex(es)?/terms?\b`)
	space     = regexp.MustCompile(`\s+`)
)

// words checks a text that begins in a line.
func (p *page) words(line int, text string) {
	for _, at := range forbiddenWord.FindAllStringIndex(text, -1) {
		word := space.ReplaceAllString(text[at[0]:at[1]], " ")
		i := slices.IndexFunc(words, func(w struct{ word, instead string }) bool { return strings.EqualFold(w.word, word) })
		p.complain(line+strings.Count(text[:at[0]], "\n"), "%q: %s", word, words[i].instead)
	}
	for _, at := range indexTerm.FindAllStringIndex(text, -1) {
		p.complain(line+strings.Count(text[:at[0]], "\n"), "%q: the term comes first", text[at[0]:at[1]])
	}
}

// width checks a line, unless a word in it would be too wide in a line of its own.
func (p *page) width(line int, text string) {
	columns := func(s string) int { return utf8.RuneCountInString(s) + 3*strings.Count(s, "\t") }
	widest := 0
	for word := range strings.FieldsSeq(text) {
		widest = max(widest, columns(word))
	}
	if columns(text) > maxColumns && widest < maxColumns {
		p.complain(line, "%d columns, of %d", columns(text), maxColumns)
	}
}

var (
	verb     = regexp.MustCompile(`%(?:%|[-+# 0]*(?:\[(\d+)\])?[\d.]*([a-zA-Z]))`)
	verbPair = regexp.MustCompile(`(%[-+# 0]*(?:\[\d+\])?[\d.]*[a-zA-Z])/(%[-+# 0]*(?:\[\d+\])?[\d.]*[a-zA-Z])`)
)

// formats checks a call that has a format and, right after it, arguments.
func (p *page) formats(line int, call *ast.CallExpr) {
	for i, arg := range call.Args {
		lit, ok := arg.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			continue
		}
		format, err := strconv.Unquote(lit.Value)
		if err != nil {
			continue
		}
		args := call.Args[i+1:]
		of := map[int]ast.Expr{} // place of a verb in format -> what it prints
		next := 0
		for _, at := range verb.FindAllStringSubmatchIndex(format, -1) {
			if at[4] < 0 { // %%
				continue
			}
			if at[2] >= 0 {
				n, _ := strconv.Atoi(format[at[2]:at[3]])
				next = n - 1
			}
			if next >= 0 && next < len(args) {
				of[at[0]] = args[next]
			}
			next++
		}
		for _, at := range verbPair.FindAllStringSubmatchIndex(format, -1) {
			first, second := of[at[2]], of[at[4]]
			if isNamed(first, "index") && isNamed(second, "term") {
				p.complain(line, "%s of %s and %s: the term comes first", format[at[0]:at[1]], types.ExprString(first), types.ExprString(second))
			}
		}
	}
}

// isNamed reports whether the name of an expression, or of a part of a sum, ends with a word.
func isNamed(e ast.Expr, word string) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return strings.HasSuffix(strings.ToLower(e.Name), word)
	case *ast.SelectorExpr:
		return isNamed(e.Sel, word)
	case *ast.CallExpr:
		return isNamed(e.Fun, word)
	case *ast.UnaryExpr:
		return isNamed(e.X, word)
	case *ast.BinaryExpr:
		return isNamed(e.X, word) || isNamed(e.Y, word)
	}
	return false
}
