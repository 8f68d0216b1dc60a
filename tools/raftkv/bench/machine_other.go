//go:build !linux

package bench

import (
	"runtime"
	"time"
)

// Processor times are known on Linux only; elsewhere they are all 0.

func processTime(int) (time.Duration, error) { return 0, nil }

func busy() (time.Duration, error) { return 0, nil }

func own() (time.Duration, error) { return 0, nil }

func inMemory(string) bool { return false }

func platform() string { return runtime.GOOS }
