//go:build !linux

package main

import "syscall"

func deathsig() *syscall.SysProcAttr { return nil }

func loopback() string { return "127.0.0.1" }
