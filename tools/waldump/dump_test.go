package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

func TestDumpFindsWhatTheIndependentReaderFound(t *testing.T) {
	kinds := []string{"normal", "confchange", "confchangev2"}
	for name, dir := range testlogs.Etcd(t) {
		t.Run(name, func(t *testing.T) {
			code, out, errs := call("dump", "-o", "ndjson", dir)
			if code != exitClean || errs != "" {
				t.Fatalf("exit %d: %s", code, errs)
			}
			got, rows := lines(t, out), testlogs.Rows(t, dir)
			if len(got) != len(rows) {
				t.Fatalf("%d records, the reader found %d", len(got), len(rows))
			}
			for i, row := range rows {
				l := got[i]
				want := line{Segment: row.Segment, Offset: row.Offset, Size: 8 + row.Len + row.Pad, Type: row.Type, CRC: fmt.Sprintf("%08x", row.CRC),
					Term: row.Term, Index: row.Index, Commit: row.Commit, Data: l.Data, ConfState: l.ConfState}
				switch row.Type {
				case "state":
					want.Vote = fmt.Sprintf("%x", row.Vote)
				case "entry":
					want.Kind = kinds[row.EntryType]
					if (l.Data != nil) != row.HasData || l.Data != nil && (len(*l.Data) != row.DataLen || !bytes.HasPrefix(*l.Data, row.DataPrefix)) {
						t.Errorf("row %d: data %v, want %d bytes from %x", i, l.Data, row.DataLen, row.DataPrefix)
					}
				case "snapshot":
					if (l.ConfState != nil) != (row.ConfState != nil) || l.ConfState != nil && !bytes.Equal(*l.ConfState, row.ConfState) {
						t.Errorf("row %d: conf_state %v, want %x", i, l.ConfState, row.ConfState)
					}
				case "metadata":
					if node, cluster, ok := etcdMember(*l.Data); !ok || node != row.NodeID || cluster != row.ClusterID {
						t.Errorf("row %d: member %d, cluster %d, want %d, %d", i, node, cluster, row.NodeID, row.ClusterID)
					}
				}
				if l != want {
					t.Errorf("row %d: got %+v, want %+v", i, l, want)
				}
			}
		})
	}
}

func TestDumpGoesOnAfterDamage(t *testing.T) {
	dir := testlogs.Defects(t, "23-payload-bitflip-midlog")["23-payload-bitflip-midlog"]
	code, out, errs := call("dump", dir)
	if code != exitCorrupt {
		t.Errorf("exit %d: %s", code, errs)
	}
	finding := strings.Index(out, "!!    1376  corrupt: checksum mismatch")
	before, after := strings.Index(out, "\n      1352  "), strings.Index(out, "\n      2008  ")
	if before < 0 || finding < before || after < finding {
		t.Errorf("the finding is at %d, the records around it at %d and %d:\n%s", finding, before, after, out)
	}
	_, out, errs = call("dump", "-o", "ndjson", dir)
	if all := lines(t, out); len(all) != 14 || all[13].Index != 0 || all[13].Commit != 5 {
		t.Errorf("ndjson: %d records, want 14: %+v", len(all), all)
	}
	if !strings.Contains(errs, "offset 1376: corrupt: checksum mismatch") {
		t.Errorf("ndjson does not tell of the finding: %s", errs)
	}
}

func TestFilters(t *testing.T) {
	dir := testlogs.Defects(t, "10-resurrect-local-snapshot-22442")["10-resurrect-local-snapshot-22442"]
	tests := []struct {
		args []string
		want string // type and term/index of what remains
	}{
		{[]string{"--type", "entry", "--live"}, "entry 1/1, entry 1/2, entry 2/3, entry 2/4"},
		{[]string{"--type", "entry", "--term", "1"}, "entry 1/1, entry 1/2, entry 1/3, entry 1/4, entry 1/5"},
		{[]string{"--from", "4"}, "entry 1/4, entry 1/5, entry 2/4, snapshot 2/4"},
		{[]string{"--from", "2", "--to", "3", "--live"}, "entry 1/2, entry 2/3"},
		{[]string{"--to", "0"}, "snapshot 0/0"},
		{[]string{"--term", "2", "--type", "state,snapshot"}, "state 2/0, snapshot 2/4"},
		{[]string{"--segment", "0000000000000001"}, ""},
		{[]string{"--segment", "0000000000000000", "--type", "crc"}, "crc 0/0"},
	}
	for _, test := range tests {
		code, out, errs := call(append([]string{"dump", "-o", "ndjson", dir}, test.args...)...)
		var got []string
		for _, l := range lines(t, out) {
			got = append(got, fmt.Sprintf("%s %d/%d", l.Type, l.Term, l.Index))
		}
		if code != exitClean || strings.Join(got, ", ") != test.want {
			t.Errorf("%v: exit %d: got %s, want %s: %s", test.args, code, strings.Join(got, ", "), test.want, errs)
		}
	}
	if _, out, _ := call("dump", dir); strings.Count(out, "[overwritten]") != 3 {
		t.Errorf("the text does not mark the three entries that were overwritten:\n%s", out)
	}
}

