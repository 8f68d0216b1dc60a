package interop

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stele-wal/stele/testdata/testlogs"
)

func TestDecidableDamageToEtcdsLogsIsNotCalledTorn(t *testing.T) {
	var logs []*UnmarkedLog
	dirs := testlogs.Etcd(t, "3.4/small", "3.5/small", "3.7/small", "3.7/kill9")
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		paths, err := filepath.Glob(filepath.Join(dirs[name], "member", "wal", "*.wal"))
		if err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, p := range paths {
			if files[filepath.Base(p)], err = os.ReadFile(p); err != nil {
				t.Fatal(err)
			}
		}
		l, err := NewUnmarkedLog(name, files)
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, l)
	}
	times := 100
	if *long {
		times = 1000
	} else {
		t.Logf("SHORT: 1600 faults; -long does 16000")
	}
	rows, err := RotUnmarked(logs, controlSeed(), times)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d\n%s", controlSeed(), UnmarkedTable(rows))
	all := rows[len(rows)-1]
	for _, reason := range []string{bySegment, byHead, byLink, byIndex, byVote, byFrame, bySize} {
		if n := all.Why[reason]; n > 0 {
			t.Errorf("%d are called torn or the end of the log; %s", n, reason)
		}
	}
	// Faults that no reader can see are there, and so are those that the readers see: else this
	// would show nothing.
	undecidable := all.Why[isTheEnd] + all.Why[isRest] + all.Why[isLone] + all.Why[isOneCall]
	if all.Cases != 4*4*times || all.Refused < all.Cases/2 || undecidable < all.Cases/20 || all.Silent > all.Cases/1000 {
		t.Errorf("%+v", all)
	}
}
