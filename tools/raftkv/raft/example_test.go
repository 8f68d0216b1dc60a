package raft_test

import (
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/stele-wal/stele/tools/raftkv/raft"
)

// Three peers agree on three commands. A program of one's own calls Make once, for the peer that it
// is.
func Example() {
	dir, err := os.MkdirTemp("", "raft")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var peers []string
	var listeners []net.Listener
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		listeners = append(listeners, l)
		peers = append(peers, "http://"+l.Addr().String())
	}
	var rafts []*raft.Raft
	var channels []chan raft.ApplyMsg
	for me, l := range listeners {
		applied := make(chan raft.ApplyMsg)
		rf, err := raft.Make(peers, me, filepath.Join(dir, fmt.Sprint(me)), applied, &raft.Options{Listener: l})
		if err != nil {
			log.Fatal(err)
		}
		defer rf.Kill()
		rafts, channels = append(rafts, rf), append(channels, applied)
	}

	for _, command := range []string{"x=1", "y=2", "x=3"} {
		// The leader takes it; until there is one, all are asked again.
		var index uint64
		for index == 0 {
			for _, rf := range rafts {
				if i, _, isLeader := rf.Start([]byte(command)); isLeader {
					index = i
					break
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		// It is committed once it comes out of the channels, at that index.
		for me, applied := range channels {
			m := <-applied
			fmt.Printf("%d: %s %v\n", me, m.Command, m.CommandIndex == index)
		}
	}
	// Output:
	// 0: x=1 true
	// 1: x=1 true
	// 2: x=1 true
	// 0: y=2 true
	// 1: y=2 true
	// 2: y=2 true
	// 0: x=3 true
	// 1: x=3 true
	// 2: x=3 true
}
