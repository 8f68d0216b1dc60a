package wal

// A saboteur is a way to write this package wrongly. A build with the tag sabotage is wrong in the
// way that the environment variable STELE_SABOTEUR names. One that no campaign catches shows that
// the campaigns are too weak.
type saboteur string

const (
	// A batch is synced, but only when the next one is written.
	ackBeforeSync saboteur = "ack-before-sync"
	// A write or sync that failed does not stop the log.
	goOnAfterError saboteur = "go-on"
	// A length word of zero ends a segment, whatever follows: etcd's rule.
	zeroIsTheEnd saboteur = "zero-is-the-end"
	// header_crc is written and not looked at.
	noHeaderCRC saboteur = "no-header-crc"
	// A record says of itself that it was synced.
	earlyWitness saboteur = "early-witness"
	// Open syncs the last segment and no other.
	lastSyncOnly saboteur = "last-sync-only"
	// Release does not sync what it relies on.
	noReleaseSync saboteur = "no-release-sync"
	// Open leaves what a Release that was cut short would have removed.
	noFinish saboteur = "no-finish"
	// The mark is written before the sync.
	earlyMark saboteur = "early-mark"
	// The space for a record is not reserved before it is written.
	noReserve saboteur = "no-reserve"
	// On a full disk a record is refused although the spare has room for it.
	spareIdle saboteur = "spare-idle"
	// Open refuses a log when there is no room for the copy of its torn tail.
	refuseFull saboteur = "refuse-full"
	// Open goes without the copy of a torn tail that is unproven.
	dropUnproven saboteur = "drop-unproven"
	// The directory is opened each time that it is synced.
	openAnew saboteur = "open-anew"
)
