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

func (v Verdict) bad() bool { return v >= Corrupt }

// evidence is all that decide looks at: what is known about the first place where a log stops being
// good. In a row of the table, a zero field stands for every value.
type evidence struct {
	stop  stop
	where where
	seed  seed   // of the segment that follows
	head  answer // whether the place is in the head of its segment
	prior answer // whether a segment is before this one, whole
	rest  answer // whether some byte from the place to the end of the file is not zero
	ours  answer // whether the last good record before the place has a header_crc
	proof proof  // what was found after the place
}

type stop uint8

const (
	noFrame     stop = 1 + iota // no whole good frame starts here
	contradicts                 // a frame whose checksums match, with content that cannot be
)

type where uint8

const (
	inLast where = 1 + iota
	inEarlier
	inGap    // a sequence number is missing here
	inOldGap // and a snapshot record after the gap is usable
)

type seed uint8

const (
	unknown seed = 1 + iota // no segment follows, or its first frame is not whole
	fits                    // it goes on from the checksum that this segment ends with
	differs                 // it goes on from another
)

type answer uint8

const (
	no answer = 1 + iota
	yes
)

func answerTo(b bool) answer {
	if b {
		return yes
	}
	return no
}

type proof uint8

const (
	noProof   proof = 1 + iota
	witnessed       // a record after the place says that the place had been synced
	linked          // records after the place belong to a later batch of etcd's
	marked          // the log's mark is beyond the place
	whole           // the data of the frame at the place is whole, as no torn sector leaves it
	cutOff          // the file ends inside the frame at the place, where no write ends
)

// A row of the table: what matches it, and what that means.
type row struct {
	evidence
	verdict Verdict
	because string
}

// verdicts is the table of FORMAT.md, chapter 8. Every combination of evidence matches exactly one
// row. A 0 matches every value.
var verdicts = []row{
	// stop where seed head prior rest ours proof
	{evidence{contradicts, 0, 0, 0, 0, 0, 0, 0}, Corrupt, "its checksums match: it was written this way, or bytes no checksum covers were changed"},

	{evidence{noFrame, inGap, 0, 0, 0, 0, 0, 0}, Missing, "sequence numbers leave none out"},
	{evidence{noFrame, inOldGap, 0, 0, 0, 0, 0, 0}, Passed, "a later snapshot record supersedes the missing segments"},

	{evidence{noFrame, inEarlier, 0, yes, 0, 0, 0, 0}, Corrupt, "the next segment was begun after the head of this one was synced"},
	{evidence{noFrame, inEarlier, fits, no, 0, no, 0, 0}, Clean, "the next segment goes on from here"},
	{evidence{noFrame, inEarlier, unknown, no, 0, no, 0, 0}, Clean, "nothing follows, and the next segment is judged on its own"},
	{evidence{noFrame, inEarlier, differs, no, 0, no, 0, 0}, Corrupt, "the next segment does not go on from here"},
	{evidence{noFrame, inEarlier, 0, no, 0, yes, 0, 0}, Corrupt, "the next segment was begun after this one was synced"},

	{evidence{noFrame, inLast, 0, yes, no, 0, 0, 0}, Corrupt, "a first segment gets its name after its head is durable"},
	{evidence{noFrame, inLast, 0, yes, yes, 0, 0, noProof}, Unborn, "the log was being cut"},
	{evidence{noFrame, inLast, 0, yes, yes, 0, 0, witnessed}, Corrupt, "a later record says that this was durable"},
	{evidence{noFrame, inLast, 0, yes, yes, 0, 0, linked}, Corrupt, "records of a later batch follow"},
	{evidence{noFrame, inLast, 0, yes, yes, 0, 0, marked}, Corrupt, "the file synced says that this was durable"},
	{evidence{noFrame, inLast, 0, yes, yes, 0, 0, whole}, Corrupt, "all of its data is there, and no crash leaves the rest so"},
	{evidence{noFrame, inLast, 0, yes, yes, 0, 0, cutOff}, Corrupt, "the file ends inside the record, where no write ends"},

	{evidence{noFrame, inLast, 0, no, 0, no, 0, noProof}, Clean, "nothing follows"},
	{evidence{noFrame, inLast, 0, no, 0, yes, yes, noProof}, Torn, "no record after it says that it was durable"},
	{evidence{noFrame, inLast, 0, no, 0, yes, no, noProof}, TornUnproven, "no record of a later batch follows, and nothing else could prove it durable"},
	{evidence{noFrame, inLast, 0, no, 0, 0, 0, witnessed}, Corrupt, "a later record says that this was durable"},
	{evidence{noFrame, inLast, 0, no, 0, 0, 0, linked}, Corrupt, "records of a later batch follow"},
	{evidence{noFrame, inLast, 0, no, 0, 0, 0, marked}, Corrupt, "the file synced says that this was durable"},
	{evidence{noFrame, inLast, 0, no, 0, 0, 0, whole}, Corrupt, "all of its data is there, and no crash leaves the rest so"},
	{evidence{noFrame, inLast, 0, no, 0, 0, 0, cutOff}, Corrupt, "the file ends inside the record, where no write ends"},
}

// decide returns what evidence means, and why.
func decide(e evidence) (Verdict, string) {
	for i := range verdicts {
		if r := &verdicts[i]; r.matches(e) {
			return r.verdict, r.because
		}
	}
	panic("wal: the table of verdicts has a hole") // TestEveryCombinationOfEvidenceHasOneVerdict
}

func (r *row) matches(e evidence) bool {
	return matches(r.stop, e.stop) && matches(r.where, e.where) && matches(r.seed, e.seed) && matches(r.head, e.head) &&
		matches(r.prior, e.prior) && matches(r.rest, e.rest) && matches(r.ours, e.ours) && matches(r.proof, e.proof)
}

func matches[T ~uint8](want, got T) bool { return want == 0 || want == got }

// evidenceOf returns the evidence where nothing is known but these.
func evidenceOf(stop stop, where where) evidence {
	return evidence{stop, where, unknown, no, no, no, no, noProof}
}
