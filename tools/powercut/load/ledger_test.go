package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fuzz/oracle"
)

// limited takes a number of lines and then no more.
type limited struct {
	bytes.Buffer
	lines int
}

var errFull = errors.New("full")

func (l *limited) Write(b []byte) (int, error) {
	if l.lines--; l.lines < 0 {
		return 0, errFull
	}
	return l.Buffer.Write(b)
}

// membered lets two members save, one after the other, and returns where and what they reported.
func membered(t *testing.T) (string, *Ledger) {
	t.Helper()
	dir, ledger := t.TempDir(), NewLedger()
	for range 2 {
		out := &limited{lines: 150}
		if err := Member(dir, out); !errors.Is(err, errFull) {
			t.Fatal(err)
		}
		reports, opened := strings.CutPrefix(out.String(), Opened)
		if !opened {
			t.Fatalf("the member reports %q", out.String())
		}
		if err := ledger.Read(strings.NewReader(reports)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, ledger
}

func TestWhatMembersReportIsThere(t *testing.T) {
	dir, ledger := membered(t)
	if err := ledger.Judge(dir); err != nil {
		t.Error(err)
	}
	if ledger.Acknowledged() < 250 || ledger.snapshot == 0 || len(ledger.entries) == 0 {
		t.Errorf("%d entries acknowledged, %d of them not in the snapshot of %d", ledger.Acknowledged(), len(ledger.entries), ledger.snapshot)
	}
}

func TestALedgerSeesWhatIsNot(t *testing.T) {
	dir, _ := membered(t)
	s, err := observe(dir)
	if err != nil {
		t.Fatal(err)
	}
	last := s.Log.Entries[len(s.Log.Entries)-1]
	for _, report := range []string{
		fmt.Sprintf("entry %d %d\n", last.Index+1, last.Term),
		fmt.Sprintf("entry %d %d\n", last.Index, last.Term+1),
		fmt.Sprintf("snapshot %d %d\n", last.Index, last.Term),
	} {
		ledger := NewLedger()
		if err := ledger.Read(strings.NewReader(report)); err != nil {
			t.Fatal(err)
		}
		if f := new(oracle.Failure); !errors.As(ledger.Judge(dir), &f) || f.Verdict != oracle.Lost {
			t.Errorf("with the report %q nothing is lost", report)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "member", "snap")); err != nil {
		t.Fatal(err)
	}
	if f := new(oracle.Failure); !errors.As(NewLedger().Judge(dir), &f) || f.Verdict != oracle.Lost {
		t.Error("a snapshot that is gone is not missed")
	}
}

func TestAReportThatIsCutShortDoesNotCount(t *testing.T) {
	ledger := NewLedger()
	if err := ledger.Read(strings.NewReader("entry 1 1\nentry 2")); err != nil || ledger.Acknowledged() != 1 {
		t.Errorf("%d entries, %v", ledger.Acknowledged(), err)
	}
	for _, bad := range []io.Reader{strings.NewReader("entry x 1\n"), strings.NewReader("entry 1 1\n")} {
		if err := ledger.Read(bad); err == nil {
			t.Error("a wrong report is taken")
		}
	}
}
