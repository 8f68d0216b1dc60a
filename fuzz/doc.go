// Package fuzz attacks the log: it crashes it, rots it, and feeds it what no writer wrote. It is a
// house of rooms, each of which imports only rooms that come before it in this list:
//
//   - oracle knows what must be there: a model, which is a plain list of the records that were
//     attempted, and a judge. It shares no code with package wal.
//   - harness is what the campaigns share: power cuts by chance, a restart that is judged.
//   - crash takes logs through many lives on a file system that can lose power.
//   - faults has every operation of the file system fail, in every way in which it can.
//   - rot damages logs and snapshots in ways in which no crash does.
//
// Each campaign has saboteurs, which do one thing wrong. It must catch each of them; otherwise a
// count of zero would mean nothing. Crash and rot can judge another program on the same states.
//
// This package holds only tests: fuzz targets on whole directories and on frames, and a state
// machine against a slice. All campaigns together, with a table of their results, are tools/proof.
package fuzz
