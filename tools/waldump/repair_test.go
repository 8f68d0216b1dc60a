package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
)

func TestRepairTrimsATornTailAndCanBeUndone(t *testing.T) {
	logs := testlogs.Defects(t, "50-torn-tail-short-file", "51-torn-tail-zero-sector", "61-stale-tmp-second-crash")
	logs["ours"] = ours(t, func(b []byte, end int64) { copy(b[end:], "half of a frame that no sync made durable") })
	for name, dir := range logs {
		t.Run(name, func(t *testing.T) {
			before := map[string][]byte{}
			for _, e := range list(t, dir) {
				before[e] = read(t, filepath.Join(dir, e))
			}
			_, dumped, _ := call("dump", "-o", "ndjson", dir)
			if code, _, errs := call("repair", "--apply", dir); code != exitClean {
				t.Fatalf("exit %d: %s", code, errs)
			}
			plan, err := filepath.Glob(filepath.Join(dir, "*.torn"))
			if err != nil || len(plan) != 1 {
				t.Fatalf("%v, %v: want one copy", plan, err)
			}
			var segment string
			var offset int64
			base := strings.TrimSuffix(filepath.Base(plan[0]), ".torn")
			if i := strings.LastIndex(base, "."); i >= 0 {
				segment = base[:i]
				fmt.Sscan(base[i+1:], &offset)
			}
			kept := read(t, plan[0])
			if !bytes.Equal(kept, before[segment][offset:offset+int64(len(kept))]) || len(bytes.Trim(before[segment][offset+int64(len(kept)):], "\x00")) > 0 {
				t.Error("the copy is not what was dropped")
			}
			if info, err := os.Stat(plan[0]); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
				t.Errorf("the copy's mode is %v, %v", info.Mode(), err)
			}
			after := read(t, filepath.Join(dir, segment))
			// It ends with a page, if it did not.
			if want := (len(before[segment]) + 4095) / 4096 * 4096; len(after) != want || !bytes.Equal(after[:offset], before[segment][:offset]) || len(bytes.Trim(after[offset:], "\x00")) > 0 {
				t.Error("the segment is not what was there before its torn tail, and then zeros to the end of a page")
			}
			if code, out, errs := call("repair", dir); code != exitClean || !strings.HasPrefix(out, "clean: ") {
				t.Errorf("a second repair: exit %d: %s%s", code, out, errs)
			}
			if _, again, _ := call("dump", "-o", "ndjson", dir); again != dumped {
				t.Errorf("the records are not those from before:\n%s\n%s", dumped, again)
			}

			// To write the copy back is to undo it.
			copy(after[offset:], kept)
			if !bytes.Equal(after[:len(before[segment])], before[segment]) {
				t.Error("the copy does not bring the segment back")
			}
			w, err := wal.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRepairSetsAnUnbornSegmentAside(t *testing.T) {
	dir := testlogs.Defects(t, "01-good-multiseg")["01-good-multiseg"]
	const last = "0000000000000002-0000000000000009.wal"
	b := read(t, filepath.Join(dir, last))
	clear(b[20:])
	b[19] = 1             // some byte after the whole frame, so that the copy must hold both
	file(t, dir, last, b) // a crash in a cut: the metadata is not there
	if code, out, errs := call("repair", dir); code != exitTorn || !strings.Contains(out, "remove   the segment "+last) {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	code, out, errs := call("repair", "--apply", dir)
	if code != exitClean || slices.Contains(list(t, dir), last) {
		t.Errorf("exit %d, %v: %s%s", code, list(t, dir), out, errs)
	}
	if code, out, errs := call("verify", dir); code != exitClean || !strings.Contains(out, "last entry 1/8, commit 7") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	kept := read(t, filepath.Join(dir, last+".0.torn"))
	if !bytes.Equal(bytes.TrimRight(kept, "\x00"), bytes.TrimRight(b[:20], "\x00")) || !strings.Contains(out, "dd if=") {
		t.Errorf("the copy holds % x, and to undo: %s", kept, out)
	}
}

func TestRepairRefusesDamageAndChangesNothing(t *testing.T) {
	for name, dir := range testlogs.Defects(t) {
		if defects[name] != exitCorrupt {
			continue
		}
		before := digest(t, dir)
		for _, args := range [][]string{{"repair", dir}, {"repair", "--apply", dir}} {
			code, out, errs := call(args...)
			if code != exitCorrupt || out != "" || !strings.Contains(errs, "refused: 0000000000000000-0000000000000000.wal: offset ") || !strings.Contains(errs, "restore this member from a snapshot") {
				t.Errorf("%s: %v: exit %d: %s%s", name, args, code, out, errs)
			}
		}
		if digest(t, dir) != before {
			t.Errorf("%s: something was written", name)
		}
	}
}

func TestRepairRefusesALogThatIsOpen(t *testing.T) {
	dir := ours(t, func(b []byte, end int64) { copy(b[end:], "half of a frame that no sync made durable") })
	held, err := fileutil.OS{}.OpenFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := held.Lock(); err != nil {
		t.Fatal(err)
	}
	before := digest(t, dir)
	code, _, errs := call("repair", "--apply", dir)
	if code != exitFailed || !strings.Contains(errs, "locked") || !strings.Contains(errs, "next: stop the process") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if runtime.GOOS == "linux" { // elsewhere it cannot be known that it is open
		for _, command := range []string{"verify", "dump", "info", "repair"} {
			if code, _, errs := call(command, dir); code != exitClean {
				t.Errorf("%s: an unfinished batch of a running process: exit %d: %s", command, code, errs)
			}
		}
		if _, out, _ := call("repair", dir); !strings.Contains(out, "a batch that it has not finished") {
			t.Errorf("repair does not say that it is the running process's: %s", out)
		}
		if _, out, _ := call("verify", dir); !strings.Contains(out, "in the middle of writing") || !strings.Contains(out, "open in a running process") {
			t.Errorf("verify does not say that it is the running process's: %s", out)
		}
	}
	if digest(t, dir) != before {
		t.Error("something was written")
	}
}

func TestArchiveIsNotRepaired(t *testing.T) {
	path := filepath.Join(repository(t), "testdata", "testlogs", "defects.tar.gz", "50-torn-tail-short-file")
	if code, out, errs := call("repair", "--apply", path); code != exitUsage || !strings.Contains(errs, "unpack it") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}
