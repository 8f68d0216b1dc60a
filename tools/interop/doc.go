// Package interop holds this project's log against etcd's: the real package, as its users import
// it, is the oracle.
//
// It has what its tests and cmd/bitflips share: histories that a raft member could have written
// ([Generator]), the plain model of what such a history adds up to ([Model]), one way to write a
// history with each of the two packages ([Ours], [Etcd]), and the count of what either says to each
// flipped bit ([FlipOurs], [FlipEtcd]). [ControlRot] and [ControlCrashes] have the campaigns
// below fuzz judge etcd's package beside ours, on the same states, and [ControlOpened]
// what etcd makes of a log after a crash that ours has opened; cmd/control prints what they count.
// [RotUnmarked] says how much random damage to etcd's logs is cut off as torn, and how much of that
// could have been known; cmd/unmarked prints it.
//
// etcd's segment size is a variable of its package, so nothing here may run in parallel with a log
// that etcd writes.
package interop
