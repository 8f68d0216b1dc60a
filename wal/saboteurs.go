package wal

// A saboteur is a way to write this package wrongly. A build with the tag sabotage is wrong in the
// way that the environment variable STELE_SABOTEUR names. One that no campaign catches shows that
// the campaigns are too weak.
type saboteur string

const (
	ackBeforeSync  saboteur = "ack-before-sync" // a batch is synced, but only when the next one is written
	goOnAfterError saboteur = "go-on"           // a write or sync that failed does not stop the log
	zeroIsTheEnd   saboteur = "zero-is-the-end" // a length word of zero ends a segment, whatever follows: etcd's rule
	noHeaderCRC    saboteur = "no-header-crc"   // header_crc is written and not looked at
	earlyWitness   saboteur = "early-witness"   // a record says of itself that it was synced
	lastSyncOnly   saboteur = "last-sync-only"  // Open syncs the last segment and no other
	noReleaseSync  saboteur = "no-release-sync" // Release does not sync what it relies on
	noFinish       saboteur = "no-finish"       // Open leaves what a Release that was cut short would have removed
	earlyMark      saboteur = "early-mark"      // the mark is written before the sync
	noReserve      saboteur = "no-reserve"      // the space for a record is not reserved before it is written
	spareIdle      saboteur = "spare-idle"      // on a full disk a record is refused although the spare has room for it
	refuseFull     saboteur = "refuse-full"     // Open refuses a log when there is no room for the copy of its torn tail
	dropUnproven   saboteur = "drop-unproven"   // Open goes without the copy of a torn tail that is unproven
	openAnew       saboteur = "open-anew"       // the directory is opened each time that it is synced
)
