package wal_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/fileutil/crashfs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// D10, R8. A log's directory may be a mount point, and hold files of others.
func TestCreateKeepsWhatItDidNotMake(t *testing.T) {
	others := map[string][]byte{
		"log/precious.txt":       []byte("precious"),
		"log/lost+found/":        nil,
		"log/sub/deep.wal":       []byte("not here"),
		"log/old.wal.broken":     []byte("evidence"),
		"log.tmp/" + segment0:    []byte("etcd makes its log in here, and removes what it finds"),
		"log/x.tmp":              []byte("no number"),
		"log/snap.db":            {0, 1, 2},
		"log/" + segment0 + ".1": []byte("a backup"),
	}
	f := crashfs.Load(others)
	before := f.Tree()
	l := newLab(f)
	w, err := wal.Create(labDir, []byte("meta"), l.options())
	must(t, err)
	must(t, l.settle())
	l.fill(t, w, 4)
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 5, Term: 1}))
	must(t, w.Release(5))
	must(t, w.Close())
	w, err = wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle())
	must(t, w.Close())
	now := f.Tree()
	for name, b := range before {
		if got, ok := now[name]; !ok || !bytes.Equal(got, b) {
			t.Errorf("%s is gone or changed", name)
		}
	}
}

// D27. etcd removes a directory that is called like the log's with .tmp after it, and does not say
// so.
func TestDirectoryBesideTheLogIsLeftAlone(t *testing.T) {
	f := crashfs.Load(map[string][]byte{"log.tmp/precious": []byte("x")})
	w, err := wal.Create(labDir, nil, &wal.Options{FS: f})
	must(t, err)
	must(t, w.Close())
	if b, err := f.ReadFile("log.tmp/precious"); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// The first segment gets its name when its head is durable, and the record of the empty snapshot is
// part of that head. A first segment without it is damaged: otherwise the log could be opened, and
// replayed from nothing.
func TestTheFirstSegmentBeginsWithTheEmptySnapshot(t *testing.T) {
	entry := entryRecords(1, 1, 1)[0]
	for name, list := range map[string][]walpb.Record{
		"nothing after the metadata":                  head()[:2],
		"an entry after the metadata":                 append(head()[:2:2], entry),
		"the record of another snapshot":              append(head()[:2:2], snapshotRecord(1, 1), entry),
		"the record of an empty snapshot of a term":   append(head()[:2:2], snapshotRecord(1, 0), entry),
		"a hard state, and then the empty snapshot":   append(head()[:2:2], stateRecord(1, 0), head()[2]),
		"metadata twice, and then the empty snapshot": append(head()[:2:2], head()[1:]...),
	} {
		f := crashfs.Load(map[string][]byte{"/log/" + segment0: append(forge(0, list...), make([]byte, 4096)...)})
		if r := check(t, f); r.Verdict != wal.Corrupt {
			t.Errorf("%s: Check: %v", name, r.Verdict)
		}
		if w, err := wal.Open("/log", &wal.Options{FS: f}); err == nil {
			t.Errorf("%s: Open opens it", name)
			w.Close()
		}
	}
	// A segment of ours, with all after the metadata zeroed.
	for _, change := range [][]func(*wal.Options){nil, {plain}} {
		b, list := unmarked(t, 5, change...)
		clear(b[list[1].Offset+list[1].Size:])
		refused(t, crashfs.Load(map[string][]byte{"/log/" + segment0: b}), segment0, list[1].Offset+list[1].Size)
	}
}

// D11, R7. etcd syncs neither the directory that it creates nor the one that it repairs.
func TestNamesAreSyncedAfterWhatTheyName(t *testing.T) {
	second, third := "0000000000000001-", "0000000000000002-"

	l := newLab(crashfs.New())
	w, err := wal.Create(labDir+"/deep/er", []byte("meta"), l.options())
	must(t, err)
	must(t, l.settle())
	must(t, w.Close())
	ops := l.did()
	inOrder(t, ops, "mkdir log", "syncdir .", "mkdir deep", "syncdir log", "mkdir deep/er", "syncdir deep")
	inOrder(t, ops, "create deep/er/spare", "write deep/er/spare", "syncdata deep/er/spare", "rename deep/er/spare deep/er/"+segment0, "syncdir deep/er")
	for _, op := range ops[:position(t, ops, "rename", 0)] {
		if strings.HasPrefix(op, "syncdata") && !strings.HasSuffix(op, "spare") {
			t.Errorf("before there is a log, %s", op)
		}
	}

	// An existing directory may have been made a moment ago by a process that did not sync it.
	l = newLab(crashfs.New())
	must(t, l.Mkdir(labDir, 0o700))
	l.did()
	w, err = wal.Create(labDir, []byte("meta"), l.options())
	must(t, err)
	must(t, l.settle())
	inOrder(t, l.did(), "syncdir .", "rename spare "+segment0, "syncdir log")

	// A cut: the old segment is whole and durable before the new one has its name, and the name is
	// durable before the call that needed the segment returns.
	l.fill(t, w, 2)
	ops = l.did()
	renamed := position(t, ops, "rename spare "+second, 0)
	inOrder(t, ops, "rename spare "+second, "write "+second, "syncdata "+second, "syncdir log")
	for _, op := range ops[renamed:] {
		if strings.Contains(op, segment0) {
			t.Errorf("after the cut, %s", op)
		}
	}
	full, err := l.ReadFile(labDir + "/" + segment0)
	must(t, err)
	after := l.Crash(crashfs.DropAll)
	if b, err := after.ReadFile(labDir + "/" + segment0); err != nil || !bytes.Equal(b, full) {
		t.Errorf("of the full segment, %d bytes are durable, %v; not %d", len(b), err, len(full))
	}

	// Released segments stay away.
	i := l.fill(t, w, 3)
	for range 2 {
		i++
		l.save(t, w, state(1, i-1), entries(1, i, i, 1000))
	}
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: i - 1, Term: 1}))
	l.did()
	must(t, w.Release(i-1))
	ops = l.did()
	inOrder(t, ops, "remove "+segment0, "remove "+second, "syncdir log")
	if list := names(l.Crash(crashfs.DropAll)); len(list) == 0 || slices.Contains(list, segment0) || !slices.ContainsFunc(list, func(n string) bool { return strings.HasPrefix(n, third) }) {
		t.Errorf("after Release and a crash there are %v", list)
	}
	must(t, w.Close())

	// A trim: the copy is durable before the original goes, and the zeros are before anything is
	// appended.
	torn := damage(l.FS.Crash(crashfs.KeepAll), l.segments()[0], func(b []byte) []byte {
		end := len(bytes.TrimRight(b, "\x00")) + 64
		copy(b[end&^7:], "torn")
		return b
	})
	l = newLab(torn)
	w, err = wal.Open(labDir, l.options())
	must(t, err)
	must(t, l.settle())
	ops = l.did()
	copied := position(t, ops, "rename "+third, 0)
	if !strings.Contains(ops[copied], ".torn") {
		t.Fatalf("not a copy: %s", ops[copied])
	}
	segment := l.segments()[0]
	inOrder(t, ops, "write "+segment+".", "syncdata "+segment+".", "rename "+segment+".", "syncdir log", "write "+segment+" ", "syncdata "+segment, "syncdir log")
	must(t, w.Close())

	// A repair has the same order.
	l = newLab(damage(l.FS.Crash(crashfs.KeepAll), segment, func(b []byte) []byte {
		copy(b[(len(bytes.TrimRight(b, "\x00"))+64)&^7:], "torn")
		return b
	}))
	plan, err := wal.PlanRepair(labDir, l.options())
	must(t, err)
	if ops := l.did(); len(ops) > 0 {
		t.Errorf("planning did %v", ops)
	}
	must(t, plan.Apply())
	inOrder(t, l.did(), "write "+segment+".", "syncdata "+segment+".", "rename "+segment+".", "syncdir log", "write "+segment+" ", "syncdata "+segment, "syncdir log")
}

// position returns where in a list of operations the nth line with a prefix stands, and fails if it
// does not.
func position(t *testing.T, ops []string, prefix string, from int) int {
	t.Helper()
	for i := from; i < len(ops); i++ {
		if strings.HasPrefix(ops[i], prefix) {
			return i
		}
	}
	t.Fatalf("no %q at or after %d in\n%s", prefix, from, strings.Join(ops, "\n"))
	return 0
}

// inOrder fails unless lines with these prefixes follow one another.
func inOrder(t *testing.T, ops []string, prefixes ...string) {
	t.Helper()
	at := 0
	for _, p := range prefixes {
		at = position(t, ops, p, at) + 1
	}
}
