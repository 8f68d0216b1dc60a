package fuzz

// Known defects of package wal, which the campaign steps around so that it can find others.
const (
	knownUnsyncedParents   = true // Create leaves a parent directory's name undurable that an earlier process made
	knownNameBehindPending = true // Records(dir, s.Index) can begin behind the record of snapshot s
	knownSpareTwice        = true // a batch that begins a segment and fills it takes the spare twice: nil dereference
)
