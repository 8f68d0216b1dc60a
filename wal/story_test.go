package wal_test

import (
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

var update = flag.Bool("update", false, "write what happens into the stories in testdata")

// Each story in testdata is the life of a log. Lines that begin with # tell it, the others are
// commands, and after ---- stands what they print: the methods of story say what each does.
// Segments have short names, without the zeros: 0-0.wal, 1-5.wal.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d stories, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			must(t, err)
			got := tell(t, string(want))
			if *update {
				must(t, os.WriteFile(file, []byte(got), 0o644))
			} else if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("%s (-told +happened; -update writes what happens):\n%s", file, diff)
			}
		})
	}
}

// tell runs the commands of a story, and returns the story with what they print.
func tell(t *testing.T, text string) string {
	s := &story{t: t, flipped: map[string]wal.Record{}}
	s.begin(crashfs.New())
	defer s.end()
	var paragraphs []string
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		asked, _, _ := strings.Cut(paragraph, "\n----")
		s.out.Reset()
		for line := range strings.Lines(asked) {
			if line = strings.TrimSpace(line); line[0] != '#' {
				s.run(line)
			}
		}
		if s.out.Len() > 0 {
			asked += "\n----\n" + strings.TrimSpace(s.out.String())
		}
		paragraphs = append(paragraphs, asked)
	}
	return strings.Join(paragraphs, "\n\n") + "\n"
}

// A story is the log that a story in testdata is about. What the Writer does in the background is
// done after each command.
type story struct {
	t   *testing.T
	lab *lab
	w   *wal.Writer // of no log, and closed, if no process has the log open
	cut *crashfs.FS // what a power cut has left
	out strings.Builder

	flipped map[string]wal.Record // by term and index, the entries that flip has found
}

// begin has the story go on with a file system, which no process has open.
func (s *story) begin(f *crashfs.FS) {
	s.lab, s.w, s.cut = newLab(f), &wal.Writer{}, nil
}

// end ends the process. It changes nothing on the disk any more.
func (s *story) end() {
	s.lab.onOp = func(crashfs.Op) error { return os.ErrClosed }
	s.w.Close()
}

func (s *story) options() *wal.Options {
	o := s.lab.options()
	o.Observer.Trimmed = func(segment string, offset, n int64, copied string) {
		s.say("trimmed %d bytes at %d of %s, kept in %s", n, offset, segment, copied)
	}
	return o
}

var segmentNames = regexp.MustCompile(`\b0{0,15}([0-9a-f]+)-0{0,15}([0-9a-f]+)\.wal`)

// say prints a line, with short names.
func (s *story) say(format string, args ...any) {
	fmt.Fprintln(&s.out, short(fmt.Sprintf(format, args...)))
}

func (s *story) run(line string) {
	s.t.Helper()
	words := strings.Fields(line)
	do := map[string]func(words []string) error{
		"create":    s.create,
		"open":      s.open,
		"save":      s.save,
		"snapshot":  s.snapshot,
		"release":   s.release,
		"close":     s.close,
		"kill":      s.kill,
		"power":     s.power,
		"flip":      s.flip,
		"remove":    s.remove,
		"ls":        s.ls,
		"did":       s.did,
		"records":   s.records,
		"replay":    s.replay,
		"snapshots": s.snapshots,
		"check":     s.check,
	}[words[0]]
	if do == nil {
		s.t.Fatalf("%q is no command", line)
	}
	if words[0] != "did" {
		s.lab.did()
	}
	err := do(words[1:])
	s.lab.settle()
	switch {
	case s.cut != nil:
		s.say("the power fails")
		s.end()
		s.begin(s.cut)
	case err != nil:
		s.say("%v", err)
	}
}

func (s *story) create([]string) error {
	w, err := wal.Create(labDir, []byte("meta"), s.options())
	if err == nil {
		s.w = w
	}
	return err
}

func (s *story) open([]string) error {
	w, err := wal.Open(labDir, s.options())
	if err == nil {
		s.w = w
	}
	return err
}

