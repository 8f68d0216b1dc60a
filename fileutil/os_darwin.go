package fileutil

// syncData leaves it to os.File.Sync, which on darwin uses F_FULLFSYNC: fsync there does not empty
// the drive's cache.
func syncData(o osFile) error { return o.f.Sync() }
