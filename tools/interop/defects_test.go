package interop

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	etcdpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// behave runs the functions whose results testlogs.Behaviour records, on a copy for each that
// writes, and returns them in the same words.
func behave(t *testing.T, dir string, at walpb.Snapshot) []string {
	t.Helper()
	snap := func() *etcdpb.Snapshot { return &etcdpb.Snapshot{Index: new(at.Index), Term: new(at.Term)} }
	var lines []string
	read := func(what, dir string, open func(*zap.Logger, string, *etcdpb.Snapshot) (*etcd.WAL, error)) {
		w, err := open(zap.NewNop(), dir, snap())
		if err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", what, err))
			return
		}
		_, state, entries, err := w.ReadAll()
		var s []string
		for _, e := range entries {
			s = append(s, fmt.Sprintf("%d/%d", e.GetTerm(), e.GetIndex()))
		}
		lines = append(lines, fmt.Sprintf("%s: ents=[%s] hs=%v err=%v", what, strings.Join(s, " "), state, orNil(err)))
		w.Close()
	}
	read("OpenForRead+ReadAll", dir, etcd.OpenForRead)
	state, err := etcd.Verify(zap.NewNop(), dir, snap())
	lines = append(lines, fmt.Sprintf("Verify: %v %v", state, orNil(err)))
	snapshots, err := etcd.ValidSnapshotEntries(zap.NewNop(), dir)
	lines = append(lines, fmt.Sprintf("ValidSnapshotEntries: %v %v", snapshots, orNil(err)))
	read("Open+ReadAll", copyOf(t, dir), etcd.Open)
	repaired := copyOf(t, dir)
	lines = append(lines, fmt.Sprintf("Repair: %v", etcd.Repair(zap.NewNop(), repaired)))
	read("Open+ReadAll after Repair", repaired, etcd.Open)
	return lines
}

func orNil(err error) any {
	if err == nil {
		return "<nil>"
	}
	return err
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "wal")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// normal leaves out what differs from run to run: addresses, printed where a type was meant, and
// the spaces that protobuf varies so that no program relies on them.
func normal(line string) string {
	line = regexp.MustCompile(`block type \d+`).ReplaceAllString(line, "block type *")
	return strings.Join(strings.Fields(strings.NewReplacer("<nil> <nil>", "<nil>").Replace(line)), " ")
}

func TestRecordedBehaviourIsWhatEtcdDoes(t *testing.T) {
	dirs := testlogs.Defects(t)
	compared := 0
	t.Logf("%-36s %-42s %s", "log", "etcd, opened to append", "ours")
	for section := range strings.SplitSeq(testlogs.Behaviour, "\n## ") {
		title, body, _ := strings.Cut(section, "\n")
		name, rest, _ := strings.Cut(title, " ")
		dir, ok := dirs[name]
		if !ok {
			continue
		}
		var at walpb.Snapshot
		if _, err := fmt.Sscanf(rest, "(open at snapshot %d/%d)", &at.Term, &at.Index); err != nil {
			t.Fatalf("%q: %v", title, err)
		}
		recorded := map[string]string{}
		for line := range strings.Lines(body) {
			what, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			recorded[what] = normal(line)
		}
		var opened string
		for _, line := range behave(t, dir, at) {
			what, result, _ := strings.Cut(line, ":")
			if what == "Open+ReadAll" {
				opened = strings.TrimSpace(result)
			}
			compared++
			if got := normal(line); got != recorded[what] {
				t.Errorf("%s\n     got %s\nrecorded %s", name, got, recorded[what])
			}
		}
		t.Logf("%-36s %-42.42s %s", name, brief(opened), verdictOf(t, dir, at))
	}
	if want := 6 * len(dirs); compared != want || len(dirs) < 13 {
		t.Errorf("compared %d results of %d logs, want %d", compared, len(dirs), want)
	}
}

// brief is how many entries etcd read, or why it did not.
func brief(result string) string {
	read, err, _ := strings.Cut(result, " err=")
	if err != "<nil>" {
		return err
	}
	entries, _, _ := strings.Cut(strings.TrimPrefix(read, "ents=["), "]")
	return fmt.Sprintf("no error; %d entries", len(strings.Fields(entries)))
}

// verdictOf is what ours says to a log.
func verdictOf(t *testing.T, dir string, at walpb.Snapshot) string {
	t.Helper()
	report, err := wal.Check(dir, nil)
	if err != nil {
		return err.Error()
	}
	content, _, err := ReadOurs(dir, at.Index, at, nil)
	if err != nil {
		var corrupt *wal.CorruptError
		if errors.As(err, &corrupt) {
			return fmt.Sprintf("%v: %v at %d", report.Verdict, corrupt.Kind, corrupt.Offset)
		}
		return fmt.Sprintf("%v; %v", report.Verdict, err)
	}
	return fmt.Sprintf("%v; %d entries", report.Verdict, len(content.Entries))
}

func TestOursDiffersWhereEtcdIsWrong(t *testing.T) {
	dirs := testlogs.Defects(t)
	for name, want := range map[string]string{
		"00-good-small":                     "clean; 6 entries",
		"01-good-multiseg":                  "clean; 9 entries",
		"10-resurrect-local-snapshot-22442": "clean; 0 entries",
		"12-snapshot-never-recorded":        "clean; wal: snapshot 1/3: snapshot record not found",
		"20-zero-length-word-midlog":        "corrupt",
		"23-payload-bitflip-midlog":         "corrupt",
		"25-zeroed-sector-midlog":           "corrupt",
		"30-type-entry-to-state":            "corrupt",
		"34-type-entry-to-7":                "corrupt",
		"50-torn-tail-short-file":           "torn, unproven; 3 entries",
		"51-torn-tail-zero-sector":          "torn, unproven; 3 entries",
		"60-stale-tmp-first-crash":          "clean; 3 entries",
	} {
		at := map[string]walpb.Snapshot{"10-resurrect-local-snapshot-22442": {Index: 4, Term: 2}, "12-snapshot-never-recorded": {Index: 3, Term: 1}}[name]
		got := verdictOf(t, dirs[name], at)
		if !strings.HasPrefix(got, want) || strings.Contains(want, ";") && got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	// What etcd cuts off is still there afterwards, and ours says so.
	dir := copyOf(t, dirs["20-zero-length-word-midlog"])
	before := files(t, dir)
	if _, err := wal.Open(dir, nil); err == nil {
		t.Error("Open took a zeroed length word for the end")
	}
	if after := files(t, dir); !slices.EqualFunc(before, after, bytes.Equal) {
		t.Error("Open changed a corrupt log")
	}
}

func files(t *testing.T, dir string) (contents [][]byte) {
	t.Helper()
	names, err := SegmentNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, b)
	}
	return contents
}
