package main

import (
	"bufio"
	"bytes"
	"strconv"

	"github.com/stele-wal/stele/wal"
	"github.com/stele-wal/stele/walpb"
)

// textPrinter prints lines for people.
type textPrinter struct {
	out     *bufio.Writer
	etcd    bool   // the log is an etcd member's
	segment string // the last one that was printed
	line    []byte // reused
}

// head begins a segment, if it is another one.
func (p *textPrinter) head(b []byte, segment string) []byte {
	if segment == p.segment {
		return b
	}
	if p.segment != "" {
		b = append(b, '\n')
	}
	p.segment = segment
	b = append(b, segment...)
	return append(b, "\n    offset  type      crc       term/index      size  content\n"...)
}

func (p *textPrinter) record(r *decoded) error {
	b := p.head(p.line[:0], r.Segment)
	b = appendPadded(b, strconv.FormatInt(r.Offset, 10), -10)
	b = appendPadded(append(b, "  "...), r.Type.String(), 8)
	b = appendHex32(append(b, "  "...), r.CRC)
	place := "-"
	if r.err == nil && (r.Type == walpb.TypeEntry || r.Type == walpb.TypeSnapshot) {
		place = strconv.FormatUint(r.term, 10) + "/" + strconv.FormatUint(r.index, 10)
	}
	b = appendPadded(append(b, "  "...), place, 10)
	b = appendPadded(append(b, ' '), strconv.FormatInt(r.Size, 10), -9)
	b = p.content(append(b, "  "...), r)
	if r.HasHeaderCRC && r.SyncedTo > 0 {
		b = strconv.AppendUint(append(b, "  synced to "...), r.SyncedTo, 10)
	}
	p.line = append(bytes.TrimRight(b, " "), '\n')
	_, err := p.out.Write(p.line)
	return err
}

// content appends what is in a record.
func (p *textPrinter) content(b []byte, r *decoded) []byte {
	if r.err != nil {
		b = append(append(b, r.err.Error()...), ": "...)
		return appendPreview(b, r.Data)
	}
	switch r.Type {
	case walpb.TypeMetadata:
		if node, cluster, ok := etcdMember(r.Data); ok {
			b = strconv.AppendUint(append(b, "member "...), node, 16)
			return strconv.AppendUint(append(b, " cluster "...), cluster, 16)
		}
		return appendPreview(b, r.Data)
	case walpb.TypeEntry:
		if r.overwritten {
			b = append(b, "[overwritten] "...)
		}
		return p.entry(b, &r.entry)
	case walpb.TypeState:
		b = strconv.AppendUint(append(b, "term "...), r.state.Term, 10)
		b = strconv.AppendUint(append(b, " vote "...), r.state.Vote, 16)
		return strconv.AppendUint(append(b, " commit "...), r.state.Commit, 10)
	case walpb.TypeSnapshot:
		if r.snap.ConfState == nil {
			return b
		}
		if with, ok := appendConfState(b, r.snap.ConfState); ok {
			if len(with) == len(b) {
				return append(b, "no members"...)
			}
			return append(b, with[len(b)+1:]...)
		}
		return appendPreview(append(b, "configuration "...), r.snap.ConfState)
	}
	return b
}

// entry appends what is in an entry.
func (p *textPrinter) entry(b []byte, e *walpb.Entry) []byte {
	if e.Type != walpb.EntryNormal {
		b = append(append(b, e.Type.String()...), ' ')
		if with, ok := appendConfChange(b, e); ok {
			return with
		}
		return appendPreview(b, e.Data)
	}
	if len(e.Data) == 0 {
		return append(b, "empty"...)
	}
	if p.etcd {
		if with, ok := appendRequest(b, e.Data); ok {
			return with
		}
	}
	return appendPreview(b, e.Data)
}

func (p *textPrinter) finding(f *wal.Finding) error {
	b := p.head(nil, f.Segment)
	b = appendPadded(append(b, "!! "...), strconv.FormatInt(f.Offset, 10), -7)
	b = append(append(append(b, "  "...), describe(f)...), '\n')
	_, err := p.out.Write(b)
	return err
}

func appendHex32(b []byte, n uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// appendPadded pads a word to a width, with spaces after it or, if the width is negative, before
// it.
func appendPadded(b []byte, word string, width int) []byte {
	for n := len(word); n < -width; n++ {
		b = append(b, ' ')
	}
	b = append(b, word...)
	for n := len(word); n < width; n++ {
		b = append(b, ' ')
	}
	return b
}
