//go:build !linux

package crashfs_test

import "errors"

func mountSmall(string) error   { return errors.ErrUnsupported }
func unmountSmall(string) error { return nil }
