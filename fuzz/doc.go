// Package fuzz attacks the log: it crashes it, rots it, and feeds it what no writer wrote.
//
// [Run] is the crash campaign. It takes a log through several lives on a file system that can lose power, package crashfs. In
// each life it saves entries and hard states, overwrites entries, records snapshots, cuts and releases segments; each
// life ends in a clean Close, a kill or a power cut. At every change of the file system on the way it asks what a power cut
// there could leave, and opens that. Three things are counted, and each must be zero:
//
//   - refused: a log that did not open by itself after a mere crash, or that said no to a legal call,
//   - lost: what was acknowledged, or what an earlier Open had shown, and is not there,
//   - invented: what was never saved, or was not there at an earlier Open and has come back.
//
// What should be there is known from a model, which is a plain list of the records that were attempted. It shares no code with
// package wal.
//
// A [Saboteur] is a file system that does one thing less than it says. The campaign must catch each; otherwise a count of
// zero would mean nothing.
//
// The tests of the package hold the rest: what every flipped bit, zeroed sector and lost file of a small log comes to; a
// fuzz target on whole directories; and a state machine against a slice.
package fuzz
