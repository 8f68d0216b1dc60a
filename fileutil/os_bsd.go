//go:build unix && !linux && !darwin

package fileutil

func syncData(o osFile) error { return o.f.Sync() }
