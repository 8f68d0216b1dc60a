package main

import "syscall"

// deathsig has a member die with the test, however that ends.
func deathsig() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
