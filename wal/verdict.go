package wal

import "fmt"

// A Verdict says what the end of a log is: the legal one, the one that a crash leaves, or damage.
type Verdict uint8

const (
	// Clean: the log ends where its writer stopped. Nothing but zeros follows.
	Clean Verdict = iota
	// Torn: what follows the last good record is the rest of a batch that no sync made durable. A
	// crash leaves it; Open trims it.
	Torn
	// TornUnproven is Torn in a segment that carries no witnesses, as etcd writes them: nothing
	// shows that what follows was durable, and nothing could have.
	TornUnproven
	// Unborn: the last segment has no whole head, because the crash came while the log was being
	// cut. Open sets the segment aside and goes on in the one before it.
	Unborn
	// Passed: segments are missing, but only ones that are older than the newest usable snapshot
	// record.
	Passed
	// Corrupt: what was durable is damaged.
	Corrupt
	// Missing: a segment that was durable is not there.
	Missing
	// Unreadable: the file system did not give the bytes. Nothing is concluded from that.
	Unreadable
)

var verdictNames = [...]string{"clean", "torn", "torn, unproven", "unborn", "passed", "corrupt", "missing", "unreadable"}

// String returns the verdict in words, as waldump prints it, or verdict(n) for a value that is
// none.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// evidence is all that decide looks at: what is known about the first place where a log stops being
// good.
type evidence struct {
	stop  stop
	where where
	seed  seed  // of the segment that follows
	head  bool  // the place lies in the head of its segment
	prior bool  // a segment stands before this one, whole
	rest  bool  // some byte from the place to the end of the file is not zero
	ours  bool  // the last good record before the place carries a header_crc
	proof proof // what was found behind the place
}

type stop uint8

const (
	stops       stop = iota // no whole good frame starts here
	contradicts             // a frame whose checksums hold, with content that its log does not allow
)

type where uint8

const (
	inLast where = iota
	inEarlier
	inGap    // a sequence number is missing here
	inOldGap // and a snapshot record after the gap is usable
)

type seed uint8

const (
	unknown seed = iota // no segment follows, or its first frame is not whole
	fits                // it goes on from the checksum that this segment ends with
	differs             // it goes on from another
)

type proof uint8

const (
	noProof   proof = iota
	witnessed       // a record behind the place claims that the place had been synced
	linked          // records behind the place belong to a later batch of etcd's
	marked          // the log's mark lies behind the place
	whole           // the data of the frame at the place is whole and continues the chain: no torn sector leaves that
	cutOff          // the file ends inside the frame at the place, where no write ends
)

// cell is one field of a row of the table: any value, or one.
type cell[T comparable] struct {
	set   bool
	value T
}

func is[T comparable](v T) cell[T]        { return cell[T]{true, v} }
func (c cell[T]) matches(v T) bool        { return !c.set || c.value == v }
func (r *row) String() string             { return r.verdict.String() + ": " + r.because }
func (v Verdict) bad() bool               { return v >= Corrupt }
func decide(e evidence) (Verdict, string) { r := find(e); return r.verdict, r.because }

// row is a line of the table; a field that is not set matches everything.
type row struct {
	stop    cell[stop]
	where   cell[where]
	seed    cell[seed]
	head    cell[bool]
	prior   cell[bool]
	rest    cell[bool]
	ours    cell[bool]
	proof   cell[proof]
	verdict Verdict
	because string
}

