// Unmarked damages etcd's logs at random, and counts what package wal makes of it: there are no
// witnesses in them and no mark beside them, so of some damage no reader can know whether it was
// durable. It says of how much.
//
//	go run ./tools/interop/cmd/unmarked [-times n] [-seed n] testdata/testlogs/etcd/3.*-small.tar.gz testdata/testlogs/etcd/3.7-kill9.tar.gz
//
// Each argument is an archive of one log or several. Each log is damaged as often as -times says in
// each of four ways: one bit is flipped, a sector is zero, some pages are zero, a segment is cut
// off; always where something was written.
package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/stele-wal/stele/tools/interop"
)

func main() {
	times := flag.Int("times", 1000, "how often to damage each log in each way")
	seed := flag.Uint64("seed", 1, "the `seed` of what is random")
	flag.Parse()
	if err := run(flag.Args(), *seed, *times); err != nil {
		fmt.Fprintln(os.Stderr, "unmarked:", err)
		os.Exit(1)
	}
}

func run(archives []string, seed uint64, times int) error {
	if len(archives) == 0 {
		return errors.New("name the archives of the logs")
	}
	var logs []*interop.UnmarkedLog
	for _, archive := range archives {
		dirs, err := unpack(archive)
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		for _, dir := range slices.Sorted(maps.Keys(dirs)) {
			l, err := interop.NewUnmarkedLog(dir, dirs[dir])
			if err != nil {
				return fmt.Errorf("%s: %w", archive, err)
			}
			logs = append(logs, l)
		}
	}
	rows, err := interop.RotUnmarked(logs, seed, times)
	if err != nil {
		return err
	}
	fmt.Printf("seed %d, %d logs\n%s", seed, len(logs), interop.UnmarkedTable(rows))
	return nil
}

// unpack returns the segments in an archive, by directory and name.
func unpack(archive string) (dirs map[string]map[string][]byte, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	dirs = map[string]map[string][]byte{}
	for t := tar.NewReader(unzipped); ; {
		header, err := t.Next()
		if err == io.EOF {
			return dirs, nil
		}
		if err != nil {
			return nil, err
		}
		dir, name := path.Split(header.Name)
		if path.Ext(name) != ".wal" {
			continue
		}
		if dirs[dir] == nil {
			dirs[dir] = map[string][]byte{}
		}
		if dirs[dir][name], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}
