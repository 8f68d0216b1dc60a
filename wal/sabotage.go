//go:build !sabotage

package wal

// sabotaged reports whether this build is spoilt in one of the ways that saboteurs.go lists. It is
// not: the campaigns build one that is, to find out whether they notice.
func sabotaged(saboteur) bool { return false }
