package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stele-wal/stele/wal"
)

// splitArchive splits a path into the archive that is part of it and a path inside of it. archive
// is "" if none is.
func (a *app) splitArchive(name string) (archive, inside string, err error) {
	for at := name; ; {
		info, err := a.fs.Stat(at)
		if err == nil {
			if info.Mode().IsRegular() && isArchive(at) {
				return at, inside, nil
			}
			return "", "", nil
		}
		up := filepath.Dir(at)
		if up == at || up == "." {
			return "", "", nil // the caller will find out what is wrong
		}
		at, inside = up, filepath.Join(filepath.Base(at), inside)
	}
}

func isArchive(name string) bool {
	return strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz") || strings.HasSuffix(name, ".tar")
}

// onlyLog returns the directory that holds segments, below one that an archive was unpacked to.
func onlyLog(dir, given string) (string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if at := filepath.Dir(name); err == nil && !e.IsDir() && strings.HasSuffix(name, ".wal") && !slices.Contains(found, at) {
			found = append(found, at)
		}
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(found) == 0:
		return "", &failure{
			code: exitFailed,
			err:  fmt.Errorf("%s: %w", given, wal.ErrNoLog),
			next: "look at what the archive holds, with tar -tf",
		}
	case err != nil:
		return "", unreadable(err)
	case len(found) > 1:
		for i := range found {
			if found[i], err = filepath.Rel(dir, found[i]); err != nil {
				return "", unreadable(err)
			}
		}
		return "", &failure{
			code: exitFailed,
			err:  fmt.Errorf("%s: %d logs in one archive: %s", given, len(found), strings.Join(found, ", ")),
			next: "name one of them: " + filepath.Join(given, found[0]),
		}
	}
	return found[0], nil
}

// Limits of what is unpacked, so that an archive cannot fill the disk.
const (
	maxUnpackedBytes = 16 << 30 // not counting blocks of zeros
	maxUnpackedFiles = 100_000
)

// unpack unpacks those files of an archive that belong to a log, below the path inside, into a
// temporary directory.
func (a *app) unpack(archive, inside string) (dir string, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var packed io.Reader = f
	if !strings.HasSuffix(archive, ".tar") {
		if packed, err = gzip.NewReader(f); err != nil {
			return "", err
		}
	}
	if dir, err = os.MkdirTemp("", "waldump-"); err != nil {
		return "", err
	}
	a.mu.Lock()
	a.unpacked = dir
	a.mu.Unlock()
	root, err := os.OpenRoot(dir) // nothing in the archive reaches outside
	if err != nil {
		return "", err
	}
	defer root.Close()
	u := unpacker{root: root, left: maxUnpackedBytes, zeros: make([]byte, block)}
	reader := tar.NewReader(packed)
	for files := 0; ; {
		header, err := reader.Next()
		if err == io.EOF {
			return dir, nil
		}
		if err != nil {
			return "", err
		}
		name := path.Clean(header.Name)
		if header.Typeflag != tar.TypeReg && header.Typeflag != tar.TypeGNUSparse || !belongsToLog(name) {
			continue
		}
		if inside := filepath.ToSlash(inside); inside != "" && name != inside && !strings.HasPrefix(name, inside+"/") {
			continue
		}
		if files++; files > maxUnpackedFiles || header.Size > maxUnpackedBytes {
			return "", fmt.Errorf("%s: too much to unpack: more than %d files, or one of more than %d bytes",
				header.Name, maxUnpackedFiles, int64(maxUnpackedBytes))
		}
		if err := u.file(name, header.Size, reader); err != nil {
			return "", inFile(name, err)
		}
	}
}

// inFile puts the name of a file into an error, unless it has it.
func inFile(name string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) && of.Path == name {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// belongsToLog leaves out what is not looked at, above all etcd's database, which is large.
func belongsToLog(name string) bool {
	switch path.Ext(name) {
	case ".wal", ".tmp", ".torn", ".broken", ".snap":
		return true
	}
	return false
}

// block is what file systems allocate at least.
const block = 4096

type unpacker struct {
	root  *os.Root
	left  int64 // bytes that may still be written
	zeros []byte
}

// file writes one file, with holes where there are only zeros: an etcd segment is 64 MB, and mostly
// zeros.
func (u *unpacker) file(name string, size int64, from io.Reader) error {
	if err := u.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = u.content(f, size, from)
	return errors.Join(err, f.Close())
}

func (u *unpacker) content(f *os.File, size int64, from io.Reader) error {
	buf := make([]byte, 64*block)
	for off := int64(0); off < size; {
		n, err := io.ReadFull(from, buf[:min(int64(len(buf)), size-off)])
		if err != nil {
			return err
		}
		for at := 0; at < n; at += block {
			b := buf[at:min(at+block, n)]
			if bytes.Equal(b, u.zeros[:len(b)]) {
				continue
			}
			if u.left -= int64(len(b)); u.left < 0 {
				return fmt.Errorf("more than %d bytes to unpack", int64(maxUnpackedBytes))
			}
			if _, err := f.WriteAt(b, off+int64(at)); err != nil {
				return err
			}
		}
		off += int64(n)
	}
	return f.Truncate(size) // a hole at the end has no block that would make the file as long
}