// An entry is void if any later one has its index or a lower one, and only then.
func TestOverwritesAreThoseOfTheRule(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		dir := filepath.Join(t.TempDir(), "log")
		w, err := wal.Create(dir, nil, &wal.Options{NoSync: true, SegmentSize: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		var written []uint64
		last := uint64(0)
		for term := uint64(1); term <= 6; term++ {
			index := 1 + r.Uint64N(last+1)
			for range 1 + r.IntN(5) {
				if err := w.Save(walpb.HardState{Term: term}, []walpb.Entry{{Term: term, Index: index}}); err != nil {
					t.Fatal(err)
				}
				written, last = append(written, index), index
				index++
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var want, got []uint64
		for i, index := range written {
			if !slices.ContainsFunc(written[i+1:], func(later uint64) bool { return later <= index }) {
				want = append(want, index)
			}
		}
		code, out, errs := call("dump", "-o", "ndjson", "--live", "--type", "entry", dir)
		for _, l := range lines(t, out) {
			got = append(got, l.Index)
		}
		if code != exitClean || !slices.Equal(got, want) {
			t.Fatalf("written %v: exit %d, got %v, want %v: %s", written, code, got, want, errs)
		}
	}
}

func TestNoDataIsNotEmptyData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w, err := wal.Create(dir, nil, &wal.Options{SegmentSize: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Save(walpb.HardState{Term: 1}, []walpb.Entry{{Term: 1, Index: 1}, {Term: 1, Index: 2, Data: []byte{}}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, errs := call("dump", "-o", "ndjson", "--type", "entry", dir)
	if all := lines(t, out); code != exitClean || len(all) != 2 || all[0].Data != nil || all[1].Data == nil {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestRecordsOfSteleCarryTheirWitnesses(t *testing.T) {
	dir := ours(t, nil)
	code, out, errs := call("dump", "-o", "ndjson", dir)
	if code != exitClean {
		t.Fatalf("exit %d: %s", code, errs)
	}
	all := lines(t, out)
	var claims int
	i := 0
	for r, err := range wal.Records(dir, 0, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if l := all[i]; l.HeaderCRC != fmt.Sprintf("%08x", r.HeaderCRC) || l.SyncedTo != r.SyncedTo {
			t.Errorf("record at %d: header_crc %s, synced_to %d, want %08x, %d", r.Offset, l.HeaderCRC, l.SyncedTo, r.HeaderCRC, r.SyncedTo)
		}
		if r.SyncedTo > 0 {
			claims++
		}
		i++
	}
	if i != len(all) || claims == 0 {
		t.Errorf("%d records, dump has %d, %d claims", i, len(all), claims)
	}
	if _, out, _ := call("info", dir); !strings.Contains(out, "written by  stele\n") {
		t.Errorf("info does not say who wrote it:\n%s", out)
	}
}

func TestRequestsOfEtcdAreNamed(t *testing.T) {
	tests := []struct{ message, want string }{
		{"0801" + "2207" + "0a016b" + "1202" + "7677", `put "k" = "vw"`},
		{"0801" + "2209" + "0a016b" + "1202" + "7677" + "1810", `put "k" = "vw" lease 10`},
		{"0801" + "2a06" + "0a0161" + "120162", `delete "a" to "b"`},
		{"0801" + "320e" + "0a00" + "120a" + "1208" + "0a016b" + "1203" + "787978", `txn compare 1 then 1: put "k" = "xyx"`},
		{"0801" + "3a02" + "0864", `compact to revision 100`},
		{"0801" + "4204" + "083c" + "1011", `lease grant 11 for 60 s`},
		{"a20602080a" + "4a02" + "080f", `lease revoke f`},
		{"0801" + "e244" + "09" + "0a0375736512027077", `user add "use"`},
		{"0801" + "ff", "no"},
		{"0801" + "2207" + "0a016b", "no"},               // a length beyond the end
		{"0801" + "22ffffffffffffffffff01" + "0a", "no"}, // and one that is no int
		{"", "no"},
		{"0801", "no"},
	}
	for _, test := range tests {
		message, err := hex.DecodeString(test.message)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := appendRequest(nil, message)
		if !ok {
			got = []byte("no")
		}
		if string(got) != test.want {
			t.Errorf("%s: got %s, want %s", test.message, got, test.want)
		}
	}
}
