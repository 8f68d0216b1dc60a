package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
)

// What README.md shows is what the program prints. With -update, README.md is what it prints.
func TestReadmeShowsWhatIsPrinted(t *testing.T) {
	name, err := filepath.Abs("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range testlogs.Defects(t) {
		t.Chdir(filepath.Dir(dir))
		break
	}
	shown := 0
	console := regexp.MustCompile("(?s)```console\n\\$ waldump ([^\n]*)\n.*?```")
	printed := console.ReplaceAllFunc(readme, func(block []byte) []byte {
		shown++
		command := string(console.FindSubmatch(block)[1])
		code, stdout, stderr := call(strings.Fields(command)...)
		return fmt.Appendf(nil, "```console\n$ waldump %s\n%s%s$ echo $?\n%d\n```", command, stdout, stderr, code)
	})
	if shown < 5 {
		t.Errorf("README.md shows %d commands", shown)
	}
	if bytes.Equal(printed, readme) {
		return
	}
	if *update {
		if err := os.WriteFile(name, printed, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("README.md does not show what is printed; go test ./tools/waldump -run Readme -update makes it so. It would be:\n%s", printed)
}

// The commands in README.md that it shows no output of name what is there.
func TestReadmesOtherCommandsAreThere(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(readme, -1) {
		for line := range strings.Lines(string(block[1])) {
			command, _, _ := strings.Cut(line, "#")
			words := strings.Fields(command)
			found++
			switch words[0] {
			case "waldump":
				c, rest, err := new(app).commands().Find(words[1:])
				if err == nil {
					err = c.ParseFlags(rest)
				}
				if err != nil {
					t.Errorf("%s: %v", command, err)
				}
			case "go":
				name, _, _ := strings.Cut(words[len(words)-1], "@")
				if out, err := exec.Command("go", "list", "-f", "{{.Name}}", name).CombinedOutput(); err != nil || string(out) != "main\n" {
					t.Errorf("%s: %v: %s", command, err, out)
				}
			default:
				t.Errorf("%s: this test does not know what that is", command)
			}
		}
	}
	if found < 2 {
		t.Errorf("README.md has %d commands", found)
	}
}