// save takes a hard state as "term=2 vote=1 commit=4", or a part of it, and entries as "2/3" or, if
// they are of one term, "2/3..7". With "size=1000" each has that many bytes.
func (s *story) save(words []string) error {
	hard, list, size := walpb.HardState{}, []walpb.Entry(nil), uint64(10)
	numbers := map[string]*uint64{"term": &hard.Term, "vote": &hard.Vote, "commit": &hard.Commit, "size": &size}
	for _, word := range words {
		if name, number, ok := strings.Cut(word, "="); ok {
			*numbers[name] = s.number(number)
		}
	}
	for _, word := range words {
		if term, indexes, ok := strings.Cut(word, "/"); ok {
			from, to, many := strings.Cut(indexes, "..")
			if !many {
				to = from
			}
			list = append(list, entries(s.number(term), s.number(from), s.number(to), int(size))...)
		}
	}
	return s.w.Save(hard, list)
}

func (s *story) snapshot(words []string) error { return s.w.SaveSnapshot(s.id(words[0])) }

func (s *story) release(words []string) error { return s.w.Release(s.number(words[0])) }

func (s *story) close([]string) error { return s.w.Close() }

// kill ends the process. The system keeps what it wrote.
func (s *story) kill([]string) error {
	left := s.lab.Clone()
	s.end()
	s.begin(left)
	return nil
}

// power has the power fail before an operation, as in "power fails at syncdata 0-0.wal keeping
// all". What was not synced is then there, with "keeping all"; or it is not, with "keeping
// nothing"; or, with "losing 512..1024", all is there but the sectors from one offset of that file
// to the other.
func (s *story) power(words []string) error {
	operation, name, left := words[2], words[3], words[5]
	names := []string{name} // and the one that it had before, by which crashfs may know it
	choose := crashfs.KeepAll
	if left == "nothing" {
		choose = crashfs.DropAll
	} else if first, end, ok := strings.Cut(left, ".."); ok {
		from, to := int64(s.number(first)), int64(s.number(end))
		choose = func(places []crashfs.Place, choices []crashfs.Choice) {
			crashfs.KeepAll(places, choices)
			for i, p := range places {
				if p.Kind == crashfs.Sector && from <= p.Off && p.Off < to && slices.Contains(names, short(path.Base(p.Path))) {
					choices[i] = crashfs.Choice{}
				}
			}
		}
	}
	s.lab.onOp = func(op crashfs.Op) error {
		if op.Kind == crashfs.OpRename && short(path.Base(op.NewName)) == name {
			names = append(names, path.Base(op.Name))
		}
		if s.cut == nil && string(op.Kind) == operation && short(path.Base(op.Name)) == name {
			s.cut = s.lab.Crash(choose)
		}
		if s.cut != nil {
			return os.ErrClosed
		}
		return nil
	}
	return nil
}

// flip flips a bit in the data of an entry; the second time it flips it back.
func (s *story) flip(words []string) error {
	id := s.id(words[0])
	for r, err := range wal.Records(labDir, 0, &wal.Options{FS: s.lab.FS}) {
		var e walpb.Entry
		if err == nil && r.Type == walpb.TypeEntry && e.UnmarshalLenient(r.Data) == nil && e.Term == id.Term && e.Index == id.Index {
			r.Data = nil
			s.flipped[words[0]] = r
		}
	}
	r, ok := s.flipped[words[0]]
	if !ok {
		return fmt.Errorf("there is no entry %s", words[0])
	}
	s.begin(damage(s.lab.FS, r.Segment, func(b []byte) []byte {
		b[r.Offset+r.Size-10] ^= 1
		return b
	}))
	return nil
}

func (s *story) remove(words []string) error { return s.lab.FS.Remove(labDir + "/" + words[0]) }

// ls prints the files of the directory, with their sizes.
func (s *story) ls([]string) error {
	for _, name := range names(s.lab.FS) {
		s.say("%s %d", name, len(s.lab.Tree()[labDir+"/"+name]))
	}
	return nil
}

