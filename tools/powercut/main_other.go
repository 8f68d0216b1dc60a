//go:build !linux

// Powercut needs Linux: it makes Linux mount file systems on a disk that it can cut the power of.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "powercut: SKIPPED, nothing was tested: it needs Linux")
}
