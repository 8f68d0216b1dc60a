// Package fuzz attacks the log: it crashes it, rots it, and feeds it what no writer wrote.
//
// [Run] is the crash campaign. It takes a log through several lives on a file system that can lose
// power, package crashfs. In each life it saves entries of all types and hard states with and
// without a vote, overwrites entries, records snapshots with ConfStates of all forms, cuts and
// releases segments; in half of the histories the snapshots have files, in package snap's forms,
// and the old ones go; now and then the log is repaired before it is opened. Each life ends, also
// inside Open and Repair, in a clean Close, a kill or a power cut, and some directories see sixty.
// At changes of the file system on the way it asks what a power cut there could leave, opens that,
// and crashes the recovery as well, two deep. A log with NoSync promises nothing of power cuts, so
// those are only killed, until an Open that syncs makes up for it. The lives of half of the
// histories differ in their options. In every fourth the disk is full at times, and the next life
// finds it so; and where there are no snapshots' files, the process has no descriptor left at
// times. The same files are opened once in a life. Three things are counted, and each must be zero:
//
//   - refused: a log that did not open by itself after a mere crash, or that said no to a legal
//     call, or a panic,
//   - lost: what was acknowledged, or what an earlier Open had shown, and is not there,
//   - invented: what was never saved, or was not there at an earlier Open and has come back; or
//     that a call was taken which no reader would follow, of those that are made on purpose now and
//     then, or that something was written for one that was refused.
//
// [RunExhaustive] tries all that a crash can leave at most moments of a few short histories, and
// says at how many.
//
// What should be there is known from a model, which is a plain list of the records that were
// attempted. It shares no code with package wal.
//
// A [Saboteur] is a file system that does one thing less than it says. The campaign must catch
// each; otherwise a count of zero would mean nothing.
//
// [Faults] is the campaign of faults. It makes every operation of the file system fail, in every
// way in which it can, in programs that use the log and the snapshots, and has them stop, call
// again, go on or start again. No error may be swallowed or name a file twice, nothing may be
// acknowledged after the first, and what only failed to read must not be touched. Its saboteurs are
// [FaultSaboteurs].
//
// [Rot] is the campaign of damage that no crash does. It flips every bit of several logs, zeroes,
// sets, tears and mixes up their sectors, cuts and lengthens, loses and swaps their files, and
// counts what is silent: other content than was saved, or less, and nothing said. That must be zero
// too, but for what wal/FORMAT.md says cannot be detected, which is counted apart, by its reason.
// [RotSnapshots] does the same to snapshots.
//
// The crash campaign and this one can judge another program on the same states: [Recover],
// [RotRecover].
//
// The tests of the package hold the rest: a fuzz target on whole directories, and a state machine
// against a slice.
package fuzz
