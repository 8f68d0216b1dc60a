package faults

import (
	"errors"
	"io"
	"io/fs"

	"github.com/stele-wal/stele/fileutil"
)

// A Saboteur is a file system that does after an error what programs do wrong.
type Saboteur struct {
	Name string
	Wrap func(fileutil.FS) fileutil.FS
}

// Saboteurs returns file systems that do after an error what programs do wrong. A campaign of
// faults on each must fail.
func Saboteurs() []Saboteur {
	return []Saboteur{
		mishap("a sync that fails is tried again", bungler{syncAgain: true}),
		mishap("a sync that fails is forgotten", bungler{syncData: true}),
		mishap("a sync of a directory that fails is forgotten", bungler{syncDir: true}),
		mishap("a write that fails is forgotten", bungler{write: true}),
		mishap("a rename that fails is forgotten", bungler{rename: true}),
		mishap("a read that fails is the end of the file", bungler{read: true}),
		mishap("what cannot be listed is empty", bungler{readDir: true}),
		mishap("what a failed sync left in memory is read", bungler{dropCache: true}),
		mishap("a file that has failed is not closed", bungler{close: true}),
		mishap("the reason of an error is lost", bungler{reason: true}),
	}
}

// A bungler is a file system that forgets errors, of the operations that are set.
type bungler struct {
	fileutil.FS
	syncAgain, syncData, syncDir, write, rename, read, readDir, dropCache, close, reason bool
}

func mishap(name string, b bungler) Saboteur {
	return Saboteur{Name: name, Wrap: func(fsys fileutil.FS) fileutil.FS {
		b := b
		b.FS = fsys
		return &b
	}}
}

// said returns the error that a caller is told.
func (b *bungler) said(err error) error {
	if err != nil && b.reason && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return errors.New("something is wrong with " + err.Error())
	}
	return err
}

func (b *bungler) OpenFile(name string, flag int, perm fs.FileMode) (fileutil.File, error) {
	f, err := b.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, b.said(err)
	}
	return &bungled{File: f, b: b}, nil
}

func (b *bungler) OpenDir(name string) (fileutil.Dir, error) {
	d, err := b.FS.OpenDir(name)
	if err != nil {
		return nil, b.said(err)
	}
	return bungledDir{d, b}, nil
}

func (b *bungler) Rename(oldpath, newpath string) error {
	err := b.FS.Rename(oldpath, newpath)
	if b.rename {
		return nil
	}
	return b.said(err)
}

func (b *bungler) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := b.FS.ReadDir(name)
	if b.readDir && !errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	return list, b.said(err)
}

type bungledDir struct {
	fileutil.Dir
	b *bungler
}

func (d bungledDir) Sync() error {
	err := d.Dir.Sync()
	if d.b.syncDir {
		return nil
	}
	return d.b.said(err)
}

type bungled struct {
	fileutil.File
	b      *bungler
	failed bool
}

func (f *bungled) SyncData() error {
	err := f.File.SyncData()
	if err != nil && f.b.syncAgain {
		err = f.File.SyncData()
	}
	f.failed = f.failed || err != nil
	if f.b.syncData {
		return nil
	}
	return f.b.said(err)
}

func (f *bungled) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	f.failed = f.failed || err != nil
	if f.b.write {
		return len(p), nil
	}
	return n, f.b.said(err)
}

func (f *bungled) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if f.b.read && err != nil {
		return n, io.EOF
	}
	return n, f.b.said(err)
}

func (f *bungled) DropCache() error {
	if f.b.dropCache {
		return nil
	}
	return f.File.DropCache()
}

func (f *bungled) Close() error {
	if f.b.close && f.failed {
		return nil
	}
	return f.File.Close()
}
