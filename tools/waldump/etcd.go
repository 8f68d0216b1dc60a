package main

import (
	"encoding/binary"
	"strconv"

	"github.com/stele-wal/stele/walpb"
)

// What etcd puts into a log, as far as the bytes alone show it: enough for one line
// about each entry. The numbers are those of etcd's messages. Nothing here fails: what is not
// understood is shown as bytes.

// eachField calls fn for each field of a message: with number for the types that are one, with data
// for bytes. It returns false if b is not a message.
func eachField(b []byte, fn func(field int, number uint64, data []byte)) bool {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return false
		}
		b = b[n:]
		var number uint64
		var data []byte
		switch tag & 7 {
		case 0:
			if number, n = binary.Uvarint(b); n <= 0 {
				return false
			}
			b = b[n:]
		case 1:
			if len(b) < 8 {
				return false
			}
			number, b = binary.LittleEndian.Uint64(b), b[8:]
		case 2:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return false
			}
			data, b = b[n:n+int(size):n+int(size)], b[n+int(size):]
		case 5:
			if len(b) < 4 {
				return false
			}
			number, b = uint64(binary.LittleEndian.Uint32(b)), b[4:]
		default:
			return false
		}
		fn(int(tag>>3), number, data)
	}
	return true
}

// field returns one field of a message; the last, if it is repeated.
func field(b []byte, want int) (number uint64, data []byte) {
	eachField(b, func(field int, n uint64, d []byte) {
		if field == want {
			number, data = n, d
		}
	})
	return number, data
}

// etcdMember decodes the metadata of an etcd member's log: two numbers and nothing else.
func etcdMember(metadata []byte) (node, cluster uint64, ok bool) {
	seen := 0
	whole := eachField(metadata, func(field int, number uint64, data []byte) {
		switch {
		case field == 1 && seen == 0 && data == nil:
			node, seen = number, 1
		case field == 2 && seen == 1 && data == nil:
			cluster, seen = number, 2
		default:
			seen = 3
		}
	})
	return node, cluster, whole && seen == 2
}

// requests are the fields of etcd's InternalRaftRequest, which is one of them and a few small ones.
var requests = map[int]string{
	3: "range", 4: "put", 5: "delete", 6: "txn", 7: "compact", 8: "lease grant", 9: "lease revoke", 10: "alarm", 11: "lease checkpoint",
	1000: "auth enable", 1011: "auth disable", 1012: "authenticate", 1013: "auth status",
	1100: "user add", 1101: "user delete", 1102: "user get", 1103: "user password", 1104: "user grant role", 1105: "user revoke role", 1106: "user list", 1107: "role list",
	1200: "role add", 1201: "role delete", 1202: "role get", 1203: "role grant", 1204: "role revoke",
	1300: "cluster version", 1301: "member attributes", 1302: "downgrade", 9900: "downgrade test",
}

// methods are those of etcd's older request, which a member up to 3.5 writes when it starts.
var methods = map[string]bool{"GET": true, "PUT": true, "POST": true, "DELETE": true, "QGET": true, "SYNC": true, "HEAD": true}

// appendRequest appends what an entry of etcd's asks for, or returns false.
func appendRequest(b, data []byte) ([]byte, bool) {
	var (
		kind    int
		body    []byte
		method  string
		unknown bool
	)
	whole := eachField(data, func(field int, number uint64, data []byte) {
		switch {
		case field == 2 && methods[string(data)]:
			method = string(data)
		case method != "" || field == 1 || field == 100:
		case requests[field] != "" && kind == 0:
			kind, body = field, data
		default:
			unknown = true
		}
	})
	switch {
	case !whole || unknown:
		return b, false
	case method != "":
		_, name := field(data, 3)
		_, value := field(data, 4)
		b = append(b, method...)
		b = appendPreview(append(b, ' '), name)
		if len(value) > 0 {
			b = appendPreview(append(b, ' '), value)
		}
		return b, true
	case kind == 0:
		return b, false
	}
	b = append(b, requests[kind]...)
	switch kind {
	case 3, 5:
		b = appendRange(b, body)
	case 4:
		b = appendPut(b, body)
	case 6:
		b = appendTxn(b, body)
	case 7:
		revision, _ := field(body, 1)
		b = strconv.AppendUint(append(b, " to revision "...), revision, 10)
	case 8:
		ttl, _ := field(body, 1)
		id, _ := field(body, 2)
		b = strconv.AppendUint(append(b, ' '), id, 16)
		b = strconv.AppendUint(append(b, " for "...), ttl, 10)
		b = append(b, " s"...)
	case 9:
		id, _ := field(body, 1)
		b = strconv.AppendUint(append(b, ' '), id, 16)
	case 1300:
		_, version := field(body, 1)
		b = appendPreview(append(b, ' '), version)
	case 1301:
		id, _ := field(body, 1)
		b = strconv.AppendUint(append(b, " of "...), id, 16)
	case 1012, 1100, 1103:
		// The name, and not the password beside it.
		_, name := field(body, 1)
		b = appendPreview(append(b, ' '), name)
	}
	return b, true
}

