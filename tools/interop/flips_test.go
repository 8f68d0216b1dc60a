package interop

import (
	"path/filepath"
	"testing"
)

func TestNoFlippedBitOfOursIsSilent(t *testing.T) {
	root := t.TempDir()
	ours, theirs, err := NewFlips(root)
	if err != nil {
		t.Fatal(err)
	}
	stride := 1
	if testing.Short() {
		stride = 61
	}
	check, open := FlipOurs(ours, stride, func(bit int, o Outcome) {
		name, _ := ours.flip(bit)
		t.Errorf("bit %d, in %s: outcome %d", bit, name, o)
	})
	// Of etcd's, one bit of each 29 in a fixed order; cmd/bitflips does them all.
	const sample = 29
	read, start, err := FlipEtcd(theirs, filepath.Join(root, "flipped"), sample)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("no seed: every %d. bit of ours, every %d. of etcd's; %d and %d bits\n%s", stride, sample, ours.Bits(), theirs.Bits(),
		Table([]string{"ours Check", "ours Open+Replay", "etcd ReadAll", "etcd Open+Repair"}, []Counts{check, open, read, start}))
	// A clean close leaves a witness after everything, so nothing that was saved may be taken for
	// a torn tail either.
	if check[Lost]+open[Lost] > 0 {
		t.Errorf("saved entries were trimmed as a torn tail: %d by Check's verdict, %d by Open", check[Lost], open[Lost])
	}
	// An oracle that finds nothing in etcd's log would find nothing in ours.
	if read[Silent] == 0 || start[Silent]+start[Lost] == 0 {
		t.Errorf("no flip fooled etcd: the comparison is too weak")
	}
}
