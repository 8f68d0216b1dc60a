package walpb_test

import (
	"errors"
	"fmt"

	"github.com/stele-wal/stele/walpb"
)

// One entry as a log of etcd has it: an Entry in the data of a Record, chained to what came before.
func Example() {
	chain := uint32(0x1f5de272) // of the record before

	e := walpb.Entry{Term: 1, Index: 1, Data: []byte("x")}
	r := walpb.Record{Type: walpb.TypeEntry, CRC: e.Checksum(chain), Data: e.Append(nil)}
	b := r.Append(nil)
	fmt.Printf("% x\n", b)

	var got walpb.Record
	if err := got.Unmarshal(b); err != nil {
		fmt.Println(err)
	}
	fmt.Println(got.Type, got.CRC == walpb.Checksum(chain, got.Data))
	if err := got.UnmarshalData(&e); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%v %d/%d %q\n", e.Type, e.Term, e.Index, e.Data)
	// Output:
	// 08 02 10 e7 81 e3 e9 0f 1a 07 10 01 18 01 22 01 78
	// entry true
	// normal 1/1 "x"
}

// A log writes an entry into its buffer in one pass: the head of the record, the head of the entry,
// the data.
func ExampleRecord_AppendHead() {
	page := make([]byte, 0, 4096)
	place := uint32(0x5eed) // what the log derives from segment, offset and length word

	e := walpb.Entry{Term: 1, Index: 1, Data: []byte("x")}
	r := walpb.Record{Type: walpb.TypeEntry, CRC: e.Checksum(0), SyncedTo: 4096, HasHeaderCRC: true}
	r.HeaderCRC = r.HeadSum(place, e.Size())
	page = r.AppendHead(page, e.Size())
	page = e.AppendHead(page)
	page = append(page, e.Data...)

	var got walpb.Record
	err := got.Unmarshal(page)
	sum, _ := walpb.HeadSum(place, page)
	fmt.Println(err, got.SyncedTo, sum == got.HeaderCRC)
	// Output: <nil> 4096 true
}

// An entry is not taken for a hard state, though a lenient reader of protocol buffers would.
func ExampleHardState_Unmarshal() {
	e := walpb.Entry{Term: 2, Index: 9, Data: []byte("x")}
	var s walpb.HardState
	err := s.Unmarshal(e.Append(nil))
	fmt.Println(err)
	fmt.Println(errors.Is(err, walpb.ErrMalformed))
	// Output:
	// walpb: malformed hard state: offset 4: unknown field
	// true
}