// did prints what the command before it did to the disk.
func (s *story) did([]string) error {
	for _, line := range s.lab.did() {
		s.say("%s", line)
	}
	return nil
}

// records prints where each record begins, what it says, and where it says that its batch begins.
func (s *story) records([]string) error {
	segment := ""
	for r, err := range wal.ScanAll(labDir, &wal.Options{FS: s.lab.FS}) {
		if err != nil {
			s.say("%v", err)
			continue
		}
		if r.Segment != segment {
			segment = r.Segment
			s.say("%s", segment)
		}
		what := r.Type.String()
		var e walpb.Entry
		var hard walpb.HardState
		var snapshot walpb.Snapshot
		switch r.Type {
		case walpb.TypeEntry:
			must(s.t, e.UnmarshalLenient(r.Data))
			what += fmt.Sprintf(" %d/%d", e.Term, e.Index)
		case walpb.TypeState:
			must(s.t, hard.UnmarshalLenient(r.Data))
			what += " " + hardState(hard)
		case walpb.TypeSnapshot:
			must(s.t, snapshot.UnmarshalLenient(r.Data))
			what += fmt.Sprintf(" %d/%d", snapshot.Term, snapshot.Index)
		}
		if r.SyncedTo > 0 {
			what += fmt.Sprintf(", synced to %d", r.SyncedTo)
		}
		s.say("%6d %s", r.Offset, what)
	}
	return nil
}

// replay prints what the log holds after a snapshot, or from the beginning.
func (s *story) replay(words []string) error {
	var from walpb.Snapshot
	if len(words) > 0 {
		from = s.id(words[1])
	}
	log, err := replay(s.lab.FS, from)
	if err != nil {
		return err
	}
	s.say("%s", hardState(log.State))
	s.say("entries %s", brief(log.Entries))
	return nil
}

// snapshots prints those from which the log can be replayed.
func (s *story) snapshots([]string) error {
	list, err := wal.Snapshots(wal.Records(labDir, 0, &wal.Options{FS: s.lab.FS}))
	for _, snapshot := range list {
		s.say("%d/%d", snapshot.Term, snapshot.Index)
	}
	return err
}

func (s *story) check([]string) error {
	r, err := wal.Check(labDir, &wal.Options{FS: s.lab.FS})
	if err != nil {
		return err
	}
	s.say("%v, last entry %d/%d", r.Verdict, r.LastTerm, r.LastIndex)
	for _, f := range r.Findings {
		what := f.Kind.String()
		if f.Detail != "" {
			what += ": " + f.Detail
		}
		s.say("%s: offset %d: %s (%v: %s)", f.Segment, f.Offset, what, f.Verdict, f.Because)
	}
	return nil
}

// short shortens the names of segments.
func short(text string) string { return segmentNames.ReplaceAllString(text, "$1-$2.wal") }

func hardState(s walpb.HardState) string {
	return fmt.Sprintf("term=%d vote=%d commit=%d", s.Term, s.Vote, s.Commit)
}

// brief returns entries as save takes them.
func brief(list []walpb.Entry) string {
	var b []string
	for len(list) > 0 {
		n := slices.IndexFunc(list, func(e walpb.Entry) bool { return e.Term != list[0].Term })
		if n < 0 {
			n = len(list)
		}
		b = append(b, fmt.Sprintf("%d/%d", list[0].Term, list[0].Index))
		if n > 1 {
			b[len(b)-1] += fmt.Sprintf("..%d", list[n-1].Index)
		}
		list = list[n:]
	}
	if len(b) == 0 {
		return "none"
	}
	return strings.Join(b, " ")
}

// id reads a term and an index, as in 2/4.
func (s *story) id(word string) walpb.Snapshot {
	s.t.Helper()
	term, index, _ := strings.Cut(word, "/")
	return walpb.Snapshot{Term: s.number(term), Index: s.number(index)}
}

func (s *story) number(word string) uint64 {
	s.t.Helper()
	n, err := strconv.ParseUint(word, 10, 64)
	must(s.t, err)
	return n
}
