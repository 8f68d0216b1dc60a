package wal

import "bytes"

// arena copies many small byte slices into few large ones.
type arena struct{ free []byte }

const arenaSize = 1 << 20

// It grows to that, so that a small log takes little.
const firstArena = 4 << 10

// copy returns a copy of b, nil for nil.
func (a *arena) copy(b []byte) []byte {
	switch {
	case len(b) == 0, len(b) > arenaSize/8:
		return bytes.Clone(b) // of nothing is nothing, of empty empty
	case len(b) > cap(a.free)-len(a.free):
		a.free = make([]byte, 0, max(len(b), min(arenaSize, max(firstArena, 2*cap(a.free)))))
	}
	n := len(a.free)
	a.free = append(a.free, b...)
	return a.free[n : n+len(b) : n+len(b)]
}
