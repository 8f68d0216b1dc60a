package walpb_test

import (
	"errors"
	"testing"

	"github.com/stele-wal/stele/walpb"
)

func TestAConfStateIsWhatRaftDecodes(t *testing.T) {
	for _, c := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"none", nil, true},
		{"three voters", []byte{8, 1, 8, 2, 8, 3}, true},
		{"packed voters", []byte{10, 3, 1, 2, 3}, true},
		{"joint, with auto_leave", []byte{8, 1, 16, 2, 24, 3, 32, 4, 40, 1}, true},
		{"as etcd 3.4 to 3.6 write it", []byte{8, 1, 8, 2, 8, 3, 40, 0}, true},
		{"a field of a later version", []byte{8, 1, 50, 2, 0xff, 0xff}, true},
		{"text", []byte("members"), false},
		{"a number that does not end", []byte{8, 0x80}, false},
		{"a number of eleven bytes", []byte{8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, false},
		{"a list that does not end", []byte{10, 3, 1, 2}, false},
		{"a list whose last number does not end", []byte{10, 2, 1, 0x80}, false},
		{"field 0", []byte{0, 1}, false},
		{"a voter of 32 bits", []byte{13, 1, 0, 0, 0}, false},
		{"auto_leave as bytes", []byte{42, 1, 1}, false},
		{"a group", []byte{51, 52}, false},
		{"a length beyond all memory", []byte{10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, false},
	} {
		err := walpb.CheckConfState(c.b)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, walpb.ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
