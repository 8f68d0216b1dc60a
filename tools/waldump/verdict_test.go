package main

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/testdata/testlogs"
)

func TestRealLogsAreClean(t *testing.T) {
	for name, dir := range testlogs.Etcd(t) {
		archive := filepath.Join(repository(t), "testdata", "testlogs", "etcd", strings.ReplaceAll(name, "/", "-")+".tar.gz")
		segment := filepath.Join(dir, "member", "wal", "0000000000000000-0000000000000000.wal")
		for _, path := range []string{dir, filepath.Join(dir, "member"), filepath.Join(dir, "member", "wal"), segment, archive} {
			for _, command := range []string{"verify", "info", "dump"} {
				if code, _, errs := call(command, path); code != exitClean || errs != "" {
					t.Errorf("%s %s: exit %d: %s", command, path, code, errs)
				}
			}
		}
	}
}

func TestVerifySaysThatTheLogsOfEveryWriterAreClean(t *testing.T) {
	for name, dir := range testlogs.Writers(t) {
		if code, out, errs := call("verify", dir); code != exitClean {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errs)
		}
	}
}

func TestEveryCommandHasTheExitCodeOfTheVerdict(t *testing.T) {
	for name, dir := range testlogs.Defects(t) {
		want, ok := defects[name]
		if !ok {
			t.Errorf("%s: no exit code is stated for it", name)
			continue
		}
		before := digest(t, dir)
		for _, args := range [][]string{{"verify"}, {"verify", "-o", "json"}, {"dump"}, {"dump", "-o", "ndjson"}, {"info"}, {"info", "-o", "json"}, {"repair"}} {
			code, out, errs := call(append(args, dir)...)
			if code != want {
				t.Errorf("%s %v: exit %d, want %d: %s", name, args, code, want, errs)
			}
			if args[0] == "verify" && len(args) == 1 && want != exitClean && !strings.Contains(out, "\n  next: ") {
				t.Errorf("%s: verify does not say what to do next: %s", name, out)
			}
			if args[0] == "dump" && want != exitClean && (!strings.Contains(errs, "offset ") || !strings.Contains(errs, "\nnext: ")) {
				t.Errorf("%s %v: no place or no next step: %s", name, args, errs)
			}
		}
		if digest(t, dir) != before {
			t.Errorf("%s: something was written", name)
		}
	}
}

var update = flag.Bool("update", false, "write what dump, verify and info print to testdata/golden")

func TestTextIsAsItWas(t *testing.T) {
	root := filepath.Join(repository(t), "testdata", "testlogs")
	logs := map[string]string{
		"etcd-3.7-small": filepath.Join(root, "etcd", "3.7-small.tar.gz"),
		"etcd-3.4-small": filepath.Join(root, "etcd", "3.4-small.tar.gz"),
	}
	for name := range defects {
		logs[name] = filepath.Join(root, "defects.tar.gz", name)
	}
	for name, path := range logs {
		for _, command := range []string{"dump", "verify", "info", "repair"} {
			_, out, errs := call(command, path)
			got := strings.ReplaceAll(out+errs, root, "TESTLOGS")
			golden := filepath.Join("testdata", "golden", name+"."+command+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != strings.ReplaceAll(string(want), "\r\n", "\n") {
				t.Errorf("%s differs from %s (run with -update if it should):\n%s", command, golden, got)
			}
		}
	}
}

// FuzzDump gives all commands a log of two segments. They may say what they like, but not panic,
// and agree about it.
func FuzzDump(f *testing.F) {
	for _, dir := range testlogs.Defects(f) {
		var files [][]byte
		for _, name := range list(f, dir) {
			if strings.HasSuffix(name, ".wal") {
				files = append(files, bytes.TrimRight(read(f, filepath.Join(dir, name)), "\x00"))
			}
		}
		files = append(files, nil)
		f.Add(files[0], files[1])
	}
	f.Fuzz(func(t *testing.T, first, second []byte) { look(t, first, second) })
}

func look(t *testing.T, first, second []byte) {
	t.Helper()
	const dir = "/log"
	files := map[string][]byte{dir + "/0000000000000000-0000000000000000.wal": first}
	if second != nil {
		files[dir+"/0000000000000001-0000000000000005.wal"] = second
	}
	disk := crashfs.Load(files)
	call := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs, fs: disk}
		return a.run(args), out.String(), errs.String()
	}
	untouched := disk.Changes()
	verdict, _, errs := call("verify", dir)
	if verdict > exitCorrupt {
		t.Fatalf("verify: exit %d: %s", verdict, errs)
	}
	for _, args := range [][]string{{"dump"}, {"dump", "-o", "ndjson", "--live"}, {"info"}, {"info", "-o", "json"}, {"repair"}} {
		code, out, errs := call(append(args, dir)...)
		if code != verdict {
			t.Fatalf("%v: exit %d, but verify: %d: %s", args, code, verdict, errs)
		}
		if slices.Contains(args, "ndjson") {
			lines(t, out)
		}
	}
	if disk.Changes() != untouched {
		t.Fatal("something was written")
	}
	if verdict != exitTorn {
		return
	}
	if code, _, errs := call("repair", "--apply", dir); code != exitClean {
		t.Fatalf("repair: exit %d: %s", code, errs)
	}
	if code, out, errs := call("verify", dir); code != exitClean {
		t.Fatalf("after the repair: exit %d: %s%s", code, out, errs)
	}
}

func TestMutatedLogsAreJudgedAndNeverPanic(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	looks := 0
	for name, dir := range testlogs.Defects(t, "00-good-small", "01-good-multiseg", "51-torn-tail-zero-sector") {
		var segments [][]byte
		for _, s := range list(t, dir) {
			segments = append(segments, read(t, filepath.Join(dir, s)))
		}
		segments = append(segments, nil)
		for range 300 {
			first, second := slices.Clone(segments[0]), slices.Clone(segments[1])
			target := first
			if second != nil && r.IntN(2) == 0 {
				target = second
			}
			for range 1 + r.IntN(3) {
				at := r.IntN(min(len(target), 4096))
				switch r.IntN(4) {
				case 0:
					target[at] ^= 1 << r.IntN(8)
				case 1:
					target[at] = byte(r.Uint32())
				case 2:
					clear(target[at:min(at+512, len(target))])
				case 3:
					copy(target[at:], target[r.IntN(len(target)):])
				}
			}
			if r.IntN(4) == 0 {
				first = first[:r.IntN(len(first))]
			}
			look(t, first, second)
			if t.Failed() {
				t.Fatalf("made from %s", name)
			}
			looks++
		}
	}
	if looks != 900 {
		t.Errorf("%d logs were looked at", looks)
	}
}
