package walpb

import "encoding/binary"

// UnmarshalHead sets *r, except Data, to the record of size bytes that begins with b, and returns
// the length of its data, -1 if it has none. b must hold all that stands before the content of
// data; the content is not looked at. It is for looking at many places where a record may begin,
// few of which have one.
//
// It takes fewer records than Unmarshal: only those without unknown fields, in which data, if there
// is any, ends the record. For these r.HeadSum(seed, dataLen) is HeadSum(seed, record). For all
// others the error wraps ErrMalformed.
func (r *Record) UnmarshalHead(b []byte, size int) (dataLen int, err error) {
	var got Record
	t, i := headVarint(b, 0, tagRecordType)
	crc, i := headVarint(b, i, tagRecordCRC)
	if i < 0 || t > 0xff || crc > 0xffffffff {
		return 0, malformed("record", 0, "no type and crc")
	}
	got.Type, got.CRC = Type(t), uint32(crc)
	if at(b, i, tagRecordSyncedTo) {
		if got.SyncedTo, i = headVarint(b, i, tagRecordSyncedTo); i < 0 || got.SyncedTo == 0 {
			return 0, malformed("record", 0, "synced_to")
		}
	}
	if at(b, i, tagRecordHeaderCRC) && len(b)-i >= 1+4 {
		got.HeaderCRC, got.HasHeaderCRC = binary.LittleEndian.Uint32(b[i+1:]), true
		i += 1 + 4
	}
	if got.SyncedTo != 0 && !got.HasHeaderCRC {
		return 0, malformed("record", 0, "synced_to in a record without a header_crc")
	}
	dataLen = -1
	if at(b, i, tagRecordData) {
		var n uint64
		if n, i = headVarint(b, i, tagRecordData); i < 0 || n > uint64(size) {
			return 0, malformed("record", 0, "length of data")
		}
		dataLen = int(n)
	}
	if i+max(dataLen, 0) != size {
		return 0, malformed("record", i, "data does not end the record")
	}
	got.Data = r.Data
	*r = got
	return dataLen, nil
}

// headVarint reads a varint field with a tag of one byte at b[i:].
func headVarint(b []byte, i int, tag byte) (v uint64, end int) {
	if i < 0 || !at(b, i, tag) {
		return 0, noField
	}
	return readUvarint(b, i+1)
}