func appendPut(b, body []byte) []byte {
	_, key := field(body, 1)
	_, value := field(body, 2)
	b = appendPreview(append(b, ' '), key)
	b = appendPreview(append(b, " = "...), value)
	if lease, _ := field(body, 3); lease != 0 {
		b = strconv.AppendUint(append(b, " lease "...), lease, 16)
	}
	return b
}

func appendRange(b, body []byte) []byte {
	_, key := field(body, 1)
	_, end := field(body, 2)
	b = appendPreview(append(b, ' '), key)
	if len(end) > 0 {
		b = appendPreview(append(b, " to "...), end)
	}
	return b
}

// appendTxn counts what a transaction compares and does, and shows the first thing that it does.
func appendTxn(b, body []byte) []byte {
	var counts [4]int
	var first []byte
	eachField(body, func(field int, _ uint64, data []byte) {
		if field < len(counts) {
			counts[field]++
		}
		if field == 2 && first == nil {
			first = data
		}
	})
	for i, name := range []string{1: " compare ", 2: " then ", 3: " else "} {
		if counts[i] > 0 {
			b = strconv.AppendInt(append(b, name...), int64(counts[i]), 10)
		}
	}
	if _, put := field(first, 2); put != nil {
		b = appendPut(append(b, ": put"...), put)
	}
	return b
}

var changes = []string{"add", "remove", "update", "add learner"}

// appendConfChange appends what a change of the members is, or returns false.
func appendConfChange(b []byte, e *walpb.Entry) ([]byte, bool) {
	one := func(b, change []byte, kindField, nodeField int) ([]byte, bool) {
		kind, _ := field(change, kindField)
		node, _ := field(change, nodeField)
		if kind >= uint64(len(changes)) {
			return b, false
		}
		return strconv.AppendUint(append(append(b, changes[kind]...), ' '), node, 16), true
	}
	if !eachField(e.Data, func(int, uint64, []byte) {}) {
		return b, false
	}
	if e.Type == walpb.EntryConfChange {
		return one(b, e.Data, 2, 3)
	}
	ok, count := true, 0
	eachField(e.Data, func(field int, _ uint64, data []byte) {
		if field != 2 || !ok {
			return
		}
		if count++; count > 1 {
			b = append(b, ", "...)
		}
		b, ok = one(b, data, 1, 2)
	})
	if count == 0 {
		b = append(b, "leave the joint configuration"...)
	}
	return b, ok
}

// appendConfState appends the members that a snapshot record names, or returns false.
func appendConfState(b, conf []byte) ([]byte, bool) {
	names := []string{1: " voters", 2: " learners", 3: " outgoing voters", 4: " next learners"}
	before, shown := 0, 0
	whole := eachField(conf, func(field int, number uint64, data []byte) {
		if field <= 0 || field >= len(names) || data != nil {
			return
		}
		if field != before {
			b, before = append(b, names[field]...), field
		}
		// No cluster has more members than this, but damage may.
		if shown++; shown <= 16 {
			b = strconv.AppendUint(append(b, ' '), number, 16)
		}
	})
	return b, whole
}

// previewed is how many bytes of an entry's data a line shows.
const previewed = 48

// appendPreview appends the beginning of data, quoted, and its length if that is not all.
func appendPreview(b, data []byte) []byte {
	if len(data) <= previewed {
		return strconv.AppendQuoteToASCII(b, string(data))
	}
	b = strconv.AppendQuoteToASCII(b, string(data[:previewed]))
	b = append(b, "... ("...)
	b = strconv.AppendInt(b, int64(len(data)), 10)
	return append(b, " bytes)"...)
}
