package stele_test

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

var update = flag.Bool("update", false, "have README.md show what the programs print")

// screen is what README.md fills, at most, before it goes on with the source.
var screen = struct{ lines, columns int }{60, 100}

func TestReadmeFitsOneScreen(t *testing.T) {
	first, _, ok := strings.Cut(readFile(t, "README.md"), "## Reading the source")
	if !ok {
		t.Fatal("README.md does not say how to read the source")
	}
	if lines := strings.Count(first, "\n"); lines > screen.lines {
		t.Errorf("README.md has %d lines before the source, of %d", lines, screen.lines)
	}
	for line := range strings.Lines(first) {
		if n := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")); n > screen.columns+1 {
			t.Errorf("%d columns: %s", n-1, line)
		}
	}
}

// What README.md shows of waldump is the first part of what it prints, folded. With -update,
// README.md is made so.
func TestReadmeShowsWhatWaldumpPrints(t *testing.T) {
	readme := readFile(t, "README.md")
	program := filepath.Join(t.TempDir(), "waldump")
	run(t, "go", "build", "-o", program, "./tools/waldump")
	logs := testlogs.Defects(t)
	console := regexp.MustCompile("(?s)```console\n\\$ waldump verify ([^\n]*)\n.*?```")
	shown := 0
	printed := console.ReplaceAllStringFunc(readme, func(block string) string {
		shown++
		name := console.FindStringSubmatch(block)[1]
		for _, dir := range logs {
			if filepath.Base(dir) == name {
				c := exec.Command(program, "verify", name)
				c.Dir = filepath.Dir(dir)
				out, _ := c.Output() // it fails, as the log is damaged
				found, _, _ := bytes.Cut(out, []byte("\n\n"+name))
				return fmt.Sprintf("```console\n$ waldump verify %s\n%s```", name, fold(string(found)))
			}
		}
		t.Errorf("there is no log %s", name)
		return block
	})
	switch {
	case shown == 0:
		t.Error("README.md does not show what waldump prints")
	case printed == readme:
	case *update:
		if err := os.WriteFile("README.md", []byte(printed), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("README.md does not show what is printed; go test -run Readme -update . makes it so. It would be:\n%s", printed)
	}
}

// fold breaks lines at the last space that the screen has room for.
func fold(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		for line = strings.TrimRight(line, "\n"); len(line) > screen.columns; {
			at := strings.LastIndexByte(line[:screen.columns+1], ' ')
			if at <= 0 {
				break
			}
			out.WriteString(line[:at] + "\n")
			line = line[at+1:]
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

// TestReadmeNamesProgramsThatAreThere resolves what README.md runs. The longer ones are run by
// their own tests, and by .ci/run.
func TestReadmeNamesProgramsThatAreThere(t *testing.T) {
	commands := regexp.MustCompile("`go run (\\./[a-z/]+)( [^`]*)?`").FindAllStringSubmatch(readFile(t, "README.md"), -1)
	if len(commands) < 3 {
		t.Errorf("README.md runs %d programs", len(commands))
	}
	for _, c := range commands {
		if name := strings.TrimSpace(run(t, "go", "list", "-f", "{{.Name}}", c[1])); name != "main" {
			t.Errorf("%s is package %s", c[1], name)
		}
	}
}

// TestReadmeNamesFilesThatAreThere finds what README.md links, and the sources that it names.
func TestReadmeNamesFilesThatAreThere(t *testing.T) {
	names := regexp.MustCompile("\\]\\(([^:)]+)\\)|`([a-z]+(?:/[A-Za-z_.]+)+|snap|fuzz)`").FindAllStringSubmatch(readFile(t, "README.md"), -1)
	if len(names) < 20 {
		t.Errorf("README.md names %d files", len(names))
	}
	for _, n := range names {
		if _, err := os.Stat(filepath.FromSlash(n[1] + n[2])); err != nil {
			t.Error(err)
		}
	}
}

// TestReadmesProgramRuns compares the program in README.md with Example_ready.
func TestReadmesProgramRuns(t *testing.T) {
	block := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(readFile(t, "README.md"))
	if block == nil {
		t.Fatal("README.md has no program")
	}
	var indented strings.Builder
	for line := range strings.Lines(block[1]) {
		indented.WriteString("\t" + line)
	}
	if !strings.Contains(readFile(t, "readme_test.go"), indented.String()) {
		t.Errorf("readme_test.go does not have\n%s", indented.String())
	}
}

// Example_ready is the loop that README.md shows, on what a consensus protocol would ask for.
func Example_ready() {
	dir, err := os.MkdirTemp("", "stele")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	w, err := wal.Create(filepath.Join(dir, "wal"), []byte("member 1"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	first, second := walpb.Entry{Term: 1, Index: 1, Data: []byte("a")}, walpb.Entry{Term: 1, Index: 2, Data: []byte("b")}
	ready := []struct {
		State              walpb.HardState
		Entries, Committed []walpb.Entry
		Messages           []string
	}{
		{State: walpb.HardState{Term: 1, Vote: 1}, Messages: []string{"vote for me"}},
		{Entries: []walpb.Entry{first, second}, Messages: []string{"append a and b"}},
		{State: walpb.HardState{Term: 1, Vote: 1, Commit: 2}, Committed: []walpb.Entry{first, second}},
	}
	send := func(messages []string) {
		for _, m := range messages {
			fmt.Println("send:", m)
		}
	}
	apply := func(entries []walpb.Entry) {
		for _, e := range entries {
			fmt.Printf("apply %d/%d: %s\n", e.Term, e.Index, e.Data)
		}
	}
	for _, rd := range ready { // of etcd's raft, or of something like it
		// A snapshot from the leader goes first: store.Save(s), then w.SaveSnapshot(s.Record()).
		if err := w.Save(rd.State, rd.Entries); err != nil {
			log.Fatal(err) // the next start goes on from what is durable
		}
		send(rd.Messages) // from here on the entries survive any crash
		apply(rd.Committed)
	}
	// Output:
	// send: vote for me
	// send: append a and b
	// apply 1/1: a
	// apply 1/2: b
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}
