package main

import (
	"bytes"
	"fmt"
	"os"
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
