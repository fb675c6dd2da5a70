package repository

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/snapshot"
)

// A file whose time, size, mode and owner are those of the last snapshot is
// not read again. That is wrong for one that changed twice within the grain of
// a file system's clock, once before the last snapshot and once after (what Git
// calls racily clean: git-scm.com/docs/racy-git). So what was as new as the
// newest file of the last snapshot is read again; blocks that did not change
// are found, and are not moved.
const grain = 2 * time.Second

// fresh hides from the uploader the times of files that are too new to tell.
func fresh(e fs.Entry, previous []*snapshot.Manifest) fs.Entry {
	d, ok := e.(fs.Directory)
	if !ok {
		return e
	}
	var newest time.Time
	for _, m := range previous {
		if m.RootEntry == nil || m.RootEntry.DirSummary == nil {
			continue
		}
		if t := m.RootEntry.DirSummary.MaxModTime.ToTime(); newest.IsZero() || t.Before(newest) {
			newest = t
		}
	}
	if newest.IsZero() {
		return e
	}
	return &freshDir{Directory: d, since: newest.Add(-grain)}
}

type freshDir struct {
	fs.Directory
	since time.Time
}

func (d *freshDir) Iterate(ctx context.Context) (fs.DirectoryIterator, error) {
	it, err := d.Directory.Iterate(ctx)
	return &freshIterator{it, d.since}, err
}

type freshIterator struct {
	fs.DirectoryIterator
	since time.Time
}

func (i *freshIterator) Next(ctx context.Context) (fs.Entry, error) {
	e, err := i.DirectoryIterator.Next(ctx)
	switch e := e.(type) {
	case fs.Directory:
		return &freshDir{Directory: e, since: i.since}, err
	case fs.File:
		if e.ModTime().After(i.since) {
			return &freshFile{File: e}, err
		}
	}
	return e, err
}

// freshFile has no time until it is opened: then the uploader has compared it
// with the last snapshot, and takes down its time.
type freshFile struct {
	fs.File
	opened atomic.Bool
}

func (f *freshFile) ModTime() time.Time {
	if f.opened.Load() {
		return f.File.ModTime()
	}
	return time.Time{}
}

func (f *freshFile) Open(ctx context.Context) (fs.Reader, error) {
	f.opened.Store(true)
	return f.File.Open(ctx)
}
