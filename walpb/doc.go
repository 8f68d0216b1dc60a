// Package walpb is what a log writes: four small messages, as Go values and as bytes. It does no
// I/O and keeps no state.
//
// A log is a sequence of records. A [Record] has a type, a checksum and data, and the data of most
// types is itself one of three messages:
//
//	TypeMetadata  the owner's own bytes, the same in every segment
//	TypeEntry     an [Entry] of the replicated log
//	TypeState     a [HardState]: term, vote and commit index
//	TypeCRC       no data; the record only carries checksums
//	TypeSnapshot  a [Snapshot] record: up to which index a snapshot stands for the log
//
// The bytes are those of etcd's log, which are protocol buffers. They are written and read here by
// hand, without reflection, without allocating and, on the way in, without copying.
//
// # Two dialects
//
// etcd up to 3.6 and etcd from 3.7 on encode an entry differently: the former writes the type of
// every entry, also when it is 0, the latter leaves it out. Append writes the newer dialect;
// Unmarshal reads both.
//
// # Strict by default
//
// Protocol buffers are made to be read leniently: fields in any order, twice, unknown, and each
// number in ten spellings. A log must not be read like that. The checksum in a record covers its
// data and nothing else, so a flipped bit in the type turns an entry into something that a lenient
// reader takes for a hard state. Hence Unmarshal accepts only what etcd or this package would have
// written, field by field, and returns [ErrMalformed] for everything else.
//
// A record may carry a witness, which is two more fields: header_crc, a second checksum, over all
// bytes of the record that the first one leaves out (see [HeadSum]); and synced_to, which says what
// was durable before. Where header_crc is right nothing needs to be guessed from the shape of the
// bytes, and a later version may add fields: Unmarshal skips unknown fields in such a record, and
// UnmarshalLenient does so in its data. etcd ignores the two fields.
//
// # Encoding in place
//
// The head of a message is everything up to the content of its data. A log that writes an entry
// into its buffer appends the head of the record, then the head of the entry, then the bytes of the
// command, and has copied each byte once. The checksums stand before the bytes that they cover:
// [Entry.Checksum] and [Record.HeadSum] compute them in advance. The example of [Record.AppendHead]
// shows all of it.
//
// No function here panics on any bytes, and none keeps a reference to its arguments except in
// the Data and ConfState fields that Unmarshal sets, which alias the bytes that were decoded. All
// functions and methods may be called concurrently on different values, and those that only read on
// the same one.
package walpb
