package wal

// A saboteur is a way to write this package wrongly. A build with the tag sabotage is wrong in the way that the environment
// variable STELE_SABOTEUR names. One that no campaign catches shows that the campaigns are too weak.
type saboteur string

const (
	noDataSync     saboteur = "no-data-sync"    // a segment is not synced before its callers are told
	noDirSync      saboteur = "no-dir-sync"     // the name of a new segment is not
	ackBeforeSync  saboteur = "ack-before-sync" // a batch is synced, but only when the next one is written
	goOnAfterError saboteur = "go-on"           // a write or sync that failed does not stop the log
	noTrimSync     saboteur = "no-trim-sync"    // what Open zeroes and removes is not synced
	noCacheDrop    saboteur = "no-cache-drop"   // Open reads what a failed sync left in memory
	zeroIsTheEnd   saboteur = "zero-is-the-end" // a length word of zero ends a segment, whatever follows: etcd's rule
	noHeaderCRC    saboteur = "no-header-crc"   // header_crc is written and not looked at
	earlyWitness   saboteur = "early-witness"   // a record says of itself that it was synced
	lastSyncOnly   saboteur = "last-sync-only"  // Open syncs the last segment and no other
	noReleaseSync  saboteur = "no-release-sync" // Release does not sync what it relies on
	noFinish       saboteur = "no-finish"       // Open leaves what a Release that was cut short would have removed
	earlyMark      saboteur = "early-mark"      // the mark is written before the sync
)
