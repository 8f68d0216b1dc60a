package main

import (
	"fmt"
	"os"
	"syscall"
)

// deathsig has a member die with the test, however that ends.
func deathsig() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// loopback is where members listen. It is not where connections come from, so that none of those
// takes the port of a member that is down.
func loopback() string { return fmt.Sprintf("127.%d.%d.1", 1+os.Getpid()>>8%250, os.Getpid()%256) }
