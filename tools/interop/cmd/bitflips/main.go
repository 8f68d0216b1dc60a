// Bitflips flips each bit of a log, one at a time, and counts what ours and etcd's package make of
// it.
//
//	go run ./cmd/bitflips [-stride n]
//
// The two logs have the same content, three segments each, and were closed cleanly. There is no
// randomness in it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stele-wal/stele/tools/interop"
)

func main() {
	stride := flag.Int("stride", 1, "flip one bit of each n")
	flag.Parse()
	if err := run(*stride); err != nil {
		fmt.Fprintln(os.Stderr, "bitflips:", err)
		os.Exit(1)
	}
}

func run(stride int) error {
	root, err := os.MkdirTemp("", "bitflips")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	ours, theirs, err := interop.NewFlips(root)
	if err != nil {
		return err
	}
	check, open := interop.FlipOurs(ours, stride, nil)
	read, start, err := interop.FlipEtcd(theirs, filepath.Join(root, "flipped"), stride)
	if err != nil {
		return err
	}
	fmt.Printf("every %d. bit of %d (ours) and %d (etcd); no seed, nothing is random\n", stride, ours.Bits(), theirs.Bits())
	fmt.Print(interop.Table([]string{"ours Check", "ours Open+Replay", "etcd ReadAll", "etcd Open+Repair"}, []interop.Counts{check, open, read, start}))
	if n := check[interop.Silent] + open[interop.Silent] + check[interop.Panicked] + open[interop.Panicked]; n > 0 {
		return fmt.Errorf("%d flips of our log were silent or made it panic", n)
	}
	return nil
}
