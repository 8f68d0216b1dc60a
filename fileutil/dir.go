package fileutil

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// dirPerm is the mode of new directories, before the umask: as in etcd, only the owner has access.
const dirPerm = 0o700

// MkdirAll makes a directory, with all of its parents that are not there, for their owner alone.
//
// If it returns nil the directory survives a crash, and so do its parents. Those that were there
// already are synced too: the process that made them may have crashed before it could. A parent
// that this process may not read, or that cannot be synced at all, is taken for durable if nothing
// was made in it. The error is what the file system returned; what was made by then stays. Calls
// may be concurrent, for the same directory too.
func MkdirAll(fsys FS, dir string) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if parent == dir {
		return nil // the root, or the working directory
	}
	if err := MkdirAll(fsys, parent); err != nil {
		return err
	}
	_, err := fsys.Stat(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	if missing {
		if err = fsys.Mkdir(dir, dirPerm); errors.Is(err, fs.ErrExist) {
			err = nil // another was faster
		}
	}
	if err != nil {
		return err
	}
	err = SyncDir(fsys, parent)
	if !missing && foreign(err) {
		return nil
	}
	return err
}

// foreign reports whether an error of syncing a directory is one that will not change, and that
// does not come from the disk.
func foreign(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) ||
		errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EROFS)
}

// ParseHex reads a number as %016x writes it, and nothing else: sixteen digits, lower case. Names
// of files hold numbers in this form, so that they sort by their numbers.
func ParseHex(s string) (n uint64, ok bool) {
	if len(s) != 16 {
		return 0, false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			n = n<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}
