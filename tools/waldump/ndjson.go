package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// jsonPrinter prints one object a line, and findings to standard error. No name or value in an
// object needs to be escaped, except that of error.
type jsonPrinter struct {
	out    *bufio.Writer
	stderr io.Writer
	line   []byte // reused
}

func (p *jsonPrinter) record(r *decoded) error {
	b := append(append(p.line[:0], `{"segment":"`...), r.Segment...)
	b = strconv.AppendInt(append(b, `","offset":`...), r.Offset, 10)
	b = strconv.AppendInt(append(b, `,"size":`...), r.Size, 10)
	b = append(append(b, `,"type":"`...), r.Type.String()...)
	b = append(appendHex32(append(b, `","crc":"`...), r.CRC), '"')
	switch {
	case r.err != nil:
		text, _ := json.Marshal(r.err.Error()) // which never fails for a string
		b = append(append(b, `,"error":`...), text...)
		b = appendBase64(b, "data", r.Data)
	case r.Type == walpb.TypeMetadata:
		b = appendBase64(b, "data", r.Data)
	case r.Type == walpb.TypeEntry:
		b = appendNumber(b, "term", r.entry.Term)
		b = appendNumber(b, "index", r.entry.Index)
		b = append(append(append(b, `,"kind":"`...), r.entry.Type.String()...), '"')
		b = appendBase64(b, "data", r.entry.Data)
	case r.Type == walpb.TypeState:
		b = appendNumber(b, "term", r.state.Term)
		// In hex, as a string: programs that take all numbers for floats would lose digits, and
		// etcd's use all 64 bits.
		b = strconv.AppendUint(append(b, `,"vote":"`...), r.state.Vote, 16)
		b = append(b, '"')
		b = appendNumber(b, "commit", r.state.Commit)
	case r.Type == walpb.TypeSnapshot:
		b = appendNumber(b, "term", r.snap.Term)
		b = appendNumber(b, "index", r.snap.Index)
		b = appendBase64(b, "conf_state", r.snap.ConfState)
	}
	if r.HasHeaderCRC {
		b = append(appendHex32(append(b, `,"header_crc":"`...), r.HeaderCRC), '"')
		if r.SyncedTo > 0 {
			b = appendNumber(b, "synced_to", r.SyncedTo)
		}
	}
	p.line = append(b, "}\n"...)
	_, err := p.out.Write(p.line)
	return err
}

func (p *jsonPrinter) finding(f *wal.Finding) error {
	_, err := fmt.Fprintf(p.stderr, "waldump: %s\n", sentence(f))
	return err
}

func appendNumber(b []byte, name string, n uint64) []byte {
	b = append(append(append(b, ',', '"'), name...), `":`...)
	return strconv.AppendUint(b, n, 10)
}

// appendBase64 leaves nil out: no data is not the same as empty data.
func appendBase64(b []byte, name string, data []byte) []byte {
	if data == nil {
		return b
	}
	b = append(append(append(b, ',', '"'), name...), `":"`...)
	return append(base64.StdEncoding.AppendEncode(b, data), '"')
}