// verdicts is the table of FORMAT.md, chapter 8. Every combination of evidence matches exactly one
// row.
var verdicts = []row{
	{stop: is(contradicts), verdict: Corrupt, because: "the checksums hold, so this was written so, or a part that they do not cover was changed"},

	{stop: is(stops), where: is(inGap), verdict: Missing, because: "sequence numbers leave none out"},
	{stop: is(stops), where: is(inOldGap), verdict: Passed, because: "a later snapshot record makes the missing segments needless"},

	{stop: is(stops), where: is(inEarlier), head: is(true), verdict: Corrupt, because: "the next segment was begun after the head of this one was synced"},
	{stop: is(stops), where: is(inEarlier), head: is(false), seed: is(fits), rest: is(false), verdict: Clean, because: "the next segment goes on from here"},
	{stop: is(stops), where: is(inEarlier), head: is(false), seed: is(unknown), rest: is(false), verdict: Clean, because: "nothing follows, and the next segment is judged by itself"},
	{stop: is(stops), where: is(inEarlier), head: is(false), seed: is(differs), rest: is(false), verdict: Corrupt, because: "the next segment does not go on from here"},
	{stop: is(stops), where: is(inEarlier), head: is(false), rest: is(true), verdict: Corrupt, because: "the next segment was begun after this one was synced"},

	{stop: is(stops), where: is(inLast), head: is(true), prior: is(false), verdict: Corrupt, because: "a first segment gets its name after its head is durable"},
	{stop: is(stops), where: is(inLast), head: is(true), prior: is(true), proof: is(noProof), verdict: Unborn, because: "the log was being cut"},
	{stop: is(stops), where: is(inLast), head: is(true), prior: is(true), proof: is(witnessed), verdict: Corrupt, because: "a later record says that this was durable"},
	{stop: is(stops), where: is(inLast), head: is(true), prior: is(true), proof: is(linked), verdict: Corrupt, because: "records of a later batch follow"},
	{stop: is(stops), where: is(inLast), head: is(true), prior: is(true), proof: is(marked), verdict: Corrupt, because: "the file synced says that this was durable"},
	{stop: is(stops), where: is(inLast), head: is(true), prior: is(true), proof: is(whole), verdict: Corrupt, because: "all of its data is there, and no crash leaves the rest so"},
	{stop: is(stops), where: is(inLast), head: is(true), prior: is(true), proof: is(cutOff), verdict: Corrupt, because: "the file ends inside the record, where no write ends"},

	{stop: is(stops), where: is(inLast), head: is(false), rest: is(false), proof: is(noProof), verdict: Clean, because: "nothing follows"},
	{stop: is(stops), where: is(inLast), head: is(false), rest: is(true), proof: is(noProof), ours: is(true), verdict: Torn, because: "no record behind it says that it was durable"},
	{stop: is(stops), where: is(inLast), head: is(false), rest: is(true), proof: is(noProof), ours: is(false), verdict: TornUnproven, because: "no record of a later batch follows, and nothing else could prove it durable"},
	{stop: is(stops), where: is(inLast), head: is(false), proof: is(witnessed), verdict: Corrupt, because: "a later record says that this was durable"},
	{stop: is(stops), where: is(inLast), head: is(false), proof: is(linked), verdict: Corrupt, because: "records of a later batch follow"},
	{stop: is(stops), where: is(inLast), head: is(false), proof: is(marked), verdict: Corrupt, because: "the file synced says that this was durable"},
	{stop: is(stops), where: is(inLast), head: is(false), proof: is(whole), verdict: Corrupt, because: "all of its data is there, and no crash leaves the rest so"},
	{stop: is(stops), where: is(inLast), head: is(false), proof: is(cutOff), verdict: Corrupt, because: "the file ends inside the record, where no write ends"},
}

func (r *row) matches(e evidence) bool {
	return r.stop.matches(e.stop) && r.where.matches(e.where) && r.seed.matches(e.seed) && r.head.matches(e.head) &&
		r.prior.matches(e.prior) && r.rest.matches(e.rest) && r.ours.matches(e.ours) && r.proof.matches(e.proof)
}

// find returns the one row that matches.
func find(e evidence) *row {
	for i := range verdicts {
		if verdicts[i].matches(e) {
			return &verdicts[i]
		}
	}
	panic("wal: the table of verdicts has a hole") // TestEveryCombinationOfEvidenceHasOneVerdict
}
