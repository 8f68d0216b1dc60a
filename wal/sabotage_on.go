//go:build sabotage

package wal

import "os"

var spoilt = saboteur(os.Getenv("STELE_SABOTEUR"))

func sabotaged(s saboteur) bool { return s == spoilt }
