//go:build !linux

package main

import "syscall"

func deathsig() *syscall.SysProcAttr { return nil }
